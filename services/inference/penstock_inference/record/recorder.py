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
from penstock.contracts.dataplane import Prediction
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.kafka.spans import linked_span
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.readiness import Readiness
from penstock.runtime.telemetry import context_of
from penstock.serving.model import Layouts
from penstock_inference.record.origin import Origins
from penstock_inference.record.predictions import Unattributed, read_line
from penstock_inference.record.publisher import GROUP, Publisher
from penstock_inference.record.spool import Position, Tail, mended

log = structlog.get_logger(__name__)
_PREDICTIONS = histogram(metrics.PREDICTIONS)
_ROWS = counter(metrics.PREDICTED_ROWS)
_LINES = counter(metrics.RECORDED)

# Seconds between two looks at the log. A transaction costs the broker some 10 ms of a core, however
# few predictions it holds.
EVERY_S: Final = 0.25
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
                    stop.wait(EVERY_S)

    def _look_around(self, tail: Tail, position: Position | None) -> None:
        self.backlog_bytes = tail.backlog_bytes()
        if self._status:
            self._status.fact(
                "record", f"{self._recorded} predictions recorded, {self.backlog_bytes} bytes behind"
            )
        self._tidy(tail, position)

    def _publish(self, publisher: Publisher, lines: list[bytes], position: Position) -> None:
        predictions, unattributed = self._read(lines)
        for pipeline in {pipeline for pipeline, _ in predictions}:
            if not publisher.has_topic(pipeline):
                self._ensure_topic(pipeline)
        traces = (
            prediction["traceparent"].encode() for _, prediction in predictions if prediction["traceparent"]
        )
        with linked_span(
            "record predictions",
            traces,
            {"messaging.system": "kafka", "messaging.batch.message_count": len(predictions)},
        ):
            publisher.publish(predictions, position)
        self._recorded += len(predictions)
        _measure(predictions, unattributed)

    def _read(self, lines: list[bytes]) -> tuple[list[tuple[str, Prediction]], int]:
        # Predictions with their pipelines, and how many lines belong to none.
        predictions: list[tuple[str, Prediction]] = []
        reasons: list[str] = []
        for line in lines:
            try:
                predictions.append(read_line(mended(line), self._layouts, self._origins))
            except Unattributed as reason:
                reasons.append(str(reason))
            except Exception as error:  # a line that nobody foresaw must not stop the record for good
                log.exception("line_unreadable", bytes=len(line))
                reasons.append(repr(error))
        if reasons:
            log.warning("predictions_unattributed", lines=len(reasons), first=reasons[0])
        return predictions, len(reasons)


def _measure(predictions: list[tuple[str, Prediction]], unattributed: int) -> None:
    # Each prediction in its client's trace.
    undecoded = sum(prediction["undecoded"] is not None for _, prediction in predictions)
    for outcome, lines in (
        ("recorded", len(predictions) - undecoded),
        ("undecoded", undecoded),
        ("unattributed", unattributed),
    ):
        _LINES.add(lines, {"outcome": outcome})
    for pipeline, prediction in predictions:
        traceparent = prediction["traceparent"]
        _PREDICTIONS.record(
            prediction["milliseconds"] / 1000,
            {"pipeline": pipeline, "protocol": prediction["protocol"], "status": prediction["status"]},
            context_of({"traceparent": traceparent}) if traceparent else None,
        )
        if prediction["status"] == "OK" and prediction["rows"]:
            _ROWS.add(prediction["rows"], {"pipeline": pipeline})


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
