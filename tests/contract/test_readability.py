"""Sizes and beginnings that a stranger's reading depends on, over all of libs and services."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("/tests/", "/stubs/", "/migrations/")

FUNCTION_LINES = 50
FILE_LINES = 400
PARAMETERS = 8  # of a constructor
OPENINGS = 0.02  # share of docstrings that may begin with one of these
PRONOUNS_AND_PREPOSITIONS = frozenset(
    """What Of How Where Who Whoever Whose With For Which When Why In At By From That This Those These
    It Its Their They On To As If After Before Between Around Upon Within Under Beside Behind""".split()  # noqa: SIM905
)


@cache
def modules() -> dict[str, ast.Module]:
    listed = subprocess.run(
        ["git", "ls-files", "libs", "services"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split() if name.endswith(".py")]
    kept = [name for name in names if not any(part in name for part in LEFT_OUT)]
    return {name: ast.parse((ROOT / name).read_text()) for name in kept if (ROOT / name).is_file()}


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """Lists the syntax nodes of each module, once."""
    return {name: list(ast.walk(module)) for name, module in modules().items()}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, found in nodes().items():
        for node in found:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.lineno} {node.name}", node


def docstrings(found: list[ast.AST]) -> Iterator[str]:
    """Strings of modules, classes and functions, and those under a field."""
    for node in found:
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():  # an expression's is one, no list
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield text


def test_a_function_is_seen_at_once() -> None:
    long = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions()}
    assert {where: lines for where, lines in long.items() if lines > FUNCTION_LINES} == {}


def test_a_file_has_one_subject() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in modules()}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_a_constructor_takes_few_things() -> None:
    taken = {
        where: len(node.args.args) + len(node.args.kwonlyargs) - 1
        for where, node in functions()
        if node.name == "__init__"
    }
    assert {where: count for where, count in taken.items() if count > PARAMETERS} == {}


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    found = [(name, text) for name, there in nodes().items() for text in docstrings(there)]
    hard = [(name, text) for name, text in found if text.split()[0] in PRONOUNS_AND_PREPOSITIONS]
    assert len(found) > 1000
    assert len(hard) <= OPENINGS * len(found), hard
