"""What a machine has, lacks or has wrong."""
