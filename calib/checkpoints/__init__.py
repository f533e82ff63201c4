"""A checkpoint on disk or on the hub: sizes, tensors, tokenizer."""
