"""Copies the lake to the online store, in a thread of its own: a batch behind it in the steady
state, from the start after a loss.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from confluent_kafka import KafkaException

from penstock.contracts import metrics
from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.topics import source_topic
from penstock.runtime.dead_letters import Reject
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.metrics import histogram
from penstock.runtime.readiness import Readiness
from penstock_feature_store import names
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.pipelines import Owned, Pipelines, apart

log = structlog.get_logger(__name__)
_DELAY = histogram(metrics.ONLINE_DELAY)

# Rows coalesced to the newest of each entity in one go. Feast writes some thousands a second, so a
# step takes less than a second.
STEP = 2_000
STOP_WITHIN_S = 0.5
LOOK_AGAIN_S = 5.0  # without an arrival: a store that was made anew or set back has less than it had
AGAIN_S = 1.0  # before the next try after the store did not answer
QUIET_S = 3.0  # after which a burst is over: this thread finishes it last and gives back its memory
CHECK_EVERY_S = 2.0


class OnlineWriter:
    """The position is saved after the rows: after a crash some are written again, which changes nothing."""

    def __init__(self, pipelines: Pipelines, arrivals: Arrivals, reject: Reject) -> None:
        self._pipelines = pipelines
        self._reject = reject
        self._arrivals = arrivals
        self.trouble = ""  # why the last rows could not be written

    def run(self, stop: threading.Event) -> None:
        worked = False
        while not stop.is_set():
            count = self._arrivals.count
            try:
                for held in self._pipelines.all():
                    for source in held.lakes:
                        with apart("online", pipeline=held.pipeline.pipeline, source=source):
                            while not stop.is_set() and step(held, source, self._reject):
                                worked = True
            except (Unavailable, KafkaException) as error:
                if not self.trouble:
                    log.warning("online_store_away", why=str(error))
                self.trouble = str(error)
                stop.wait(AGAIN_S)
                continue
            self.trouble = ""
            idle_since = time.monotonic()
            while (
                self._arrivals.count == count
                and not stop.is_set()
                and time.monotonic() - idle_since < LOOK_AGAIN_S
            ):
                self._arrivals.wait_blocking(count, STOP_WITHIN_S)
                if worked and time.monotonic() - idle_since > QUIET_S:
                    worked = False
                    _give_back_memory()

    async def tell_trouble(self, stores: OnlineStores, readiness: Readiness) -> None:
        """Tells readiness why the shared online store cannot be used, as long as it cannot."""
        while True:
            try:
                await asyncio.to_thread(stores.check)
                trouble = self.trouble
            except Unavailable as error:
                trouble = error.message
            if trouble:
                readiness.waits_for("online store", trouble)
            else:
                readiness.has("online store")
            await asyncio.sleep(CHECK_EVERY_S)


def step(held: Owned, source: str, reject: Reject) -> bool:
    """Writes the next rows online; False when there are none. A row that the store cannot hold becomes
    a dead letter. Raises Unavailable, and KafkaException where that is not acknowledged.

    Rows are read and written under one lock with erasures: none that left the lake can come back from here.
    """
    with held.gate.online:
        if held.gone:
            return False
        rows = held.lakes[source].since(held.writer.positions(source), STEP)
        try:
            partition, position, table = next(rows)
        except StopIteration:
            return False
        except FileNotFoundError:  # merged meanwhile
            return True
        if unfit := list(_unfit(held, source, table)):
            records = Partition(source_topic("records", held.pipeline.pipeline, source), partition)
            reject(records, unfit)
        held.writer.save(source, {partition: position})
        published: datetime | None = pc.min(table.column(names.INGESTED)).as_py()
        if published is not None:
            delay = max(0.0, (datetime.now(UTC) - published).total_seconds())
            _DELAY.record(delay, {"pipeline": held.pipeline.pipeline, "source": source})
        return True


def _unfit(held: Owned, source: str, table: pa.Table) -> Iterator[tuple[int, Exception]]:
    """Writes the rows, halves of them where they cannot be written together; yields the offsets of those
    that cannot be alone, each with the reason. Rows may be written again.
    """
    try:
        held.writer.write(source, table)
    except (ArithmeticError, TypeError, ValueError) as error:  # of a value, not of the store
        if table.num_rows > 1:
            half = table.num_rows // 2
            yield from _unfit(held, source, table.slice(0, half))
            yield from _unfit(held, source, table.slice(half))
        else:
            why = Invalid(f"the online store cannot hold it ({type(error).__name__})", where=source)
            yield table.column(names.RECORD)[0].as_py(), why


def behind(held: Owned, source: str) -> int:
    """Counts the rows of one source that wait to go online. Raises Unavailable."""
    return held.lakes[source].count(names.ID, since=held.writer.positions(source))


def _give_back_memory() -> None:
    """Arrow and the C library keep freed memory for the next burst. Takes tens of milliseconds."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
