"""Video generators, and the code that lists, plans and runs them."""
