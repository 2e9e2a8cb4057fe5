"""Open Inference Protocol v2 as the door takes it: one reading of a request, by gateway and record."""
