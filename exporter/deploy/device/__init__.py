"""What `deploy` runs on the device: Python's standard library and runtime/errors.py only, sent over SSH."""
