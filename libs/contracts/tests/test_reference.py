"""The reference page says of every key what the schema says: the two are made by different code."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from penstock.contracts.export import pipeline_schema, reference

SCHEMA = pipeline_schema()
TAKES: dict[str, Any] = {
    "text": {"string"},
    "a whole number": {"integer"},
    "a number": {"number"},
    "a duration": {"duration"},
    "an amount of memory, as in 2GB": {"size"},
    "a value": {"boolean", "integer", "number", "string"},
    "`true` \\| `false`": {"boolean"},
    "[low, high]": {"number,number"},
    "[low, high], numbers or percentiles like `p01`": {"string|number,string|number"},
    "a list of whole numbers": {"[integer]"},
    "a list of numbers": {"[number]"},
    "a list of texts": {"[string]"},
    "a list of lists of texts": {"[[string]]"},
    "a list of mappings": {"[object]"},
    "names to mappings": {"{object}"},
    "names to text": {"{string}"},
    "names to a number": {"{number}"},
    "names to a value": {"object"},
    "names to a list of texts": {"{[string]}"},
    "a mapping": {"object"},
}
Key = tuple[str, str, str]
"""The section's path and type, the key."""


def kinds(schema: Any) -> set[str]:
    schema = resolved(schema)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return set().union(*(kinds(part) for part in schema[union])) - {"null"}
    if "const" in schema or "enum" in schema:
        return {f"`{value}`" for value in schema.get("enum", [schema.get("const")])}
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return {",".join("|".join(sorted(kinds(p), reverse=True)) for p in schema["prefixItems"])}
        return {f"[{'|'.join(kinds(schema['items']))}]"}
    if schema["type"] == "object" and (inner := named(schema)):
        return {f"{{{'|'.join(sorted(kinds(inner)))}}}"}
    units = {"(ms|s|m|h|d)": "duration", "(MB|GB|TB)": "size"}
    return {next((kind for unit, kind in units.items() if unit in schema.get("pattern", "")), schema["type"])}


def resolved(schema: Any) -> Any:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def named(schema: Any) -> Any:
    """Models that stand under free names."""
    free = list(schema.get("patternProperties", {}).values())
    return free[0] if free else None


def sections(schema: Any, path: str) -> dict[tuple[str, str], Any]:
    """The schema's mappings by path and type, as the page's headings name them."""
    schema = resolved(schema)
    if "prefixItems" in schema:
        return {}
    found: dict[tuple[str, str], Any] = {}
    for union in ("anyOf", "oneOf"):
        for part in schema.get(union, ()):
            found |= sections(part, path)
    if "properties" in schema:
        consts = {
            key: resolved(field)["const"]
            for key, field in schema["properties"].items()
            if key in ("type", "encode") and "const" in resolved(field)
        }
        found[path, next((f"{key}: {value}" for key, value in consts.items()), "")] = schema
        for key, field in schema["properties"].items():
            found |= sections(field, f"{path}.{key}" if path else key)
    elif inner := named(schema):
        found |= sections(inner, f"{path}.<name>")
    elif "items" in schema:
        found |= sections(schema["items"], f"{path}[]")
    return found


def page() -> dict[Key, tuple[str, str]]:
    """Type and default of each key."""
    found: dict[Key, tuple[str, str]] = {}
    path = variant = ""
    for line in reference().replace(",\n`", ", `").splitlines():  # a list of kinds may be wrapped
        if line.startswith("## "):
            path, variant = line[3:].strip("`").replace("The file", ""), ""
        elif line.startswith("### "):
            variant = line[4:].strip("`") if ":" in line else ""
        elif row := re.match(r"\| `(.+?)` \| (.+?) \| (.+?) \| .*\|$", line.replace("\\|", "\0")):
            key, takes, left_out = (part.replace("\0", "\\|") for part in row.groups())
            found[path, variant, key] = (takes, left_out)
        elif said := re.match(r"As under `(.+?)`, with `(.+?)` one of (.+)\.$", line):
            kinds = {f"{said[2]}: {kind}" for kind in re.findall("`(.+?)`", said[3])}
            same = {(path, kind, key): told for (at, kind, key), told in found.items() if at == said[1]}
            found |= {place: told for place, told in same.items() if place[1] in kinds}
    return found


PAGE = page()
KEYS = {
    (path, variant, key): (field, key in schema.get("required", ()))
    for (path, variant), schema in sections(SCHEMA, "").items()
    for key, field in schema["properties"].items()
    if kinds(field) != {"null"}
}


def test_the_page_has_every_key_of_the_schema_and_no_other() -> None:
    assert set(PAGE) == set(KEYS)
    assert len(PAGE) > 80


@pytest.mark.parametrize("key", sorted(PAGE), ids=".".join)
def test_a_key_takes_what_the_schema_takes(key: Key) -> None:
    takes, left_out = PAGE[key]
    field, required = KEYS[key]
    if takes.startswith("a mapping by "):
        alone = re.findall(r"`\w+`", takes.partition(", or ")[2])
        assert kinds(field) == {"object", *alone}
        assert len(
            [place for place in sections(SCHEMA, "") if place[0] == ".".join(k for k in key[::2] if k)]
        )
    elif takes.startswith("names to `"):
        words = sorted(takes.removeprefix("names to ").split(" \\| "))
        assert kinds(field) == {f"{{{'|'.join(words)}}}"}
    elif takes == "a list of mappings or names of types":
        (several,) = kinds(field)
        assert {"object", "`mlp`"} < set(several.strip("[]").split("|"))
    else:
        apart = set().union(*(TAKES.get(part, {part}) for part in takes.split(" \\| ")))
        assert kinds(field) == TAKES.get(takes, apart)
    assert (left_out == "**required**") == required
    default = resolved(field).get("default", field.get("default"))
    if left_out == "none":
        assert default in (None, {}, [])
    elif left_out.startswith("`") and not left_out.startswith("`type:"):
        shown = default if isinstance(default, str) else json.dumps(default)
        if takes.endswith("names of types"):
            shown = f"[{', '.join(one['type'] for one in default)}]"
        assert left_out.strip("`") == shown


def test_what_was_wrong_once_is_right() -> None:
    assert PAGE["audit.gates[]", "", "by"] == ("text", "none")
    assert PAGE["model", "type: mlp", "hidden"] == ("a list of whole numbers", "`[64, 32]`")
    assert ("model", "type: linear", "hidden") not in PAGE
