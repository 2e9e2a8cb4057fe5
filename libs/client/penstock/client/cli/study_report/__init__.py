"""The report of a study: one HTML page, from what the tuner says of it."""
