"""What the documents name is there: modules, files, headings, `make` targets, the client's verbs."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from penstock.client.cli.main import app
from penstock.contracts import metrics

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str, given: str = "") -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, input=given, capture_output=True, text=True)
    return done.stdout.split()


FILES = git("ls-files")
PAGES = [name for name in FILES if name.endswith(".md")]
FOLDERS = {name.partition("/")[0] for name in FILES if "/" in name}
LIBRARIES = sorted(path.parent.name for path in ROOT.glob("libs/*/pyproject.toml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

ROOTS = "|".join(["penstock", r"penstock_\w+", *LIBRARIES])
NAME = re.compile(rf"`((?:{ROOTS})\.\w+(?:\.\w+)*)(?<!\.json)(?<!\.py)(?:\(\))?`")
NO_CODE = {
    "penstock.run",
    "penstock.feature_store.records",
    "penstock.service.ready",
    "serving.batch",
    "serving.record_retention",
}
"""A tag in MLflow, a consumer group, a metric, keys of the pipeline file."""
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
COMMAND = re.compile(r"^\s*(?:\w+=\S* )*(?:\.venv/bin/)?(make|penstock)((?: [a-z][a-z-]*)*)")


# -- modules ---------------------------------------------------------------------------------------


def exists(name: str) -> bool:
    """A module, or what stands in one; a gRPC service. Nothing is imported but packages."""
    if service := re.fullmatch(r"penstock\.(\w+)\.v1\.(\w+Service)", name):
        protos = (ROOT / "proto" / "penstock" / service[1] / "v1").glob("*.proto")
        return any(f"service {service[2]} " in proto.read_text() for proto in protos)
    parts = (name if name.startswith("penstock") else f"penstock.{name}").split(".")
    for size in range(len(parts), 1 if parts[0] == "penstock" else 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        if spec and not spec.origin:  # a package of several members
            return size == len(parts)
        if spec and spec.origin:
            return stands_in(parsed(Path(spec.origin)), parts[size:])
    return False


@cache
def parsed(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text()).body


def stands_in(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether the names, each within the one before, are defined there, or imported to be had from there."""
    if not names:
        return True
    for one in body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and one.name == names[0]:
            return stands_in(one.body, names[1:])
        if isinstance(one, ast.ImportFrom) and [alias.asname or alias.name for alias in one.names].count(
            names[0]
        ):
            return len(names) == 1
        assigned = one.targets if isinstance(one, ast.Assign) else []
        if isinstance(one, ast.AnnAssign):
            assigned = [one.target]
        if any(isinstance(target, ast.Name) and [target.id] == names for target in assigned):
            return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_is_there(page: str) -> None:
    named = set(NAME.findall((ROOT / page).read_text())) - NO_CODE
    assert {name for name in named if not exists(name)} == set()


# -- files -----------------------------------------------------------------------------------------


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in headings(target.read_text()))


