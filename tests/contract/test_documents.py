"""What the documents name is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split()
NAME = re.compile(r"`(penstock(?:_\w+)?\.\w+(?:\.\w+)*)(?:\(\))?`")
NO_CODE = {"penstock.run", "penstock.feature_store.records", "penstock.service.ready"}
"""A tag in MLflow, a consumer group, a metric."""
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def exists(name: str) -> bool:
    """A module, or what stands in one; a gRPC service. Nothing is imported but packages."""
    if service := re.fullmatch(r"penstock\.(\w+)\.v1\.(\w+Service)", name):
        return (
            f"service {service[2]} "
            in (ROOT / "proto" / "penstock" / service[1] / "v1" / f"{service[1]}.proto").read_text()
        )
    parts = name.split(".")
    for size in range(len(parts), 1 if parts[0] == "penstock" else 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        if spec and not spec.origin:  # a package of several members
            return size == len(parts)
        if spec and spec.origin:
            return stands_in(ast.parse(Path(spec.origin).read_text()).body, parts[size:])
    return False


def stands_in(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether the names, each within the one before, are defined there, or imported to be had from there."""
    if not names:
        return True
    imported = {
        alias.asname or alias.name for one in body if isinstance(one, ast.ImportFrom) for alias in one.names
    }
    if len(names) == 1 and names[0] in imported:
        return True
    found = [
        one
        for one in body
        if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and one.name == names[0]
    ]
    return bool(found) and stands_in(found[0].body, names[1:])


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_is_there(page: str) -> None:
    named = set(NAME.findall((ROOT / page).read_text())) - NO_CODE
    assert {name for name in named if not exists(name)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_is_there(page: str) -> None:
    linked = LINK.findall((ROOT / page).read_text())
    assert [link for link in linked if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_a_name_and_a_link_that_lead_nowhere_are_found() -> None:
    assert NAME.findall("see `penstock_ingest.intake` and `penstock.runtime.nothing`") == [
        "penstock_ingest.intake",
        "penstock.runtime.nothing",
    ]
    assert (
        exists("penstock_ingest.intake"),
        exists("penstock.runtime.nothing"),
        exists("penstock.contracts.pipeline.Model"),
    ) == (
        True,
        False,
        True,
    )
    assert LINK.findall("[a](docs/a.md#part) [b](https://b) [c](#d)") == ["docs/a.md"]
