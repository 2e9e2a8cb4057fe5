"""Records and rejects as messages: what ingest answers events with."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import lru_cache
from itertools import starmap

import msgspec
import orjson
from msgspec import Struct

from penstock.contracts.dataplane import MAX_REJECT_BYTES
from penstock.contracts.validation import Rejected
from penstock.runtime.kafka.messages import Message, Produced
from penstock_ingest.typed import Checked

_encode = msgspec.json.Encoder().encode


class _Record(Struct, gc=False):
    """`penstock.contracts.dataplane.Record`"""

    id: str
    entity: str
    time: str
    partition: int
    offset: int
    traceparent: str | None
    fields: Struct


def records(topic: str, partition: int, events: Checked) -> list[Produced]:
    fields = starmap(_fields(tuple(events.fields)), zip(*events.fields.values(), strict=True))
    produced = []
    for message, identity, entity, time, values in zip(*events[:4], fields, strict=True):
        traceparent = _traceparent(message) if message.headers else None
        record = _Record(identity, entity, time, partition, message.offset, traceparent, values)
        headers = [("traceparent", traceparent.encode())] if traceparent else None
        produced.append(Produced(topic, partition, entity.encode(), _encode(record), headers))
    return produced


@lru_cache
def _fields(names: tuple[str, ...]) -> type[Struct]:
    rename = {f"f{place}": name for place, name in enumerate(names)}
    return msgspec.defstruct("Fields", list(rename), rename=rename, gc=False)


def reject(topic: str, partition: int, message: Message, answer: Rejected, at: datetime) -> Produced:
    original = message.value or b""
    value = orjson.dumps(
        {
            "reason": answer.reason,
            "field": answer.field,
            "value": answer.value,
            "detail": answer.detail,
            "original": base64.b64encode(original[:MAX_REJECT_BYTES]).decode(),
            "truncated": len(original) > MAX_REJECT_BYTES,
            "digest": hashlib.sha256(original).hexdigest(),
            "partition": partition,
            "offset": message.offset,
            "time": at.isoformat(timespec="milliseconds"),
        }
    )
    traceparent = _traceparent(message)
    headers = [("traceparent", traceparent.encode())] if traceparent else None
    return Produced(topic, partition, message.key, value, headers)


def _traceparent(message: Message) -> str | None:
    # Producers write what they like into headers.
    header = message.header("traceparent") if message.headers else None
    return header.decode() if header is not None and len(header) == 55 and header.isascii() else None