def absent(page: Path, text: str) -> list[str]:
    """Paths in backticks, from the root or from the page's own folder, of which there is no file;
    those that git ignores are made by a command.
    """
    named = {path for path in QUOTED.findall(text) if re.fullmatch(r"[\w.*/-]+/[\w.*/-]*", path)}
    bases = [ROOT, page.parent]
    ours = {
        path
        for path in named
        if path.partition("/")[0] in FOLDERS | {one.name for one in page.parent.iterdir()}
    }
    missing = {path for path in ours if not any(list(base.glob(path.rstrip("/"))) for base in bases)}
    made = git("check-ignore", "--stdin", given="\n".join(f"{path}\n{path}/" for path in missing))
    return sorted(missing - {path.rstrip("/") for path in made})


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_is_there(page: str) -> None:
    linked = LINK.findall((ROOT / page).read_text())
    assert [link for link in linked if not leads_somewhere(ROOT / page, link)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    written = {block.partition("\n")[0].removeprefix("# ") for block in FENCED.findall(text)}
    missing = [path for path in absent(ROOT / page, text) if path not in written]
    assert [path for path in missing if "tally" not in path or page != "docs/add-a-service.md"] == []


# -- commands --------------------------------------------------------------------------------------


def unknown_commands(text: str) -> Iterator[str]:
    """Commands in a page's code, of `make` and `penstock`, that neither knows."""
    lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
    for line in [*lines, *QUOTED.findall(FENCED.sub("", text))]:
        if not (command := COMMAND.match(line)):
            continue
        program, words = command[1], command[2].split()
        if program == "make":
            yield from (f"make {word}" for word in words if word not in TARGETS)
        elif words and not verb_exists(client(), words):
            yield f"penstock {' '.join(words)}"


@cache
def client() -> Any:
    """The client's command line, with all its verbs."""
    return typer.main.get_command(app)


def verb_exists(command: Any, words: list[str]) -> bool:
    """Words after a verb that is no group are its arguments."""
    verbs: dict[str, Any] | None = getattr(command, "commands", None)
    if verbs is None or not words:
        return True
    return words[0] in verbs and verb_exists(verbs[words[0]], words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_is_there(page: str) -> None:
    assert list(unknown_commands((ROOT / page).read_text())) == []


def test_the_metrics_in_the_runtimes_example_are_in_the_catalogue() -> None:
    text = (ROOT / "libs" / "runtime" / "penstock" / "runtime" / "metrics.py").read_text()
    named = re.findall(r"metrics\.([A-Z_]+)", ast.get_docstring(ast.parse(text)) or "")
    assert named
    assert [name for name in named if not isinstance(getattr(metrics, name, None), metrics.Metric)] == []


# -- words -----------------------------------------------------------------------------------------

COLUMNS = 100
WRAPPED = [page for page in PAGES if not page.startswith(("libs/", "services/", "tests/"))]


def too_long(text: str) -> list[str]:
    """Lines of prose beyond COLUMNS; tables and code are not prose."""
    lines = FENCED.sub("", text).splitlines()
    return [line for line in lines if len(line) > COLUMNS and not line.startswith("|")]


@pytest.mark.parametrize("page", WRAPPED)
def test_prose_fits_the_columns(page: str) -> None:
    assert too_long((ROOT / page).read_text()) == []


def test_the_glossary_is_short_and_its_words_are_in_use() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    words = re.findall(r"^\| \*\*([\w ]+)\*\* \|", text, re.MULTILINE)
    assert 0 < len(words) <= 15
    code = " ".join(
        (ROOT / name).read_text().lower()
        for name in FILES
        if re.match(r"(libs/(?!stubs)|services/).*\.py$", name) and "/tests/" not in name
    )
    assert [word for word in words if not re.search(rf"\b{word}\b", code)] == []


# -- the checks themselves -------------------------------------------------------------------------


def test_a_name_and_a_link_that_lead_nowhere_are_found() -> None:
    assert NAME.findall("`penstock_ingest.intake`, `penstock.runtime.nothing`, `runtime.store`") == [
        "penstock_ingest.intake",
        "penstock.runtime.nothing",
        "runtime.store",
    ]
    known = [
        "penstock_ingest.intake",
        "runtime.store",
        "contracts.pipeline.Model",
        "contracts.metrics.SERVICES",
    ]
    assert [name for name in known if not exists(name)] == []
    assert not exists("penstock.runtime.nothing")
    assert LINK.findall("[a](docs/a.md#part) [b](https://b) [c](#d)") == ["docs/a.md#part", "#d"]
    page = ROOT / "docs" / "operations.md"
    assert leads_somewhere(page, "alerts.md#doorheld")
    assert not leads_somewhere(page, "alerts.md#door-held")
    assert absent(
        page, "`libs/runtime`, `tests/*/test_cluster.py`, `libs/common`, `deploy/compose/secrets`"
    ) == ["libs/common"]


def test_a_command_that_is_not_there_is_found() -> None:
    text = "`make tests`, `make demo STACK=compose`\n```\n.venv/bin/penstock review drop X\nmake demo\n```\n"
    assert list(unknown_commands(text)) == ["penstock review drop", "make tests"]


def test_a_long_line_of_prose_is_found() -> None:
    long = "a " * 60
    assert too_long(f"short\n{long}\n| {long}|\n```\n{long}\n```\n") == [long]
