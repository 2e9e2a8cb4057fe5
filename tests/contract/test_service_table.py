"""The table of services against the folders: which members there are, what their protos, packaging
and wiring say.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.services import PLATFORM, SERVICES
from penstock.contracts.topics import CATALOGUE
from penstock.packages.keys import ROLES
from penstock.stack.ports import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {path.parent.name: path.parent for path in ROOT.glob("services/*/pyproject.toml")}
NO_ROW = {"status", "hub", "site", "fallback"}
"""Protos of what every service serves, and of what is never behind the front door."""


def declared(service: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((FOLDERS[service] / "pyproject.toml").read_text())["project"]
    return found


def wiring(service: str) -> set[str]:
    """Methods of `Service` that its `app.py` calls."""
    app = (FOLDERS[service] / f"penstock_{service}" / "app.py").read_text()
    return set(re.findall(r"\bservice\.(\w+)\(", app))


def test_each_folder_has_a_row_and_each_row_a_folder() -> None:
    assert FOLDERS.keys() == SERVICES.keys()


def test_each_grpc_name_is_that_of_its_proto() -> None:
    served = {
        f"{package}.{service}"
        for path in ROOT.glob("proto/penstock/*/v1/*.proto")
        for package in re.findall(r"^package (\S+);", path.read_text(), re.MULTILINE)
        for service in re.findall(r"^service (\w+)", path.read_text(), re.MULTILINE)
        if path.stem not in NO_ROW
    }
    assert {service.grpc for service in SERVICES.values() if service.grpc} == served
    for service in SERVICES.values():
        assert not service.grpc or service.grpc.split(".")[1] == service.name


def test_no_port_is_given_twice() -> None:
    ports = [*DEFAULTS.values(), *(row.port for name, row in SERVICES.items() if name not in PLATFORM)]
    assert len(set(ports)) == len(ports)


def test_each_role_signs_in_one_service() -> None:
    assert sorted(row.keys for row in SERVICES.values() if row.keys != "verify") == sorted(ROLES)


@pytest.mark.parametrize("service", SERVICES)
def test_a_row_needs_what_the_service_uses(service: str) -> None:
    row, member = SERVICES[service], declared(service)
    assert row.database == ("store" in wiring(service))
    assert row.jobs == ("jobs" in wiring(service))
    assert row.torch == ("penstock-modelkit" in member["dependencies"])
    assert bool(row.artifacts) == ("s3" in member.get("optional-dependencies", {}))
    assert row.consumer_group or any(service in topic.consumers for topic in CATALOGUE)
