"""Within v1 only optional additions: compares what the code says now with what was last released.

`python tests/contract/compatibility.py` checks; `… release` records the present state as released.
The rules are pure functions over JSON Schemas and proto descriptors, so that bad fixtures can be
put through them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_tools import protoc

from penstock.contracts.export import event_schemas

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "schemas" / "released"

Json = dict[str, Any]


# -- events ----------------------------------------------------------------------------------------


def breaking_events(released: Mapping[str, Json], now: Mapping[str, Json]) -> list[str]:
    """Changes that an event of the last release, or its reader, would not survive."""
    found = [f"{name}: removed" for name in released if name not in now]
    for name in released.keys() & now.keys():
        found += [
            f"{name}: {problem}"
            for problem in _breaking(released[name], now[name], released[name], now[name], "")
        ]
    return sorted(found)


def _breaking(old: Json, new: Json, old_root: Json, new_root: Json, at: str) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    if old.get("type") != new.get("type"):
        yield f"{at or 'the event'} is {new.get('type')}, was {old.get('type')}"
        return
    if (before := old.get("enum")) is not None and sorted(before) != sorted(new.get("enum", [])):
        yield f"{at} takes {new.get('enum')}, took {before}"
    if "const" in old and old["const"] != new.get("const"):
        yield f"{at} is always {new.get('const')}, was always {old['const']}"
    for name in sorted(set(new.get("required", [])) - set(old.get("required", []))):
        yield f"{at}{'.' if at else ''}{name} is required now"
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        place = f"{at}{'.' if at else ''}{name}"
        if name not in after:
            yield f"{place} is gone"
        else:
            yield from _breaking(before[name], after[name], old_root, new_root, place)
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _breaking(old[key], new[key], old_root, new_root, f"{at}[]")
    if "anyOf" in old:
        kinds = [json.dumps(_resolved(option, old_root).get("type")) for option in old["anyOf"]]
        if kinds != [json.dumps(_resolved(option, new_root).get("type")) for option in new.get("anyOf", [])]:
            yield f"{at} takes other types than before"
        else:
            for before_option, after_option in zip(old["anyOf"], new["anyOf"], strict=True):
                yield from _breaking(before_option, after_option, old_root, new_root, at)


def _resolved(schema: Json, root: Json) -> Json:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


# -- protos ----------------------------------------------------------------------------------------


def breaking_protos(released: FileDescriptorSet, now: FileDescriptorSet) -> list[str]:
    """Changes that a client of the last release would not survive: removed or renumbered fields,
    changed types, removed methods.
    """
    found: list[str] = []
    old_messages, new_messages = dict(_messages(released)), dict(_messages(now))
    for name, old in old_messages.items():
        if name not in new_messages:
            found.append(f"{name}: removed")
            continue
        numbers = {field.number: field for field in new_messages[name].field}
        found += [
            f"{name}.{field.name}: {problem}"
            for field in old.field
            for problem in _field_breaks(field, numbers.get(field.number))
        ]
    old_values, new_values = dict(_enum_values(released)), dict(_enum_values(now))
    found += [
        f"{value}: removed or renumbered"
        for value, number in old_values.items()
        if new_values.get(value) != number
    ]
    old_methods, new_methods = dict(_methods(released)), dict(_methods(now))
    found += [
        f"{method}: removed or changed"
        for method, shape in old_methods.items()
        if new_methods.get(method) != shape
    ]
    return sorted(found)


def _field_breaks(old: FieldDescriptorProto, new: FieldDescriptorProto | None) -> Iterator[str]:
    if new is None:
        yield "removed"
    elif old.name != new.name:
        yield f"number {old.number} is `{new.name}` now"
    elif (old.type, old.type_name, old.label) != (new.type, new.type_name, new.label):
        yield "has another type"


def _messages(files: FileDescriptorSet) -> Iterator[tuple[str, DescriptorProto]]:
    def within(prefix: str, messages: Any) -> Iterator[tuple[str, DescriptorProto]]:
        for message in messages:
            yield f"{prefix}.{message.name}", message
            yield from within(f"{prefix}.{message.name}", message.nested_type)

    for file in files.file:
        yield from within(file.package, file.message_type)


def _enum_values(files: FileDescriptorSet) -> Iterator[tuple[str, int]]:
    for name, message in _messages(files):
        for enum in message.enum_type:
            for value in enum.value:
                yield f"{name}.{enum.name}.{value.name}", value.number


def _methods(files: FileDescriptorSet) -> Iterator[tuple[str, tuple[str, str, bool, bool]]]:
    for file in files.file:
        for service in file.service:
            for method in service.method:
                shape = (
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
                yield f"{file.package}.{service.name}.{method.name}", shape


def compile_protos(root: Path) -> FileDescriptorSet:
    """The descriptors of all `.proto` files below `root`. Raises ValueError where one does not compile."""
    files = [str(path) for path in sorted(root.rglob("*.proto"))]
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.NamedTemporaryFile() as out:
        if (
            protoc.main(
                ["protoc", f"-I{root}", f"-I{well_known}", f"--descriptor_set_out={out.name}", *files]
            )
            != 0
        ):
            raise ValueError("a proto does not compile")
        return FileDescriptorSet.FromString(Path(out.name).read_bytes())


# -- the released state ----------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    events, protos = event_schemas(), compile_protos(ROOT / "proto")
    events_file, protos_file = RELEASED / "events.json", RELEASED / "protos.json"
    if arguments == ["release"]:
        RELEASED.mkdir(parents=True, exist_ok=True)
        events_file.write_text(json.dumps(events, indent=1, sort_keys=True) + "\n")
        protos_file.write_text(json.dumps(MessageToDict(protos), indent=1, sort_keys=True) + "\n")
        return 0
    released = ParseDict(json.loads(protos_file.read_text()), FileDescriptorSet())
    found = [
        *breaking_events(json.loads(events_file.read_text()), events),
        *breaking_protos(released, protos),
    ]
    for problem in found:
        sys.stderr.write(f"breaks v1: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
