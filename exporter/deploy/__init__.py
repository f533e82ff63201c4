"""A bundle onto devices: transport, preflight, installation, switch; device/ is what runs there."""
