"""Lines of the door's log as messages, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import structlog

from penstock.contracts.dataplane import Prediction
from penstock.runtime.kafka.messages import Produced
from penstock.serving.model import Layouts
from penstock_inference.record.origin import Origins
from penstock_inference.record.predictions import Unattributed, read_line
from penstock_inference.record.publisher import message
from penstock_inference.record.spool import mended

log = structlog.get_logger(__name__)


class Outcome(NamedTuple):
    """Prediction as it is measured."""

    pipeline: str
    seconds: float
    protocol: str
    status: str
    traceparent: str | None
    rows: int  # 0 where nothing was predicted
    undecoded: bool


class Read(NamedTuple):
    """Predictions of some lines as messages, what is measured of each, and the reasons why other lines
    belong to no pipeline.
    """

    messages: list[Produced]
    outcomes: list[Outcome]
    unattributed: list[str]


def read_lines(lines: Iterable[bytes], layouts: Layouts, origins: Origins | None = None) -> Read:
    """Reads lines; each prediction is encoded at once: thousands of them as objects keep the garbage
    collector as busy as all the rest.
    """
    read = Read([], [], [])
    for line in lines:
        try:
            pipeline, prediction = read_line(mended(line), layouts, origins)
            read.messages.append(message(pipeline, prediction))
            read.outcomes.append(_outcome(pipeline, prediction))
        except Unattributed as reason:
            read.unattributed.append(str(reason))
        except Exception as error:  # a line that nobody foresaw must not stop the record for good
            log.exception("line_unreadable", bytes=len(line))
            read.unattributed.append(repr(error))
    if read.unattributed:
        log.warning("predictions_unattributed", lines=len(read.unattributed), first=read.unattributed[0])
    return read


def _outcome(pipeline: str, prediction: Prediction) -> Outcome:
    return Outcome(
        pipeline,
        prediction["milliseconds"] / 1000,
        prediction["protocol"],
        prediction["status"],
        prediction["traceparent"],
        (prediction["status"] == "OK" and prediction["rows"]) or 0,
        prediction["undecoded"] is not None,
    )
