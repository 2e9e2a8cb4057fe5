"""What Triton serves, Envoy's routes, the prediction record."""
