"""Audits, reviews, evidence."""
