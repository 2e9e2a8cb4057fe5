"""Fixtures and suites that the tests share."""
