"""Artifacts: bytes in a store, named by URI and checked by digest. `file://` on one machine, any fsspec URI elsewhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from penstock.contracts.errors import NotFound, Tampered, Unavailable
from penstock.contracts.events import Artifact

_CHUNK = 1 << 20


class Artifacts:
    """One root, keys below it: `training-sets/<id>/train.parquet`. What was put is durable when the call returns."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._fs, self._path = fsspec.core.url_to_fs(self.root)
        self._local = isinstance(self._fs, LocalFileSystem)

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    def put_bytes(self, key: str, data: bytes) -> Artifact:
        """Writes whole or not at all; a key that exists is replaced."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "bytes"
            path.write_bytes(data)
            return self.put_file(key, path)

    def put_file(self, key: str, path: Path) -> Artifact:
        """Writes whole or not at all; a key that exists is replaced. Raises Unavailable when the store does not take it."""
        artifact = Artifact(uri=self.uri(key), digest=digest_of(path), size=path.stat().st_size)
        try:
            if self._local:
                _place(path, Path(self._path) / key)
            else:
                self._fs.put_file(str(path), f"{self._path}/{key}")
        except OSError as error:
            raise Unavailable(f"the artifact store does not take {key}: {error}", where=self.root) from error
        return artifact

    def fetch(self, artifact: Artifact, to: Path) -> Path:
        """Copies the bytes to `to` and checks them. Raises NotFound, Tampered, Unavailable."""
        to.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with self._open(artifact) as source, to.open("wb") as target:
            while chunk := source.read(_CHUNK):
                found.update(chunk)
                target.write(chunk)
        _check(artifact, found)
        return to

    def read(self, artifact: Artifact) -> bytes:
        """The bytes, checked. Raises NotFound, Tampered, Unavailable."""
        with self._open(artifact) as source:
            data = source.read()
        _check(artifact, hashlib.sha256(data))
        return data

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(f"{self._path}/{key}"))

    def delete(self, key: str) -> None:
        """Removes a key or everything below it; missing is fine."""
        if self.exists(key):
            self._fs.rm(f"{self._path}/{key}", recursive=True)

    def _open(self, artifact: Artifact) -> BinaryIO:
        try:
            opened: BinaryIO = fsspec.open(artifact.uri, "rb").open()
        except FileNotFoundError as error:
            raise NotFound("the artifact is gone", where=artifact.uri) from error
        except OSError as error:
            raise Unavailable(f"the artifact store does not answer: {error}", where=artifact.uri) from error
        return opened


def digest_of(path: Path) -> str:
    """`sha256:` and 64 hex digits of a file's bytes."""
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _check(artifact: Artifact, found: hashlib._Hash) -> None:
    if f"sha256:{found.hexdigest()}" != artifact.digest:
        raise Tampered(f"these bytes are sha256:{found.hexdigest()[:12]}…, expected {artifact.digest[:19]}…", where=artifact.uri)


def _place(path: Path, target: Path) -> None:
    """Copy beside the target, to disk, then rename: a reader sees the old bytes or the new ones, also after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".incoming-")
    try:
        with os.fdopen(descriptor, "wb") as incoming, path.open("rb") as source:
            shutil.copyfileobj(source, incoming, _CHUNK)
            incoming.flush()
            os.fsync(incoming.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
