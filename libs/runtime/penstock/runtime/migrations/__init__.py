"""Revisions of the runtime's own tables."""
