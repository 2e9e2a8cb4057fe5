"""Revisions of the feature store's tables."""
