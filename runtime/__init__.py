"""What runs on the device: bundles, engines, states, generation; numpy, tokenizers, one inference library."""
