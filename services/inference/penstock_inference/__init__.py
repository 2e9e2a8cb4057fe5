"""Inference: models on Triton, Envoy's configuration, the prediction record."""
