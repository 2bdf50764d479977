"""What an encoder can be exported to: one module a family, ``registry.py`` lists them all."""
