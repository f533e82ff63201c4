"""HTML pages of results, without network."""
