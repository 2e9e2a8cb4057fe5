"""Fixtures of the control plane's tests; other files have a `settings` and a `store` of their own.
Modules that tests share stand in `support/`.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # each takes a second to load, which most files here do without
    from control_plane import Topics

    from penstock.runtime.settings import KafkaSettings
    from penstock.runtime.store import Store
    from penstock.testing.broker import Kafka

# pytest's importlib mode lets tests share modules in no other way
sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle consumer's poll is what each stop waits for, and so what most of these tests last."""
    for module in ("consumer", "replay"):
        monkeypatch.setattr(f"penstock.runtime.{module}.POLL_S", 0.1)


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    """A prefix of its own for each test."""
    from control_plane import TOPICS

    from penstock.runtime.kafka.admin import ensure_topics

    made = kafka.settings(f"cp-{uuid.uuid4().hex[:8]}.")
    ensure_topics(made, TOPICS)
    return made


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    from control_plane import Tables

    from penstock.runtime.store import Store

    opened = Store.open(database, Tables.metadata)
    yield opened
    opened.close()


@pytest.fixture
def topics(settings: KafkaSettings) -> Topics:
    from control_plane import Topics

    return Topics(settings)
