"""A Ray cluster that a job uses: one by its address, or one that it starts on this machine for itself."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import ray
from ray.exceptions import RayError

from penstock.contracts.errors import Unavailable
from penstock.runtime.marked import MARK, lives, marked, sweep

OBJECTS = 80_000_000  # bytes of the object store, whose least size that is
LONGEST_FOLDER = 40  # characters: Ray puts sockets some 60 below it, and the kernel takes 107
TOKEN = secrets.token_hex(32)  # Ray reads it once in a process
USUAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "180"}


class RayCluster:
    """Make it in the caller's main thread; one a process."""

    def __init__(self, home: Path, address: str | None, processors: int) -> None:
        """`address`: of a cluster that is there; None: Ray is started on this machine, with so many
        `processors` and its files below `home`.
        """
        self._home, self._address, self._processors = home, address, processors
        self._raylet: int | None = None
        self._joined = self._gone = False

    @property
    def connected(self) -> bool:
        return bool(ray.is_initialized())

    @property
    def lost(self) -> bool:
        """True when the raylet that was started here has died, for which Ray would wait for ever, or the
        head of a cluster elsewhere, for which it has looked in vain, or which began anew and knows nothing
        of this process.
        """
        if self._gone:
            return True
        if self._raylet is not None:
            return not lives(self._raylet)
        return self._joined and not self.connected

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Calls of Ray, by which the cluster may turn out to be `lost`: then raises ConnectionError."""
        try:
            yield
        except (ConnectionError, grpc.RpcError) as error:
            self._gone = True
            told = error.details() if isinstance(error, grpc.Call) else error
            raise ConnectionError(str(told)) from error

    def connect(self) -> None:
        """Blocks for some seconds. Raises Unavailable."""
        try:
            if self._address is not None:
                ray.init(address=self._address, log_to_driver=False)
                self._joined = True
            else:
                self._start()
        except (RayError, OSError, RuntimeError) as error:
            self.end()
            raise Unavailable(f"Ray is not there: {error}", where="RAY_ADDRESS") from error

    def end(self) -> None:
        """Ends Ray where it was started here, else this process's part in it."""
        self._raylet, self._joined, self._gone = None, False, False
        ray.shutdown()
        if self._address is None:
            _clear(folder_of(self._home))

    def _start(self) -> None:
        """Starts Ray here, after what a killed caller has left behind is gone."""
        folder = folder_of(self._home)
        _clear(folder)
        folder.mkdir(parents=True, mode=0o700)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        with _environment({MARK: str(folder), "RAY_AUTH_TOKEN_PATH": str(token), **USUAL}):
            ray.init(
                address="local",
                num_cpus=self._processors,
                include_dashboard=False,
                object_store_memory=OBJECTS,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
        self._raylet = next((pid for pid in marked(folder) if _name(pid) == "raylet"), None)
        if self._raylet is None:
            raise ConnectionError("its raylet has just died")


def folder_of(home: Path) -> Path:
    """Ray's folder below `home`, or, where that is too long for its sockets, among temporary files."""
    below = home.resolve() / "ray"
    if len(str(below)) <= LONGEST_FOLDER:
        return below
    digest = hashlib.sha256(str(below).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"penstock-ray-{digest}"


def _clear(folder: Path) -> None:
    sweep(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that processes inherit which are started meanwhile."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
