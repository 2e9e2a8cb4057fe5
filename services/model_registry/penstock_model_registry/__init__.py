"""Pipelines, versions, signatures, promotion."""
