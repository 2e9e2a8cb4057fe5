"""Revisions of the tables in store.py."""
