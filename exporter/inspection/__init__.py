"""What is in an artefact: scales, widths, sizes."""
