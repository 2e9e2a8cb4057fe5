"""Trials at once, each in a process of its own: the port, and its adapters."""
