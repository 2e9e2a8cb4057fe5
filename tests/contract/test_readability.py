"""Sizes and beginnings that a stranger's reading depends on, over all of libs, services and benchmarks."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("libs", "services", "benchmarks")
LEFT_OUT = ("/tests/", "/stubs/", "/migrations/")

FUNCTION_LINES = 50
FILE_LINES = 400
PARAMETERS = 8  # of a constructor
OPENINGS = 0.02  # share of docstrings that may begin with one of these
NO_VERB_OR_NOUN = frozenset(
    """What Of How Where Who Whoever Whose With For Which When Why In At By From That This Those These
    It Its Their They On To As If After Before Between Around Upon Within Under Beside Behind
    One All Each""".split()  # noqa: SIM905
)


class Function(NamedTuple):
    where: str
    name: str
    lines: int
    parameters: int


class Read(NamedTuple):
    """A module as the tests look at it; its syntax tree, a hundred times as large, is not kept."""

    lines: int
    functions: list[Function]
    docstrings: list[str]


@cache
def modules() -> dict[str, Read]:
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split() if name.endswith(".py")]
    kept = [name for name in names if not any(part in name for part in LEFT_OUT)]
    return {name: read(name, (ROOT / name).read_text()) for name in kept if (ROOT / name).is_file()}


def read(name: str, text: str) -> Read:
    """Functions and docstrings of a module, strings under a field among them."""
    found = Read(len(text.splitlines()), [], [])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            parameters = len(node.args.args) + len(node.args.kwonlyargs) - 1
            found.functions.append(
                Function(f"{name}:{node.lineno} {node.name}", node.name, lines, parameters)
            )
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():  # an expression's is one, no list
            match statement:
                case ast.Expr(value=ast.Constant(value=str(said))):
                    found.docstrings.append(said)
    return found


def functions() -> list[Function]:
    return [function for module in modules().values() for function in module.functions]


def test_a_function_is_seen_at_once() -> None:
    assert {one.where: one.lines for one in functions() if one.lines > FUNCTION_LINES} == {}


def test_a_file_has_one_subject() -> None:
    assert {name: one.lines for name, one in modules().items() if one.lines > FILE_LINES} == {}


def test_a_constructor_takes_few_things() -> None:
    taken = {one.where: one.parameters for one in functions() if one.name == "__init__"}
    assert len(taken) > 100
    assert {where: count for where, count in taken.items() if count > PARAMETERS} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_begins_with_a_verb_or_a_noun(folder: str) -> None:
    read = {name: module for name, module in modules().items() if name.startswith(f"{folder}/")}
    found = [(name, text) for name, module in read.items() for text in module.docstrings]
    hard = [(name, text) for name, text in found if text.split()[0] in NO_VERB_OR_NOUN]
    assert len(found) > 100
    assert len(hard) <= OPENINGS * len(found), hard
