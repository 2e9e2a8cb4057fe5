"""The published schemas are what others' tools take; a bad fixture of each kind is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import published
import pytest
from ruamel.yaml import YAML

from penstock.contracts.asyncapi import asyncapi
from penstock.contracts.export import event_schemas, pipeline_schema

ROOT = Path(__file__).resolve().parents[2]
PARSER = Path(__file__).parent / "asyncapi"


def test_every_published_schema_is_sound() -> None:
    assert list(published.problems()) == []


def test_a_misspelt_key_of_a_pipeline_file_is_refused() -> None:
    pipeline = YAML(typ="safe").load((ROOT / "examples" / "adult-income" / "pipeline.yaml").read_text())
    pipeline["sorces"] = pipeline.pop("sources")
    assert any(
        "'sorces' was unexpected" in said for said in published.instance_problems(pipeline, pipeline_schema())
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s["properties"]["version"].update(type="text"), "is not valid"),
        (lambda s: s["$defs"].pop("ModelVersion"), "`#/$defs/ModelVersion` leads nowhere"),
        (lambda s: s.update(required="version"), "is not of type 'array'"),
    ],
    ids=["unknown type", "dangling reference", "misshapen keyword"],
)
def test_a_bad_event_schema_is_refused(spoil: Callable[[Any], object], said: str) -> None:
    schema = copy.deepcopy(event_schemas()["ModelVersionRegistered"])
    assert list(published.schema_problems(schema)) == []
    spoil(schema)
    assert any(said in problem for problem in published.schema_problems(schema))


def test_an_event_that_breaks_its_schema_is_refused() -> None:
    example = json.loads((ROOT / "schemas" / "examples" / "AuditStarted.json").read_text())
    example["pipeline"] = 7
    found = list(published.instance_problems(example, event_schemas()["AuditStarted"]))
    assert found == ["$.pipeline: 7 is not of type 'string'"]


BAD_DOCUMENTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a payload's own definitions": (
        lambda d: d["components"]["schemas"]["AuditCompleted"]["properties"].update(
            gates={"$ref": "#/$defs/GateResult"}
        ),
        "`#/$defs/GateResult` leads nowhere",
    ),
    "a channel that is not there": (
        lambda d: d["operations"]["ethics_audit sends audits.v1"]["channel"].update(
            {"$ref": "#/channels/audit.v1"}
        ),
        "its channel is none of the document's",
    ),
    "another channel's message": (
        lambda d: d["operations"]["ethics_audit sends audits.v1"].update(
            messages=[{"$ref": "#/channels/reviews.v1/messages/ReviewDecided"}]
        ),
        "a message is none of its channel's",
    ),
    "an unknown action": (
        lambda d: d["operations"]["ethics_audit sends audits.v1"].update(action="publish"),
        "'publish' is not one of",
    ),
    "an unknown key": (
        lambda d: d["channels"]["audits.v1"].update(owner="ethics_audit"),
        "'owner' was unexpected",
    ),
    "no version": (lambda d: d["info"].pop("version"), "'version' is a required property"),
    "a payload that is no schema": (
        lambda d: d["components"]["schemas"]["Record"]["properties"]["id"].update(type="text"),
        "components.schemas.Record.properties.id.type: 'text' is not valid",
    ),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_a_bad_asyncapi_document_is_refused(name: str) -> None:
    said = BAD_DOCUMENTS[name][1]
    assert any(said in problem for problem in published.asyncapi_problems(spoiled(name)))


def test_a_parameter_that_the_address_does_not_name_is_refused() -> None:
    document = copy.deepcopy(asyncapi())
    document["channels"]["audits.v1"]["parameters"] = {"pipeline": {"description": "A pipeline's name."}}
    assert list(published.asyncapi_problems(document)) == [
        "$.channels.audits.v1: the parameters are not those of the address"
    ]


def spoiled(name: str) -> Any:
    document = copy.deepcopy(asyncapi())
    BAD_DOCUMENTS[name][0](document)
    return document


@pytest.mark.process
def test_the_official_parser_takes_the_document_and_refuses_the_bad_ones() -> None:
    published_one = json.loads((ROOT / "schemas" / "asyncapi.json").read_text())
    errors, *errors_of_bad = officially_parsed([published_one, *map(spoiled, BAD_DOCUMENTS)])
    assert errors == []
    for name, found in zip(BAD_DOCUMENTS, errors_of_bad, strict=True):
        assert found, name


def officially_parsed(documents: Sequence[Any]) -> list[list[str]]:
    """For each document, the errors that the AsyncAPI initiative's own parser finds. npm brings it,
    in the versions of `asyncapi/package-lock.json`, the first time.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the AsyncAPI parser needs Node, and there is no npm here")
    lock = (PARSER / "package-lock.json").read_bytes()
    folder = ROOT / ".cache" / "asyncapi-parser" / hashlib.sha256(lock).hexdigest()[:12]
    shutil.copytree(PARSER, folder, dirs_exist_ok=True)
    if not (folder / "node_modules" / ".package-lock.json").exists():  # written when all is there
        install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=folder, check=True, timeout=300)
    done = subprocess.run(
        ["node", "parse.js"],
        cwd=folder,
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[list[str]] = json.loads(done.stdout)
    return found
