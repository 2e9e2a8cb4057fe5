"""The prediction record: the door's log, read and published exactly once."""
