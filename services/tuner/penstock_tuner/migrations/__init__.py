"""Alembic revisions of the tuner's tables."""
