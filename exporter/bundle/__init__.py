"""One folder for a device: built, checked, signed, taken to other servers."""
