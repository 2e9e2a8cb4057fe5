"""News for sites: promotions, pipeline files and their ends, each as the registry signed it. A site
verifies all of it again: the hub can keep news back, and make none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableSequence
from typing import Final

import structlog

from penstock.contracts.errors import Denied, NotFound, Tampered, Unavailable
from penstock.contracts.events import Envelope, ModelVersion, ModelVersionPromoted, PipelineApplied, encode
from penstock.contracts.pipeline import Pipeline
from penstock.edge_gateway.v1.hub_pb2 import Erasure, WatchRequest, WatchResponse
from penstock.packages import trust_updates
from penstock.packages.facts import check_granted
from penstock.packages.keys import Keys
from penstock.runtime.pipelines import AppliedPipelines
from penstock.runtime.restore import Restored
from penstock.runtime.router import Router
from penstock_edge_gateway.features import PSEUDONYMIZE, needed
from penstock_edge_gateway.hub.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.pseudonyms import fingerprint

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 5.0  # at the trust store
NAME_CHARACTERS: Final = 63  # of a pipeline, by contracts.events
ENOUGH_BYTES: Final = 512 * 1024
"""Limit of one answer: a site that has them asks for the rest."""


class News(Restored):
    """Restored from `model-versions.v1`; its `applied` from `pipelines.v1`. On the event loop."""

    def __init__(self, group: str, keys: Keys, pseudonyms: PseudonymKeys) -> None:
        """`keys`: the trust store."""
        self._keys = keys
        self._pseudonyms = pseudonyms
        self.applied = AppliedPipelines(group, keys, stated=self.changed)
        self.router = Router(group)
        self.router.on_replay(ModelVersionPromoted)(self._promoted)
        self._promotions: dict[str, ModelVersionPromoted] = {}  # the newest of each pipeline
        self._trust: tuple[Envelope, ...] = ()
        self._change = asyncio.Event()

    def trust(self) -> tuple[Envelope, ...]:
        """Reads the updates of the trust store. Raises Tampered."""
        return trust_updates.read(self._keys.directory)

    async def follow_trust(self) -> None:
        """Looks for updates of the trust store, for as long as it is not cancelled."""
        while True:
            try:
                found = await asyncio.to_thread(self.trust)
            except (Tampered, OSError) as error:
                log.warning("trust_updates_unreadable", why=str(error))
            else:
                if found != self._trust:
                    self._trust = found
                    self.changed()
            await asyncio.sleep(LOOK_EVERY_S)

    def changed(self) -> None:
        """Lets all who wait look again."""
        self._change.set()
        self._change = asyncio.Event()

    def declared(self, name: str) -> Pipeline:
        """Finds an applied pipeline. Raises NotFound for one that was deleted, by the registry's
        signature; Unavailable for one that this hub does not know: its file may come yet, and what a
        site kept for it would be lost meanwhile.
        """
        if len(name) > NAME_CHARACTERS:  # nor is it compared with all that are known
            raise NotFound(f"no pipeline has a name of {len(name)} characters")
        try:
            return self.applied.get(name).pipeline
        except NotFound as error:
            if name in self.applied.statements:
                raise
            raise Unavailable(
                f"this hub knows no pipeline `{name}`", remedy="Apply its file; what waits comes then"
            ) from error

    def pseudonym(self, pipeline: str, entity: str) -> str | None:
        """Pseudonym of an entity; None where there is none. Blocks. Raises Unavailable while the pipeline
        may yet be read, and Tampered.
        """
        try:
            field = self.applied.get(pipeline).pipeline.key
        except NotFound:
            return None
        return self._pseudonyms.pseudonym(pipeline, field, entity)

    def version(self, digest: str) -> ModelVersion:
        """Finds a version that a site may fetch. Raises NotFound for one that no pipeline serves now."""
        for promotion in self._promotions.values():
            if promotion.version.digest == digest:
                return promotion.version
        raise NotFound(f"no pipeline has {digest[:19]}… promoted now", remedy="Ask what is newer")

    async def newer(
        self, known: WatchRequest, within_s: float, erasures: Callable[[], Awaitable[Iterable[Erasure]]]
    ) -> WatchResponse:
        """Waits for something that the site does not know, or has still to do, by `erasures`; answers
        empty after `within_s` seconds.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            change = self._change
            found = self._newer(known)
            found.pseudonym_keys.update(await self._pseudonym_keys(known))
            found.erasures.extend(await erasures())
            if found.ByteSize():
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await change.wait()
            except TimeoutError:
                return found

    def _newer(self, known: WatchRequest) -> WatchResponse:
        news, size = WatchResponse(), 0
        if self._trust and trust_updates.first(self._trust).serial > known.trust_serial:
            news.trust = trust_updates.written(self._trust)
        for place, said in self._unknown(known, news):
            if size and size + len(said) > ENOUGH_BYTES:
                break
            place.append(said)
            size += len(said)
        return news

    async def _pseudonym_keys(self, known: WatchRequest) -> dict[str, bytes]:
        if PSEUDONYMIZE not in known.status.features:
            return {}
        names = [one.pipeline.pipeline for one in self.applied.all if one.pipeline.edge.pseudonymize]
        try:
            keys = [(name, await asyncio.to_thread(self._pseudonyms.key, name)) for name in names]
        except (Tampered, OSError) as error:  # sites get all other news
            log.error("pseudonym_keys_unreadable", why=str(error))
            return {}
        return {name: key for name, key in keys if known.pseudonym_keys.get(name) != fingerprint(key)}

    def held_back(self, features: Iterable[str]) -> list[str]:
        """Lists the pipelines whose file a site that has these features could not carry out."""
        known = frozenset(features)
        return sorted(one.pipeline.pipeline for one in self.applied.all if needed(one.pipeline) - known)

    def check_told(self, pipeline: str, features: Iterable[str]) -> None:
        """Raises Denied where a site that has these features is not told the pipeline's file. It judges
        by an older one which columns may leave, and tensors do not name theirs.
        """
        if pipeline in self.held_back(features):
            raise Denied(
                f"the site's release cannot carry out the newest file of {pipeline}, so it sends no tensors",
                remedy="Upgrade the site, or ask by fields",
            )

    def _unknown(
        self, known: WatchRequest, news: WatchResponse
    ) -> Iterator[tuple[MutableSequence[bytes], bytes]]:
        """Events that the site does not know and can follow, each with its place in the answer."""
        held_back = self.held_back(known.status.features)
        for name, stated in self.applied.statements.items():
            number = known.numbers.get(name, 0)
            if isinstance(stated, PipelineApplied):
                if stated.number > number and name not in held_back:
                    yield news.pipelines, encode(stated)
            elif 0 < number <= stated.number:
                yield news.deleted, encode(stated)
        for name, promotion in self._promotions.items():  # a version's package has a file, too
            if promotion.generation > known.generations.get(name, 0) and name not in held_back:
                yield news.promotions, encode(promotion)

    def _promoted(self, event: ModelVersionPromoted) -> None:
        """Raises Tampered for what the registry did not grant."""
        check_granted(event, self._keys.trust())
        known = self._promotions.get(event.version.pipeline)
        if known is None or event.generation > known.generation:
            self._promotions[event.version.pipeline] = event
            self.changed()
