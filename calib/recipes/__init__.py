"""Policy as data: which observer, which rounding, which rewrites, in TOML."""
