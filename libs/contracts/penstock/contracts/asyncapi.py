"""The topic catalogue as an AsyncAPI 3.0 document: every topic as a channel, every service as a
sender or receiver.

Each type stands once, in `components/schemas`, and every reference counts from the document's root,
as the specification reads them. They keep to what JSON Schema draft-07 knows, its default format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import TypeAdapter

from penstock.contracts import dataplane
from penstock.contracts.events import EVENTS
from penstock.contracts.topics import CATALOGUE, Topic

Json = dict[str, Any]

_PARAMETERS = {
    "pipeline": {"description": "A pipeline's name."},
    "source": {"description": "The name of one of its sources."},
}
TYPES: dict[str, Any] = {event.__name__: event for event in EVENTS.values()} | dataplane.SHAPES
"""Types of messages by name: control events, then the data plane's."""
_WITHOUT_TYPE: Json = {
    "Event": {
        "type": "object",
        "description": "A flat JSON object with the fields that the pipeline file declares for the source.",
    },
    "SeenIds": {
        "type": "string",
        "format": "binary",
        "description": "8 bytes for each id accepted in one transaction.",
    },
}


def asyncapi() -> Json:
    """The whole document."""
    names = [*TYPES, *_WITHOUT_TYPE]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Penstock",
            "version": "1",
            "description": (
                "Control events are CloudEvents 1.0 in binary mode; the type is `io.penstock.<message>.v1`."
            ),
        },
        "channels": {topic.name: _channel(topic) for topic in CATALOGUE},
        "operations": dict(_operations()),
        "components": {"messages": {name: _message(name) for name in names}, "schemas": _schemas()},
    }


def _schemas() -> Json:
    """Every type by name, those that events share among them."""
    _, shared = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(of)) for name, of in TYPES.items()],
        ref_template="#/components/schemas/{model}",
    )
    return {**shared["$defs"], **_WITHOUT_TYPE}


def _message(name: str) -> Json:
    return {
        "name": name,
        "contentType": "application/octet-stream" if name == "SeenIds" else "application/json",
        "payload": _reference("components", "schemas", name),
    }


def _channel(topic: Topic) -> Json:
    address = topic.name.replace("<p>", "{pipeline}").replace("<source>", "{source}")
    parameters = {name: about for name, about in _PARAMETERS.items() if f"{{{name}}}" in address}
    return {
        "address": address,
        "description": f"{topic.about} Key: {topic.key}.",
        "messages": {name: _reference("components", "messages", name) for name in topic.messages},
        "bindings": {"kafka": {"topicConfiguration": {"cleanup.policy": [topic.cleanup]}}},
        **({"parameters": parameters} if parameters else {}),
    }


def _operations() -> Iterator[tuple[str, Json]]:
    for topic in CATALOGUE:
        for producer, messages in topic.producers.items():
            yield f"{producer} sends {topic.name}", _operation("send", topic, messages)
        for consumer in topic.consumers:
            yield f"{consumer} receives {topic.name}", _operation("receive", topic, topic.messages)


def _operation(action: str, topic: Topic, messages: Iterable[str]) -> Json:
    return {
        "action": action,
        "channel": _reference("channels", topic.name),
        "messages": [_reference("channels", topic.name, "messages", name) for name in messages],
    }


def _reference(*steps: str) -> Json:
    """A JSON pointer from the document's root."""
    return {"$ref": "/".join(["#", *(step.replace("~", "~0").replace("/", "~1") for step in steps)])}
