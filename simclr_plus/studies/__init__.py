"""The paper's studies: each is a plan, cells of recipe and measures, and a page that draws the paper's figure again."""
