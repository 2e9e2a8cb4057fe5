"""A file that comes in chunks, into the artifact store and out of it, within a bound."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from penstock.contracts.digests import digits_of
from penstock.contracts.errors import Invalid, Tampered, TooLarge
from penstock.contracts.events import Artifact
from penstock.runtime.artifacts import Artifacts, file_digest

MAX_GRAPH_BYTES = 256 << 20


async def receive(
    chunks: AsyncIterator[bytes], pipeline: str, artifacts: Artifacts, *, most: int = MAX_GRAPH_BYTES
) -> Artifact:
    """Stores the file under its digest. Raises TooLarge, Invalid where it is empty, Unavailable."""
    with tempfile.TemporaryDirectory(prefix="penstock-import-") as scratch:
        path, size = Path(scratch) / "model.onnx", 0
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise TooLarge(
                        f"the file has more than {most:,} bytes",
                        where="chunk",
                        remedy="Export a smaller model, or its weights in FP16",
                    )
                await asyncio.to_thread(file.write, chunk)
        if not size:
            raise Invalid("the file is empty", where="chunk")
        digest = await asyncio.to_thread(file_digest, path)
        return await asyncio.to_thread(artifacts.put_file, _key(pipeline, digest), path)


def received(graph: Artifact, pipeline: str, artifacts: Artifacts) -> bytes:
    """Bytes of a file that `receive` stored; whoever wished for the run named it. Raises Tampered
    where it lies elsewhere or is another, NotFound, Unavailable.
    """
    if not is_received(graph, pipeline, artifacts) or graph.size > MAX_GRAPH_BYTES:
        raise Tampered("this is no file that was sent for an import", where=graph.uri)
    return artifacts.read(graph)


def is_received(graph: Artifact, pipeline: str, artifacts: Artifacts) -> bool:
    """Tells whether the file lies where `receive` puts it."""
    return graph.uri == artifacts.uri(_key(pipeline, graph.digest))


def _key(pipeline: str, digest: str) -> str:
    return f"imports/{quote(pipeline)}/{digits_of(digest)}.onnx"
