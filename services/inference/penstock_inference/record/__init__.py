"""Prediction record: the door's log, read and published exactly once."""
