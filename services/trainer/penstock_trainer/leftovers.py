"""Graphs that were sent for an import and became no package leave the artifact store."""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from penstock.contracts.errors import PenstockError
from penstock.contracts.events import Artifact
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.store import Store
from penstock_trainer.receiving import is_received
from penstock_trainer.store import CANCELED, FAILED, RunRow

log = structlog.get_logger(__name__)

EVERY_S = 3600.0


def leftovers(session: Session) -> list[tuple[str, Artifact]]:
    """Lists pipeline and graph of failed and canceled imports, but of those that another run takes or
    took: the same file sent again lies in the same place.
    """
    imports = select(RunRow.state, RunRow.pipeline, RunRow.imported).where(RunRow.imported.is_not(None))
    gone, kept = {}, set()
    for state, pipeline, imported in session.execute(imports):
        assert imported is not None
        if state in (FAILED, CANCELED):
            gone[imported.graph.uri] = pipeline, imported.graph
        else:
            kept.add(imported.graph.uri)
    return [found for uri, found in gone.items() if uri not in kept]


async def remove_leftovers(store: Store, artifacts: Artifacts) -> None:
    """Removes them at the start and every hour; what is gone is gone."""
    while True:
        try:
            for pipeline, graph in await store.read(leftovers):
                if is_received(graph, pipeline, artifacts):
                    await asyncio.to_thread(artifacts.remove, graph)
        except PenstockError as error:
            log.warning("imports_not_removed", why=str(error))
        await asyncio.sleep(EVERY_S)
