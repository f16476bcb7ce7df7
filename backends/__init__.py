"""The generators, and what lists, plans and runs them."""
