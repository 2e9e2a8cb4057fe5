"""Runs in, model packages out."""
