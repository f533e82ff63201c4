"""How a weight becomes integers: a file a way of rounding."""
