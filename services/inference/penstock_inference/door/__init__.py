"""Front door: Envoy's files, its routes, and whether it is open."""
