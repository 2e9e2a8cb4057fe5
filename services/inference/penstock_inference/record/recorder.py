"""Recorder: publishes each line of the door's log to `<p>.predictions.v1` exactly once
(`publisher.py` says how).

One recorder per door: a lock in the log's folder keeps a second one of this machine waiting; the
transactional id fences one that is still running elsewhere, which then stops for good.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import structlog

from penstock.contracts import metrics
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.kafka.spans import linked_span
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.readiness import Readiness
from penstock.runtime.telemetry import context_of
from penstock.serving.model import Layouts
from penstock_inference.record.origin import Origins
from penstock_inference.record.publisher import GROUP, Publisher
from penstock_inference.record.reading import Read, read_lines
from penstock_inference.record.spool import Position, Tail

log = structlog.get_logger(__name__)
_PREDICTIONS = histogram(metrics.PREDICTIONS)
_ROWS = counter(metrics.PREDICTED_ROWS)
_LINES = counter(metrics.RECORDED)

# Seconds between two looks at the log. A transaction costs the broker and this process some 15 ms of a
# core, however few predictions it holds: the more come, the longer they are gathered.
EVERY_S: Final = 0.25
BUSY_EVERY_S: Final = 0.75
BUSY_FROM: Final = 100  # lines of the last look; where more wait already, the next follows at once
COMMIT_AGAIN_S: Final = 3600.0  # seconds after which a position is committed again, lest Kafka forget it
REMEDY: Final = (
    "Run one inference service per front door, or give each its own PENSTOCK_INFERENCE__REPLICA and home"
)


class Recorder:
    """Reader and publisher of the log, in one thread."""

    def __init__(
        self,
        folder: Path,
        publisher: Callable[[], Publisher],
        layouts: Layouts,
        ensure_topic: Callable[[str], None],
        tidy: Callable[[Tail, Position | None], None],
        *,
        origins: Origins | None = None,
        status: Readiness | None = None,
    ) -> None:
        """`folder` holds the door's log; `publisher` makes the publisher of a session, and blocks;
        `ensure_topic` makes a pipeline's topic when it is missing, and raises Unavailable;
        `tidy` is called between batches: rotation, deletion; `origins` believes which events a
        prediction by entity was made from.
        """
        self.backlog_bytes = 0  # size of the log that is not published yet. Read from any thread
        self._folder = folder
        self._publisher = publisher
        self._layouts = layouts
        self._ensure_topic = ensure_topic
        self._tidy = tidy
        self._origins = origins
        self._status = status
        self._recovery = Recovery(GROUP, status, thing="record", remedy=REMEDY)
        self._recorded = 0

    def run(self, stop: threading.Event) -> None:
        """Records until `stop` is set. Raises ClientFailed; waits out everything that passes."""
        with _locked(self._folder / "recorder.lock", stop):
            self._recovery.run(stop, lambda: self._session(stop))

    def _session(self, stop: threading.Event) -> None:
        publisher = self._publisher()
        self._recovery.back()
        position = publisher.position
        log.info(
            "recorder_begins",
            file=position.file if position else None,
            offset=position.offset if position else 0,
        )
        with closing(Tail(self._folder, position)) as tail:
            while not stop.is_set():
                lines = tail.read()
                if lines:
                    self._publish(publisher, lines.lines, lines.position)
                    self._recovery.progressed()
                elif publisher.position and time.monotonic() - publisher.committed_at > COMMIT_AGAIN_S:
                    publisher.publish([], publisher.position)
                self._look_around(tail, publisher.position)
                if not lines or not lines.full:
                    busy = lines is not None and len(lines.lines) >= BUSY_FROM
                    stop.wait(BUSY_EVERY_S if busy else EVERY_S)

    def _look_around(self, tail: Tail, position: Position | None) -> None:
        self.backlog_bytes = tail.backlog_bytes()
        if self._status:
            self._status.fact(
                "record", f"{self._recorded} predictions recorded, {self.backlog_bytes} bytes behind"
            )
        self._tidy(tail, position)

    def _publish(self, publisher: Publisher, lines: list[bytes], position: Position) -> None:
        read = read_lines(lines, self._layouts, self._origins)
        for pipeline in {outcome.pipeline for outcome in read.outcomes}:
            if not publisher.has_topic(pipeline):
                self._ensure_topic(pipeline)
        traces = (outcome.traceparent.encode() for outcome in read.outcomes if outcome.traceparent)
        with linked_span(
            "record predictions",
            traces,
            {"messaging.system": "kafka", "messaging.batch.message_count": len(read.messages)},
        ):
            publisher.publish(read.messages, position)
        self._recorded += len(read.messages)
        _measure(read)


def _measure(read: Read) -> None:
    # Each prediction in its client's trace.
    undecoded = sum(outcome.undecoded for outcome in read.outcomes)
    for told, lines in (
        ("recorded", len(read.outcomes) - undecoded),
        ("undecoded", undecoded),
        ("unattributed", len(read.unattributed)),
    ):
        _LINES.add(lines, {"outcome": told})
    for outcome in read.outcomes:
        about = {"pipeline": outcome.pipeline, "protocol": outcome.protocol, "status": outcome.status}
        trace = outcome.traceparent
        _PREDICTIONS.record(outcome.seconds, about, context_of({"traceparent": trace}) if trace else None)
        if outcome.rows:
            _ROWS.add(outcome.rows, {"pipeline": outcome.pipeline})


@contextmanager
def _locked(path: Path, stop: threading.Event) -> Iterator[None]:
    # Held once it is free; it goes with the process, however that ends.
    with path.open("ab") as file:
        while not stop.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stop.wait(0.5)
        yield
