"""Each entity's newest row, through Feast, in SQLite or Redis."""
