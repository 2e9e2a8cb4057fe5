"""Tells a service the past that its topics hold, in Kafka's place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

from penstock.contracts.events import Event, encode
from penstock.runtime.cloud_events import Received
from penstock.runtime.readiness import Readiness
from penstock.runtime.restore import Phases, Restored


async def restored(state: Restored, announced: Iterable[Event]) -> None:
    """Returns when these, in their order, are restored as all that the topics hold."""
    await state.look()
    assert state.router is not None
    phases = Phases(Readiness(lambda: datetime.now(UTC)), answer=lambda: None)
    phases.add(state, before_calls=True)
    restoring = asyncio.create_task(phases.run())
    topics = state.router.replayed_topics
    for event in announced:
        received = Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event))
        await state.router.replay(received, left_out)
    assert not restoring.done()
    for topic in topics:
        state.router.mark_caught_up(topic)
    await asyncio.wait_for(restoring, 10)
    assert state.complete


async def left_out(_received: Received, _error: Exception, _tries: int) -> None:
    """Ignores the dead letter, which is nobody's concern here."""
