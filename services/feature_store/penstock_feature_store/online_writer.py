"""From the lake to the online store, in a thread of its own: a batch behind it in the steady state, from the start after a loss."""

from __future__ import annotations

import threading
import time

from penstock_feature_store import names
from penstock_feature_store.arrivals import Arrivals
from penstock_feature_store.memory import give_back
from penstock_feature_store.pipelines import Held, Pipelines

STEP = 2_000
"""Rows coalesced to the newest of each entity in one go. Feast writes some thousands a second, so a step takes less than a second."""
STOP_WITHIN_S = 0.5
QUIET_S = 3.0
"""After the last row: this thread is the last to finish a burst, so it gives back the burst's memory."""


class OnlineWriter:
    """The position is saved after the rows: after a crash some are written again, which changes nothing."""

    def __init__(self, pipelines: Pipelines, arrivals: Arrivals) -> None:
        self._pipelines = pipelines
        self._arrivals = arrivals

    def run(self, stop: threading.Event) -> None:
        worked = False
        while not stop.is_set():
            count = self._arrivals.count
            for held in self._pipelines.all():
                for source in held.lakes:
                    while not stop.is_set() and step(held, source):
                        worked = True
            idle_since = time.monotonic()
            while self._arrivals.count == count and not stop.is_set():
                self._arrivals.wait_blocking(count, STOP_WITHIN_S)
                if worked and time.monotonic() - idle_since > QUIET_S:
                    worked = False
                    give_back()


def step(held: Held, source: str) -> bool:
    """Writes the next rows online; False when there are none.

    Rows are read and written under one lock with erasures: none that left the lake can come back from here.
    """
    with held.online:
        rows = held.lakes[source].since(held.positions.read(source), STEP)
        try:
            partition, position, table = next(rows)
        except StopIteration:
            return False
        except FileNotFoundError:  # merged meanwhile
            return True
        held.writer.write(source, table)
        held.positions.save(source, {partition: position})
        return True


def rows_behind(held: Held) -> int:
    """Rows of the lake that are not online yet."""
    return sum(lake.count(names.ID, since=held.positions.read(source)) for source, lake in held.lakes.items())
