"""How a scale is chosen: a file an observer."""
