"""What scales and states cost, measured layer by layer."""
