"""Artifacts: bytes in a store, named by URI and checked by digest. `file://` on one machine,
`s3://` for several.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Invalid, NotFound, Tampered
from penstock.contracts.events import Artifact
from penstock.runtime.artifacts_file import FileArtifactStore
from penstock.runtime.artifacts_s3 import S3ArtifactStore

_ROOT = re.compile(r"file:///[^/].*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/?#\s]+)*/?")


class ArtifactStore(Protocol):
    """Bytes by URI. Safe from any thread. All raise Unavailable, those that read FileNotFoundError."""

    def put(self, path: Path, uri: str) -> None:
        """Whole or not at all, and durable; a URI that exists is replaced."""

    def get(self, uri: str, to: Path, most: int | None = None) -> None:
        """Raises Tampered, having written no more, for what has more than `most` bytes."""

    def delete(self, uri: str) -> None:
        """The URI or everything below it; missing is fine."""


# Stores by a URI's scheme, made for a root.
STORES: Mapping[str, Callable[[str], ArtifactStore]] = {
    "file": FileArtifactStore,
    "s3": lambda _: S3ArtifactStore(),
}


class Artifacts:
    """Keys below one root: `training-sets/<id>/train.parquet`. What was put is durable when the
    call returns.

    Artifacts may lie below other roots, too, where they were put before; nothing that lies elsewhere
    is read, replaced or removed, whoever names it.
    """

    def __init__(self, roots: str) -> None:
        """`roots`: with commas between them, the one for what is new first. Connects to nothing.
        Raises Invalid as `checked_roots`, and for S3 without the extra `s3`.
        """
        self.roots = checked_roots(roots)
        self.root, *_ = divided(self.roots)
        self._stores: dict[str, ArtifactStore] = {}
        self._below(self.root)

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    def put_bytes(self, key: str, data: bytes) -> Artifact:
        """Writes whole or not at all; a key that exists is replaced. Raises Unavailable."""
        return self._put_bytes(self.uri(key), data)

    def put_file(self, key: str, path: Path) -> Artifact:
        """Writes whole or not at all; a key that exists is replaced. Raises Unavailable when the
        store does not take it.
        """
        return self._put(self.uri(key), path)

    def replace(self, artifact: Artifact, data: bytes) -> Artifact:
        """Other bytes where the artifact is, whole or not at all: the old ones are nowhere any
        more. Raises Unavailable.
        """
        return self._put_bytes(artifact.uri, data)

    def fetch(self, artifact: Artifact, to: Path) -> Path:
        """Copies the bytes to `to` and checks them. Raises NotFound, Tampered, Unavailable."""
        to.parent.mkdir(parents=True, exist_ok=True)
        self._get(artifact, to, most=artifact.size)
        _check(artifact, file_digest(to))
        return to

    def read(self, artifact: Artifact) -> bytes:
        """The bytes, checked. Raises NotFound, Tampered, Unavailable."""
        data = self._read(artifact, most=artifact.size)
        _check(artifact, digest_of(data))
        return data

    def read_unchecked(self, artifact: Artifact) -> bytes:
        """The bytes as they are now, for who knows that they may have been replaced. Raises
        NotFound, Unavailable.
        """
        return self._read(artifact, most=None)

    def delete(self, key: str) -> None:
        """Removes a key or everything below it; missing is fine. Raises Unavailable."""
        self._store_of(self.uri(key)).delete(self.uri(key))

    def remove(self, artifact: Artifact) -> None:
        """Removes the artifact where it is; missing is fine. What is there and is not its bytes, a folder
        say, stays. Raises Unavailable.
        """
        with suppress(NotFound, Tampered):
            self.read(artifact)
            self._store_of(artifact.uri).delete(artifact.uri)

    def _put_bytes(self, uri: str, data: bytes) -> Artifact:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "bytes"
            path.write_bytes(data)
            return self._put(uri, path)

    def _put(self, uri: str, path: Path) -> Artifact:
        artifact = Artifact(uri=uri, digest=file_digest(path), size=path.stat().st_size)
        self._store_of(uri).put(path, uri)
        return artifact

    def _read(self, artifact: Artifact, most: int | None) -> bytes:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "bytes"
            self._get(artifact, path, most)
            return path.read_bytes()

    def _get(self, artifact: Artifact, to: Path, most: int | None) -> None:
        try:
            self._store_of(artifact.uri).get(artifact.uri, to, most)
        except FileNotFoundError as error:
            raise NotFound("the artifact is gone", where=artifact.uri) from error

    def _store_of(self, uri: str) -> ArtifactStore:
        """Raises Invalid for what lies below none of the roots."""
        for root in divided(self.roots):
            if uri.startswith(f"{root}/") and _is_key(uri.removeprefix(f"{root}/")):
                return self._below(root)
        raise Invalid(
            "this lies in no artifact store of this service",
            where=uri,
            remedy="Where it lay before, name that root in PENSTOCK_ARTIFACTS, behind a comma",
        )

    def _below(self, root: str) -> ArtifactStore:
        if root not in self._stores:
            self._stores[root] = STORES[root.partition("://")[0]](root)
        return self._stores[root]


def checked_roots(roots: str, where: str | None = None) -> str:
    """Without the slash at the end of each. Raises Invalid that names `where` they stand and does not
    repeat them: a key may be part of one.
    """
    if not all(_ROOT.fullmatch(root) for root in divided(roots)):
        remedy = (
            "Write file:///folder or s3://bucket/prefix; the keys to a bucket stand in the file that"
            " AWS_SHARED_CREDENTIALS_FILE names"
        )
        raise Invalid("this names no artifact store", where=where, remedy=remedy)
    return ",".join(root.rstrip("/") for root in divided(roots))


def divided(roots: str) -> list[str]:
    """The roots one by one; a comma within a folder's name divides nothing."""
    return re.split(r",(?=[a-z0-9]+:/)", roots)


def _is_key(key: str) -> bool:
    """Tells whether it leads downwards only."""
    return "\0" not in key and all(part not in ("", ".", "..") for part in key.split("/"))


def file_digest(path: Path) -> str:
    """`sha256:` and 64 hex digits of a file's bytes."""
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _check(artifact: Artifact, found: str) -> None:
    if found != artifact.digest:
        raise Tampered(f"these bytes are {found[:19]}…, expected {artifact.digest[:19]}…", where=artifact.uri)
