"""The embedded stack: Kafka, Triton, Envoy and the services on one machine."""
