"""Files of the door. Envoy reads a watched file again when a new one is renamed over it, and does
not start while one is missing.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from penstock_inference.door.bootstrap import CLUSTERS_FILE, LISTENERS_FILE, ROUTES_FILE, bootstrap
from penstock_inference.door.door import LOG_FILE, Door
from penstock_inference.door.routes import clusters, routes
from penstock_inference.door.xds import Json

BOOTSTRAP_FILE: Final = "envoy.json"


def prepare(door: Door) -> None:
    """Makes what Envoy needs to start and is missing, and brings up to date what it reads only
    then.

    Routes that inference keeps already stay, and so do its clusters unless their addresses are
    others than this door's. Folders and log are readable by nobody else: they hold what people sent.
    """
    for folder in (door.folder, door.logs):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    adopt(door)
    if not os.path.lexists(door.log):
        make_log(door)
    if _resources(door.folder, CLUSTERS_FILE) not in (clusters(door), clusters(door, held=True)):
        write_clusters(door)
    if _resources(door.folder, ROUTES_FILE) is None:
        write_routes(door, required=True)  # until inference knows better
    if _resources(door.folder, LISTENERS_FILE) is None:
        write_resources(door.folder, LISTENERS_FILE, [])
    _replace(door.folder / BOOTSTRAP_FILE, bootstrap(door))


def make_log(door: Door) -> None:
    """Makes the log with mode 0600, or gives it that mode: Envoy would make it with the mode that
    its umask allows, but keeps that of a file that is there. Raises OSError for a link.
    """
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(door.log, flags, 0o600), "ab") as log:
        os.fchmod(log.fileno(), 0o600)


def adopt(door: Door) -> None:
    """Takes in the log of an Envoy that was started by the release before, which has it in the door's
    folder itself, and what was rotated there. That Envoy opens its log for each line, and so makes
    another.
    """
    for path in sorted(door.folder.glob("predictions*.log")):
        if path.is_file() and not path.is_symlink():
            path.rename(aside_of(door) if path.name == LOG_FILE else door.logs / path.name)


def aside_of(door: Door) -> Path:
    """Path to which the log that Envoy writes is renamed now."""
    return door.logs / f"predictions-{time.time_ns():020d}.log"


def write_clusters(door: Door, *, held: bool = False) -> None:
    """Replaces the clusters; with `held` predictions wait in the door."""
    _write(door.folder, CLUSTERS_FILE, clusters(door, held=held))


def write_routes(
    door: Door, closed: str | None = None, *, required: bool, served: Collection[str] = ()
) -> bool:
    """Replaces the routes unless they are the same; returns whether it did. Routes name clusters:
    on a change of both, clusters go first.
    """
    wanted = [routes(door, closed, required=required, served=served)]
    return write_resources(door.folder, ROUTES_FILE, wanted)


def write_resources(folder: Path, name: str, wanted: list[Json]) -> bool:
    """Replaces a watched file unless it holds the same; returns whether it did."""
    if _resources(folder, name) == wanted:
        return False
    _write(folder, name, wanted)
    return True


def _resources(folder: Path, name: str) -> Any:
    # As they are in the file; None where there is no such file, or it is broken.
    try:
        return json.loads((folder / name).read_bytes()).get("resources")
    except (FileNotFoundError, ValueError):
        return None


def _write(folder: Path, name: str, resources: list[Json]) -> None:
    _replace(folder / name, {"version_info": uuid.uuid4().hex, "resources": resources})


def _replace(path: Path, document: Any) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document, indent=1))
    beside.replace(path)
