"""Measures of quality and fairness, with bootstrap intervals."""
