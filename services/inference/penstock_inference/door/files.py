"""The door's files. `python -m penstock_inference.door.files` writes the first ones, before Envoy
starts; inference replaces them.

Envoy reads a watched file again only when a new one is renamed over it, and does not start while
one is missing.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from penstock_inference.door.envoy import Door, Json, bootstrap, clusters, routes
from penstock_inference.settings import Settings


def write_first(door: Door) -> None:
    """Everything Envoy needs to start, and its log, readable by nobody else: it holds what people sent."""
    door.folder.mkdir(parents=True, exist_ok=True)
    door.folder.chmod(0o700)
    make_log(door)
    write_clusters(door)
    write_routes(door, required=True)  # until inference knows better
    write_bootstrap(door)


def write_bootstrap(door: Door) -> None:
    """Envoy reads it once, at its start."""
    _replace(door.folder / "envoy.json", bootstrap(door))


def make_log(door: Door) -> None:
    """Envoy would make it with the mode that its umask allows; it takes a file that is there as it
    is. Raises OSError for a link.
    """
    descriptor = os.open(
        door.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def write_clusters(door: Door, *, held: bool = False) -> None:
    _replace(door.folder / "cds.json", {"version_info": _version(), "resources": clusters(door, held=held)})


def write_routes(door: Door, closed: str | None = None, *, required: bool) -> bool:
    """Writes them unless they stand there already; whether it did. Routes name clusters: on a
    change of both, clusters go first.
    """
    path, wanted = door.folder / "rds.json", [routes(door, closed, required=required)]
    if path.exists() and json.loads(path.read_bytes()).get("resources") == wanted:
        return False
    _replace(path, {"version_info": _version(), "resources": wanted})
    return True


def _version() -> str:
    return uuid.uuid4().hex


def _replace(path: Path, document: Json) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    write_first(Settings().door)
