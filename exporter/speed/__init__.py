"""What a token costs: measured, predicted, beside others."""
