"""Gateway: reads what Triton is not trusted to read, and asks Triton over gRPC."""
