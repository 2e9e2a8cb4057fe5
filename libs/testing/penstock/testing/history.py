"""A service's history after a lost database, told by a test instead of Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from penstock.contracts.events import Event, encode
from penstock.runtime.cloud_events import Received
from penstock.runtime.history import History


async def restored(history: History, announced: Iterable[Event]) -> None:
    """Returns when it knows these, in their order, as all that its topics hold."""
    assert history.router is not None
    restoring = asyncio.create_task(history.restore())
    for event in announced:
        await history.router.replay(Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event)))
    assert not restoring.done()
    for topic in history.router.replayed_topics:
        history.router.mark_caught_up(topic)
    await asyncio.wait_for(restoring, 10)
    await history.known()
