"""Many models of one checkpoint, calibrated and scored."""
