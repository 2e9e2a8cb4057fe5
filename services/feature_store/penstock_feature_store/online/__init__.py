"""Newest row of each entity, through Feast, in SQLite or Redis."""
