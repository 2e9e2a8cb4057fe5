"""Reads a pipeline file: YAML 1.2 with line numbers, so that every mistake is shown where it was made.

All problems of a file are found at once: first those of single keys, then, when there are none,
those of `rules`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NoReturn

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import Node, ScalarNode

from penstock.contracts import rules
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import Path, Place, choice, locate
from penstock.contracts.planning import BY_ROWS

MAX_BYTES = 256 * 1024
_MAX_NODES = 20_000  # values of a file
_MAX_OPEN = 100  # brackets
_MAX_BITS = 1024  # of a whole number: as far as one with a fraction reaches
_BRACKET = re.compile(r"[\[\]{}]")
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}

_WINDOWS = "this release has no windows yet; publish the aggregate as a field of its own"
_NOT_SERVED: dict[Path, str] = {
    ("tuner", "executor"): "this release runs trials in processes of its own; leave `executor` out",
    ("edge", "variants"): "sites of this release serve the model as it is; leave `variants` out",
    ("edge", "fallback", "confidence_below"): (
        "a site serves the very model that the platform serves: the same answer would come back; leave"
        " `confidence_below` out, `edge: {label_below: …}` marks what a person should look at"
    ),
    ("monitor",): "this release has no monitor yet; leave `monitor` out",
    ("features", "*", "window"): _WINDOWS,
    ("features", "*", "windows"): _WINDOWS,
}

_PATTERNS = {
    "^[a-z][a-z0-9-]{0,62}$": "small letters, digits and `-`, a letter first, at most 63",
    "^[A-Za-z_][A-Za-z0-9_]{0,62}$": "letters, digits and `_`, no digit first, at most 63",
    r"^[a-z][a-z0-9-]{0,62}\.[A-Za-z_][A-Za-z0-9_]{0,62}$": "`source.field`",
}
_KINDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
}  # what to write instead, by pydantic's type of error


@dataclass(frozen=True)
class Problem:
    """A mistake and its place: line and column, from 1 (0 where there is none), and the key,
    `features.income.from`.
    """

    line: int
    column: int
    key: str
    message: str

    def show(self, file: str) -> str:
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        return f"{place}  {self.key}: {self.message}" if self.key else f"{place}  {self.message}"


class BadPipeline(Invalid):
    """Problems, one or more, each with its place; of keys and values alone where nothing was found out
    yet on how they fit together.
    """

    def __init__(self, problems: tuple[Problem, ...], file: str, *, alone: bool = False) -> None:
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        count += "; whether the rest fits together is looked at once that is mended" if alone else ""
        super().__init__("\n".join([*(problem.show(file) for problem in problems), count]))

    @classmethod
    def whole(cls, message: str, file: str, line: int = 0, column: int = 0) -> BadPipeline:
        """A file that cannot be read at all."""
        return cls((Problem(line, column, "", message),), file)


def read(text: str, file: str = "pipeline.yaml") -> Pipeline:
    """The pipeline that the text declares. Raises BadPipeline with all that is wrong."""
    return Pipeline.model_validate(read_data(text, file))


def read_data(text: str, file: str = "pipeline.yaml") -> dict[str, JsonValue]:
    """Reads a pipeline file as checked plain data, as an event carries it, with the generation of
    defaults that it goes by from now on. Raises BadPipeline.
    """
    document = _parse(text, file)
    data = _plain(document, file)
    pipeline, misshapen = _shaped(document, data)
    if pipeline is None:
        raise BadPipeline(_sorted(misshapen), file, alone=True)
    if found := _sorted(_at(document, one.path, one.message) for one in rules.problems(pipeline)):
        raise BadPipeline(found, file)
    return {"defaults": BY_ROWS, **data}


def place(text: str, file: str, found: Iterable[rules.Problem]) -> tuple[Problem, ...]:
    """Finds the lines in `text` of problems that somebody else found. Raises BadPipeline where it is
    no YAML.
    """
    document = _parse(text, file)
    return _sorted(_at(document, problem.path, problem.message) for problem in found)


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _parse(text: str, file: str) -> CommentedMap:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise BadPipeline.whole(f"the file is larger than {MAX_BYTES // 1024} KiB", file)
    # What is open is looked at anew for each that follows: thousands at once take seconds.
    steps = (_BRACKETS[found] for found in _BRACKET.findall(text))
    if max(itertools.accumulate(steps, lambda deep, step: max(0, deep + step)), default=0) > _MAX_OPEN:
        raise BadPipeline.whole(f"more than {_MAX_OPEN} brackets are open at once", file)
    yaml = YAML(typ="rt")
    yaml.version = (1, 2)
    yaml.Composer = _Composer
    try:
        document = yaml.load(text)
    except MarkedYAMLError as error:
        mark, said = error.problem_mark or error.context_mark, error.problem or error.context
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise BadPipeline.whole(f"not YAML: {said}", file, line, column) from error
    except Exception as error:  # ruamel raises ValueError, RecursionError and more on hostile text
        raise BadPipeline.whole(f"not YAML: {error}", file) from error
    if not isinstance(document, CommentedMap):
        raise BadPipeline.whole("a pipeline file is a mapping that starts with `version: 1`", file, 1, 1)
    return document


class _Composer(Composer):
    """Refuses what takes long to make values of: more nodes than a file may have, and keys that are
    lists or mappings, which take thrice as long with each level of them.
    """

    nodes = 0

    def compose_node(self, parent: Node | None, index: Node | int | None) -> Node:
        self.nodes += 1
        node: Node = super().compose_node(parent, index)
        is_key = parent is not None and index is None
        if self.nodes > _MAX_NODES or (is_key and not isinstance(node, ScalarNode)):
            said = "this key is a list or a mapping" if is_key else f"it has more than {_MAX_NODES:,} values"
            raise MarkedYAMLError(problem=said, problem_mark=node.start_mark)
        return node


def _plain(document: CommentedMap, file: str) -> dict[str, JsonValue]:
    """Plain data of the tree. Aliases are expanded, but not without end. Raises BadPipeline for what
    is neither text, number, truth value, list nor mapping by texts: YAML has more.
    """
    count = itertools.count(1)

    def refuse(path: Path, message: str, *, key: bool = False) -> NoReturn:
        raise BadPipeline((_at(document, path, message, key=key),), file)

    def plain(node: object, path: Path) -> Any:
        if next(count) > _MAX_NODES:
            raise BadPipeline.whole(f"the file has more than {_MAX_NODES} values, aliases expanded", file)
        if getattr(getattr(node, "tag", None), "value", None):
            refuse(path, "has a tag of YAML's (`!…`), which means nothing here; leave it out")
        match node:
            case Mapping():
                if odd := [key for key in node if not isinstance(key, str)]:
                    refuse((*path, odd[0]), "this key is no text; write it in quotes", key=True)
                return {str(key): plain(value, (*path, key)) for key, value in node.items()}
            case list():
                return [plain(value, (*path, index)) for index, value in enumerate(node)]
            case bool() | None:
                return node
            case int() if node.bit_length() > _MAX_BITS:
                refuse(path, "has more digits than a number may have")
            case int() | float():
                return int(node) if isinstance(node, int) else float(node)
            case str() | date() if not isinstance(node, datetime):
                return str(node)
            case _:
                refuse(path, f"YAML reads this as a {type(node).__name__.lower()}; write it in quotes")

    data: dict[str, JsonValue] = plain(document, ())
    return data


def _shaped(document: CommentedMap, data: dict[str, JsonValue]) -> tuple[Pipeline | None, Sequence[Problem]]:
    """The pipeline, or what is wrong with its keys and values."""
    try:
        # As it was written: YAML 1.2 says itself what is a number or a truth value, and `no`, a
        # text, shall not become one unseen. Of JSON, because there a list may be a tuple. Who reads
        # what was stored is not so strict.
        return Pipeline.model_validate_json(json.dumps(data), strict=True), ()
    except ValidationError as error:
        places = [(locate(Pipeline, detail), detail) for detail in error.errors()]
        return None, [
            _at(document, place.path, _message(place, detail), key=detail["type"] == "extra_forbidden")
            for place, detail in places
        ]


def _message(place: Place, detail: ErrorDetails) -> str:
    path = place.path
    pattern = tuple("*" if index == 1 else part for index, part in enumerate(path))
    match detail["type"]:
        case "extra_forbidden":
            return _NOT_SERVED.get(path) or _NOT_SERVED.get(pattern) or rules.unknown_key(place)
        case "missing":
            return "is missing"
        case "literal_error" | "union_tag_invalid":
            value, allowed = choice(place, detail)
            return f"`{value}` is not allowed{rules.nearest(value, allowed)}"
        case "string_pattern_mismatch":
            regex = detail["ctx"]["pattern"]
            return f"`{detail['input']}` does not fit; write {_PATTERNS.get(regex, regex)}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "finite_number":
            return "write a finite number"
        case "too_long" if path == ("targets",):
            return "this release trains one target a pipeline; leave the others out"
        case kind if kind in _KINDS:
            said = f"write {_KINDS[kind]}"
        case _:
            said = f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    value = detail["input"]
    shown = repr(value) if isinstance(value, str) else str(value)
    return f"{said}, not {shown if len(shown) <= 60 else shown[:57] + '…'}"


def _at(document: CommentedMap, path: Path, message: str, *, key: bool = False) -> Problem:
    """The problem at the value of `path` (or at its key), or at the deepest mapping that has a part
    of it.
    """
    node: Any = document
    line, column = 0, 0
    with suppress(KeyError, IndexError, TypeError, AttributeError):
        for left, step in zip(range(len(path))[::-1], path, strict=True):
            if isinstance(node, CommentedSeq):
                line, column = node.lc.item(step)
            elif (key and not left) or isinstance(node[step], CommentedMap):
                line, column = node.lc.key(step)
            else:
                line, column = node.lc.value(step)
            node = node[step]
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return Problem(line + 1, column + 1, dotted.removeprefix("."), message)
