"""Engines from a graph: fused, built, checked before the bundle is called good."""
