"""Packages for sites: archives and signatures of promoted versions, fetched from the artifact store
once and read by ranges. Each site proves what it gets by the digests in the promotion.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.events import ModelVersion
from penstock.edge_gateway.v1.hub_pb2 import FetchPackageRequest as Request
from penstock.runtime.artifacts import Artifacts

RANGE_BYTES: Final = 1 << 20
_PARTS: Final = {Request.PART_ARCHIVE: "package", Request.PART_SIGNATURE: "signature"}


class Shelf:
    """Safe from any thread."""

    def __init__(self, artifacts: Artifacts, folder: Path, version_of: Callable[[str], ModelVersion]) -> None:
        """Empties `folder`: what is kept there was fetched by this process. `version_of` finds a version
        that may be fetched now, by its digest; raises NotFound.
        """
        self._artifacts = artifacts
        self._folder = folder
        self._version_of = version_of
        self._fetching = threading.Lock()
        shutil.rmtree(folder, ignore_errors=True)

    def read(self, digest: str, part: Request.Part.ValueType, offset: int, length: int) -> tuple[bytes, int]:
        """Returns a range of a part, and the bytes of the whole part. Blocks. Raises NotFound for a
        version that is not promoted now, Invalid, Unavailable.
        """
        if part not in _PARTS:
            raise Invalid("say which part: the archive or the signature", where="part")
        version = self._version_of(digest)
        path = self._kept(version, _PARTS[part])
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if offset > size:
                raise Invalid(f"the part has {size} bytes", where="offset")
            return os.pread(file.fileno(), min(length or RANGE_BYTES, RANGE_BYTES), offset), size

    def _kept(self, version: ModelVersion, name: str) -> Path:
        path = self._place(version.digest) / name
        if not path.exists():
            with self._fetching:
                if not path.exists():
                    self._drop_superseded()
                    incoming = path.with_suffix(".incoming")
                    self._artifacts.fetch(getattr(version, name), incoming).rename(path)
        return path

    def _place(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _drop_superseded(self) -> None:
        for place in self._folder.glob("*"):
            try:
                self._version_of(f"sha256:{place.name}")
            except NotFound:
                with suppress(FileNotFoundError):
                    shutil.rmtree(place)
