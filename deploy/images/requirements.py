"""Requirements of each image: the closure of the member's dependencies, with its extras, pinned with
their hashes as in requirements.lock. Of a site and of the client too, and of what builds the wheels.
The services with torch have one file, so that their images share its layer of 4.5 GB.

`make lock` and `make gen` write `deploy/images/<service>.txt`; `make check` compares. Read from the
members' pyproject.toml and, of others, from what is installed: nothing is downloaded.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penstock.contracts.export import written
from penstock.contracts.services import SERVICES, ServiceDefinition

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = "penstock-"
_PROJECTS = [tomllib.loads(path.read_text())["project"] for path in ROOT.glob("*/*/pyproject.toml")]
MEMBERS: dict[str, Any] = {canonicalize_name(project["name"]): project for project in _PROJECTS}
OLDEST = "3.11.0"
"""Whichever Python 3.11 writes the files and whichever the base image has: what only an older one
needs is in them.
"""


def closure(requirement: Requirement, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """All distributions behind `requirement`, each with the extras that are asked of it; adds to `found`."""
    name = canonicalize_name(requirement.name)
    known = found.get(name)
    if known is not None and requirement.extras <= known:
        return found
    extras = found.setdefault(name, set())
    extras |= requirement.extras
    for needed in requires(name):
        if needed.marker is None or any(
            needed.marker.evaluate({"extra": extra, "python_full_version": OLDEST}) for extra in ("", *extras)
        ):
            closure(needed, found)
    return found


def requires(name: str) -> Iterator[Requirement]:
    """Requirements that a distribution declares; an extra's with the marker that names the extra."""
    if not name.startswith(OURS):
        yield from map(Requirement, distribution(name).requires or ())
        return
    project = MEMBERS[name]
    yield from map(Requirement, project["dependencies"])
    for extra, lines in project.get("optional-dependencies", {}).items():
        yield from (Requirement(f"{line}; extra == '{extra}'") for line in lines)


def pins() -> dict[str, str]:
    """Entry by package: a line with its version, then an indented one for each file's hash."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    return {canonicalize_name(entry.partition("==")[0]): entry for entry in entries}


def text(members: Iterable[str]) -> str:
    """One file for all of them. Raises KeyError for a package that is installed and not locked."""
    locked = pins()
    names: dict[str, set[str]] = {}
    for member in members:
        closure(Requirement(member), names)
    return "".join(f"{locked[name]}\n" for name in sorted(names) if not name.startswith(OURS))


def with_extras(service: ServiceDefinition) -> str:
    member = canonicalize_name(OURS + service.name)
    extras = service.extras or MEMBERS[member].get("optional-dependencies", {})
    return f"{member}[{','.join(extras)}]"


def files() -> dict[Path, str]:
    listed = {"client": [f"{OURS}client"], "build": ["hatchling"], "site": [f"{OURS}edge-gateway[site]"]}
    for service in SERVICES.values():
        listed.setdefault(service.packages, []).append(with_extras(service))
    return {HERE / f"{name}.txt": text(members) for name, members in listed.items()}


if __name__ == "__main__":
    sys.exit(written(files(), check="--check" in sys.argv, of=ROOT))
