"""Records of sites as messages: to the topics and by the keys that a publisher, or the cloud's own
recorder, would have chosen. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import Invalid, NotFound, TooLarge
from penstock.contracts.formats import entity_key
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import MESSAGE_BYTES, predictions_topic, source_topic
from penstock.edge_gateway.v1.hub_pb2 import SpooledEvent
from penstock.runtime.kafka.messages import BY_KEY, Produced

Declared = Callable[[str], Pipeline]
"""Finds an applied pipeline; raises NotFound, and Unavailable while they are being read."""

_PREDICTION: Final = TypeAdapter(Prediction)


def of_event(spooled: SpooledEvent, declared: Declared) -> Produced:
    """Raises NotFound for a pipeline or source that is no more, TooLarge for what Kafka does not take."""
    pipeline = declared(spooled.pipeline)
    source = pipeline.sources.get(spooled.source)
    if source is None:
        raise NotFound(f"pipeline `{spooled.pipeline}` has no source `{spooled.source[:63]}`")
    topic = source_topic("events", spooled.pipeline, spooled.source)
    return _fitting(Produced(topic, BY_KEY, entity_key(spooled.event, source, pipeline.key), spooled.event))


def of_prediction(record: bytes, site: str, declared: Declared) -> Produced:
    """Names in the record the site that it came from, whatever that says itself. Raises Invalid for what
    is no prediction, NotFound for a pipeline that is no more, TooLarge.
    """
    try:
        prediction: Prediction = orjson.loads(record)
        _PREDICTION.validate_python(prediction)
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise Invalid(f"this is no prediction: {type(error).__name__}") from error
    declared(prediction["pipeline"])
    prediction["site"] = site
    trace = prediction["traceparent"]
    headers = [("content-type", b"application/json"), *([("traceparent", trace.encode())] if trace else [])]
    topic, key = predictions_topic(prediction["pipeline"]), prediction["id"].encode()
    return _fitting(Produced(topic, BY_KEY, key, orjson.dumps(prediction), headers))


def _fitting(message: Produced) -> Produced:
    in_headers = sum(len(name) + len(said) for name, said in message.headers or ())
    size = len(message.key or b"") + len(message.value or b"") + in_headers
    if size > MESSAGE_BYTES:
        raise TooLarge(f"{size} bytes are more than Kafka takes, {MESSAGE_BYTES}")
    return message
