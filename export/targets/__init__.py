"""Export targets, one module per family; ``registry.py`` lists them."""
