"""Packages from the hub, by ranges: what a cut left goes on where it ended, after a restart too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from penstock.contracts.digests import digits_of
from penstock.contracts.errors import PenstockError, Tampered
from penstock.contracts.events import Artifact, ModelVersion
from penstock.edge_gateway.v1 import hub_pb2
from penstock.packages.archive import MODEL_SIGNATURE
from penstock.runtime.artifacts import file_digest
from penstock_edge_gateway.site.hub import Hub

RANGE_BYTES: Final = 512 << 10  # in WITHIN_S seconds a line of 18 kbit/s gives as much
WITHIN_S: Final = 240.0
ARCHIVE = hub_pb2.FetchPackageRequest.PART_ARCHIVE
SIGNATURE = hub_pb2.FetchPackageRequest.PART_SIGNATURE


class PackageFetch:
    """Fetch of `penstock.packages.admission`: called from a thread, it asks on the event loop."""

    def __init__(self, hub: Hub, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        """`folder`: of what is not whole yet, on the same disk as the packages."""
        self._hub = hub
        self._folder = folder
        self._loop = loop

    def __call__(self, version: ModelVersion, folder: Path) -> tuple[Path, Path]:
        """Blocks for as long as the hub is away. Raises Tampered for other bytes than the version's,
        and what the hub says against it.
        """
        return (
            self._whole(version, ARCHIVE, version.package, folder / "package.tar"),
            self._whole(version, SIGNATURE, version.signature, folder / MODEL_SIGNATURE),
        )

    def _whole(
        self,
        version: ModelVersion,
        part: hub_pb2.FetchPackageRequest.Part.ValueType,
        artifact: Artifact,
        to: Path,
    ) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        begun = self._folder / digits_of(artifact.digest)
        resumed = begun.exists()
        try:
            with begun.open("ab") as file:
                while (offset := file.tell()) < artifact.size:
                    length = min(RANGE_BYTES, artifact.size - offset)
                    file.write(self._range(version.digest, part, offset, length))
                    file.flush()
        except PenstockError:  # such a version comes no more
            begun.unlink()
            raise
        if (found := file_digest(begun)) == artifact.digest:
            return Path(shutil.move(begun, to))
        begun.unlink()
        if resumed:  # a power cut may have left anything
            return self._whole(version, part, artifact, to)
        raise Tampered(f"the hub gave {found[:19]}…, promoted was {artifact.digest[:19]}…", where=to.name)

    def _range(
        self, digest: str, part: hub_pb2.FetchPackageRequest.Part.ValueType, offset: int, length: int
    ) -> bytes:
        async def asked() -> hub_pb2.FetchPackageRequest:
            return hub_pb2.FetchPackageRequest(digest=digest, part=part, offset=offset, length=length)

        call = self._hub.call(self._hub.stub.FetchPackage, asked, within=WITHIN_S)
        data: bytes = asyncio.run_coroutine_threadsafe(call, self._loop).result().data
        if not 0 < len(data) <= length:
            raise Tampered(f"the hub gave {len(data)} bytes of {length}", where=digest)
        return data
