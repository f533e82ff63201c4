"""The HTTP server over a bundle; needs the `serve` extra besides the runtime's own."""
