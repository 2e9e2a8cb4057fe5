"""Studies in, a better configuration or none out."""
