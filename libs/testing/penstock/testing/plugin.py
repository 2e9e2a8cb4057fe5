"""Fixtures for every test in the repository; the root conftest.py loads this module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from penstock.testing.broker import EmbeddedKafka, Kafka


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A broker for the session: the one at $PENSTOCK_TEST_KAFKA, else an embedded one on a free port, ended with the session."""
    if given := os.environ.get("PENSTOCK_TEST_KAFKA"):
        yield Kafka(given)
        return
    with EmbeddedKafka() as broker:
        yield broker
