"""What Triton serves, brought to what is promoted."""
