"""What is trained, and by which loss: a file a method, each named as its paper names it."""
