"""The network in floats and in integers, and how one becomes the other."""
