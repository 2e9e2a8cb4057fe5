"""What `schemas/` holds is what its readers' tools take: JSON Schemas by their metaschema, the
AsyncAPI document by the specification's rules for the parts that it has.

`python tests/contract/published.py` names every problem. The specification's own parser is asked by
a test (`test_published.py`), for it needs Node.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
REFERENCE: Json = {
    "type": "object",
    "required": ["$ref"],
    "properties": {"$ref": {"type": "string", "format": "uri-reference"}},
    "additionalProperties": False,
}


def _object(required: str, **properties: Json) -> Json:
    """A shape with these properties and no other."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def _named(shape: Json) -> Json:
    return {"type": "object", "additionalProperties": shape}


CHANNEL = _object(
    "address messages",
    address=TEXT,
    description=TEXT,
    messages=_named(REFERENCE),
    parameters=_named(_object("description", description=TEXT)),
    bindings=_object("kafka", kafka={"type": "object"}),
)
OPERATION = _object(
    "action channel messages",
    action={"enum": ["send", "receive"]},
    channel=REFERENCE,
    messages={"type": "array", "items": REFERENCE, "minItems": 1},
)
MESSAGE = _object("name contentType payload", name=TEXT, contentType=TEXT, payload=REFERENCE)
DOCUMENT = _object(
    "asyncapi info channels operations components",
    asyncapi={"const": "3.0.0"},
    info=_object("title version", title=TEXT, version=TEXT, description=TEXT),
    channels=_named(CHANNEL),
    operations=_named(OPERATION),
    components=_object("messages schemas", messages=_named(MESSAGE), schemas=_named({"type": "object"})),
)
"""AsyncAPI 3.0 for the objects and keys that our document uses; a new key is added here with it."""


def schema_problems(schema: Json) -> Iterator[str]:
    """Problems of a JSON Schema that stands alone: what its metaschema refuses, references that lead
    nowhere.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"{error.json_path}: {error.message}"
    yield from dangling(schema)


def asyncapi_problems(document: Json) -> Iterator[str]:
    """Problems of an AsyncAPI 3.0 document: its shape, its references, its payloads as JSON Schemas
    of draft-07, channels' parameters, operations' messages.
    """
    yield from (
        f"{error.json_path}: {error.message}" for error in Draft7Validator(DOCUMENT).iter_errors(document)
    )
    yield from dangling(document)
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        try:
            Draft7Validator.check_schema(schema)
        except SchemaError as error:
            yield f"$.components.schemas.{name}{error.json_path[1:]}: {error.message}"
    channels = document.get("channels", {})
    for name, channel in channels.items():
        named = set(re.findall(r"\{(\w+)\}", channel.get("address", "")))
        if named != set(channel.get("parameters", {})):
            yield f"$.channels.{name}: the parameters are not those of the address"
    for name, operation in document.get("operations", {}).items():
        of = operation.get("channel", {}).get("$ref", "")
        if of not in {f"#/channels/{channel}" for channel in channels}:
            yield f"$.operations.{name}: its channel is none of the document's"
        if any(
            not one.get("$ref", "").startswith(f"{of}/messages/") for one in operation.get("messages", [])
        ):
            yield f"$.operations.{name}: a message is none of its channel's"


def dangling(document: Json) -> Iterator[str]:
    """References that do not lead, from the document's root, to something in it."""
    for place, target in _references(document, "$"):
        at: Any = document
        for step in target.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            at = at.get(key) if isinstance(at, dict) else None
        if at is None or not target.startswith("#"):
            yield f"{place}: `{target}` leads nowhere"


def _references(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str):
            yield place, target
        for key, inner in value.items():
            yield from _references(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _references(inner, f"{place}[{index}]")


def instance_problems(instance: Any, schema: Json) -> Iterator[str]:
    """Where the example breaks its schema."""
    for error in Draft202012Validator(schema).iter_errors(instance):
        yield f"{error.json_path}: {error.message}"


def problems() -> Iterator[str]:
    """Every problem of every published schema, and of the examples beside them."""
    for path in [SCHEMAS / "pipeline.json", *sorted((SCHEMAS / "events").glob("*.json"))]:
        yield from (f"{path.relative_to(ROOT)}: {said}" for said in schema_problems(_read(path)))
    for path in sorted((SCHEMAS / "examples").glob("*.json")):
        schema = _read(SCHEMAS / "events" / path.name)
        yield from (f"{path.relative_to(ROOT)}: {said}" for said in instance_problems(_read(path), schema))
    for path in sorted(ROOT.glob("examples/*/pipeline.yaml")):
        found = instance_problems(YAML(typ="safe").load(path.read_text()), _read(SCHEMAS / "pipeline.json"))
        yield from (f"{path.relative_to(ROOT)}: {said}" for said in found)
    document = SCHEMAS / "asyncapi.json"
    yield from (f"{document.relative_to(ROOT)}: {said}" for said in asyncapi_problems(_read(document)))


def _read(path: Path) -> Json:
    document: Json = json.loads(path.read_text())
    return document


def main() -> int:
    found = list(problems())
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
