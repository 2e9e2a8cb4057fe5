"""Reads a pipeline file: YAML 1.2 with line numbers, so that every mistake is shown where it was made.

All problems of a file are found at once: first those of single keys, then, when there are none,
those of `rules`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from penstock.contracts import rules
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import Path, Place, choice, locate

MAX_BYTES = 256 * 1024
_MAX_NODES = 20_000

NOT_SERVED: dict[Path, str] = {
    ("tuner",): "this release has no tuner yet; leave `tuner` out and set `trainer` by hand",
    ("edge",): "this release has no edge gateway yet; leave `edge` out",
    ("monitor",): "this release has no monitor yet; leave `monitor` out",
    (
        "features",
        "*",
        "window",
    ): "this release has no windows yet; publish the aggregate as a field of its own",
    (
        "features",
        "*",
        "windows",
    ): "this release has no windows yet; publish the aggregate as a field of its own",
}
NOT_SERVED_VALUES: dict[Path, dict[str, str]] = {
    ("features", "*", "encode"): {"text_cnn": "this release has no `text_cnn` yet; use `bag_of_words`"},
}

_PATTERNS = {
    "^[a-z][a-z0-9-]{0,62}$": "small letters, digits and `-`, a letter first, at most 63",
    "^[A-Za-z_][A-Za-z0-9_]{0,62}$": "letters, digits and `_`, no digit first, at most 63",
    r"^[a-z][a-z0-9-]{0,62}\.[A-Za-z_][A-Za-z0-9_]{0,62}$": "`source.field`",
}


@dataclass(frozen=True)
class Problem:
    line: int
    """Line, from 1; 0 where there is no place."""
    column: int
    key: str
    """`features.income.from`."""
    message: str

    def show(self, file: str) -> str:
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        return f"{place}  {self.key}: {self.message}" if self.key else f"{place}  {self.message}"


class BadPipeline(Invalid):
    """One or more problems, each with its place."""

    def __init__(self, problems: tuple[Problem, ...], file: str) -> None:
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            "\n".join([*(problem.show(file) for problem in problems), f"{count}, nothing applied"])
        )


def read(text: str, file: str = "pipeline.yaml") -> Pipeline:
    """The pipeline that the text declares. Raises BadPipeline with all that is wrong."""
    return Pipeline.model_validate(read_data(text, file))


def read_data(text: str, file: str = "pipeline.yaml") -> dict[str, JsonValue]:
    """Reads a pipeline file as checked plain data, as an event carries it. Raises BadPipeline."""
    document = _parse(text, file)
    data = _plain(document, file)
    found = _checked(document, data)
    if found:
        raise BadPipeline(tuple(sorted(found, key=lambda problem: (problem.line, problem.column))), file)
    return data


def place(text: str, file: str, found: Iterable[rules.Problem]) -> tuple[Problem, ...]:
    """Finds the lines in `text` of problems that somebody else found. Raises BadPipeline where it is
    no YAML.
    """
    document = _parse(text, file)
    placed = (_at(document, problem.path, problem.message) for problem in found)
    return tuple(sorted(placed, key=lambda problem: (problem.line, problem.column)))


def _parse(text: str, file: str) -> CommentedMap:
    if len(text.encode()) > MAX_BYTES:
        raise BadPipeline((Problem(0, 0, "", f"the file is larger than {MAX_BYTES // 1024} KiB"),), file)
    yaml = YAML(typ="rt")
    yaml.version = (1, 2)
    try:
        document = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise BadPipeline(
            (Problem(line, column, "", f"not YAML: {error.problem or error.context}"),), file
        ) from error
    except Exception as error:  # ruamel raises ValueError, RecursionError and more on hostile text
        raise BadPipeline((Problem(0, 0, "", f"not YAML: {error}"),), file) from error
    if not isinstance(document, CommentedMap):
        raise BadPipeline(
            (Problem(1, 1, "", "a pipeline file is a mapping that starts with `version: 1`"),), file
        )
    return document


def _plain(document: CommentedMap, file: str) -> dict[str, JsonValue]:
    """Plain data of the tree. Aliases are expanded, but not without end."""
    count = 0

    def plain(node: object) -> Any:
        nonlocal count
        count += 1
        if count > _MAX_NODES:
            raise BadPipeline(
                (Problem(0, 0, "", f"the file has more than {_MAX_NODES} values, aliases expanded"),), file
            )
        match node:
            case Mapping():
                return {str(key): plain(value) for key, value in node.items()}
            case list():
                return [plain(value) for value in node]
            case bool() | None:
                return node
            case int():
                return int(node)
            case float():
                return float(node)
            case _:
                return str(node)

    data: dict[str, JsonValue] = plain(document)
    return data


def _checked(document: CommentedMap, data: dict[str, JsonValue]) -> list[Problem]:
    try:
        # As it was written: YAML 1.2 says itself what is a number or a truth value, and `no`, a
        # text, shall not become one unseen. Of JSON, because there a list may be a tuple. Who reads
        # what was stored is not so strict.
        pipeline = Pipeline.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        return [_problem(document, detail) for detail in error.errors()]
    return [_at(document, problem.path, problem.message) for problem in rules.problems(pipeline)]


def _problem(document: CommentedMap, detail: ErrorDetails) -> Problem:
    place = locate(Pipeline, detail)
    return _at(document, place.path, _message(place, detail), key=detail["type"] == "extra_forbidden")


def _message(place: Place, detail: ErrorDetails) -> str:
    path = place.path
    pattern = tuple("*" if index == 1 else part for index, part in enumerate(path))
    match detail["type"]:
        case "extra_forbidden":
            return NOT_SERVED.get(path) or NOT_SERVED.get(pattern) or rules.unknown_key(place)
        case "missing":
            return "is missing"
        case "literal_error" | "union_tag_invalid":
            value, allowed = choice(place, detail)
            if told := NOT_SERVED_VALUES.get(pattern, {}).get(value):
                return told
            return f"`{value}` is not allowed{rules.nearest(value, allowed)}"
        case "string_pattern_mismatch":
            return (
                f"`{detail['input']}` does not fit; write"
                f" {_PATTERNS.get(detail['ctx']['pattern'], detail['ctx']['pattern'])}"
            )
        case "value_error":
            return str(detail["ctx"]["error"])
        case "bool_type":
            return f"write true or false, not {_shown(detail['input'])}"
        case "int_type" | "int_from_float":
            return f"write a whole number, not {_shown(detail['input'])}"
        case "float_type":
            return f"write a number, not {_shown(detail['input'])}"
        case "finite_number":
            return "write a finite number"
        case "too_long" if path == ("targets",):
            return "this release trains one target a pipeline; leave the others out"
        case _:
            said = detail["msg"]
            return f"{said[0].lower()}{said[1:]}, not {_shown(detail['input'])}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _at(document: CommentedMap, path: Path, message: str, *, key: bool = False) -> Problem:
    line, column = _place(document, path, key=key)
    return Problem(line, column, _dotted(path), message)


def _place(document: CommentedMap, path: Path, *, key: bool) -> tuple[int, int]:
    """Line and column, from 1, of the value at `path` (or of its key), or of the deepest mapping
    that has a part of it.
    """
    node: Any = document
    place = (1, 1)
    for position, step in enumerate(path):
        last = position == len(path) - 1
        try:
            if isinstance(node, CommentedMap):
                found = (
                    node.lc.key(step)
                    if (key and last) or isinstance(node[step], CommentedMap)
                    else node.lc.value(step)
                )
            elif isinstance(node, CommentedSeq):
                found = node.lc.item(step)
            else:
                break
            place = (found[0] + 1, found[1] + 1)
            node = node[step]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return place


def _dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
