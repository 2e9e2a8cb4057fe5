"""Raw events in, records and rejects out."""
