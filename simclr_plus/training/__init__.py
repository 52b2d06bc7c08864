"""How a network is trained: the loop, and the model that it trains."""
