"""The ONNX side: ops as nodes with their functions, one graph a model."""
