"""The front door: Envoy's files, what it lets in, and whether it is open."""
