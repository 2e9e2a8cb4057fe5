"""Watch: what is newer at the hub than here, taken in as it comes. What the site has is enough to go
on: a hub that comes back changes nothing unless something newer was granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from penstock.contracts.errors import PenstockError, Tampered
from penstock.contracts.events import Event, ModelVersionPromoted, PipelineApplied, PipelineDeleted
from penstock.edge_gateway.v1 import hub_pb2
from penstock.packages.evidence import admissible
from penstock.packages.keys import Keys
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.reporting import Reporting
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trust import SiteTrust

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Event)

WITHIN_S: Final = 270.0  # the hub answers within 240 s, newer or not
AFTER_NONSENSE_S: Final = 60.0  # what is not taken would come again at once


class Watch:
    def __init__(
        self,
        hub: Hub,
        serving: Serving,
        pipelines: Pipelines,
        trust: SiteTrust,
        pseudonyms: PseudonymKeys,
        reporting: Reporting,
        erase: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """`erase` removes an entity of a pipeline, and returns when nothing of it can be forwarded."""
        self._hub = hub
        self._serving = serving
        self._pipelines = pipelines
        self._trust = trust
        self._pseudonyms = pseudonyms
        self._reporting = reporting
        self._erase = erase
        self._erased = 0  # serial of the last erasure that was carried out
        self._refused = ""  # why the hub tells this site nothing
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Asks for as long as the site runs."""
        while True:
            try:
                progress = await self._once()
            except PenstockError as error:
                if str(error) != self._refused:
                    log.warning("not_watched", reason=str(error))
                progress, self._refused = False, str(error)
            else:
                self._refused = ""
            if not progress:
                await asyncio.sleep(AFTER_NONSENSE_S)

    async def _once(self) -> bool:
        # Whether to ask again at once: not where an answer brought nothing that the site could take, be
        # it wrong or of a later release.
        before = self._known()
        if (answer := await self._answer()) is None:
            return True
        taken = await self._take(answer)
        return taken and (not answer.ByteSize() or self._known() != before)

    async def _answer(self) -> hub_pb2.WatchResponse | None:
        # None where the site's status has changed meanwhile: the next call tells it.
        asking = asyncio.create_task(self._hub.call(self._hub.stub.Watch, self._request, within=WITHIN_S))
        changing = asyncio.create_task(self._reporting.changed())
        try:
            await asyncio.wait({asking, changing}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else changing.result()
        finally:
            for task in (asking, changing):
                task.cancel()
            await asyncio.gather(asking, changing, return_exceptions=True)

    def _known(self) -> hub_pb2.WatchRequest:
        return hub_pb2.WatchRequest(
            incarnation=self._hub.incarnation,
            generations=self._serving.generations(),
            numbers=self._pipelines.numbers,
            trust_serial=self._trust.serial,
            erased=self._erased,
            pseudonym_keys=self._pseudonyms.fingerprints,
        )

    async def _request(self) -> hub_pb2.WatchRequest:
        request = self._known()
        request.status.CopyFrom(await asyncio.to_thread(self._reporting.tell))
        return request

    async def _take(self, answer: hub_pb2.WatchResponse) -> bool:
        # Whether all of it was taken in. Trust comes first: what follows may be signed by a new key.
        taken = [
            await self._follow(answer.trust) if answer.trust else True,
            *[await self._one(PipelineApplied, said, self._pipelines.apply) for said in answer.pipelines],
            *[await self._one(PipelineDeleted, said, self._pipelines.delete) for said in answer.deleted],
            *[await self._one(ModelVersionPromoted, said, self._promoted) for said in answer.promotions],
        ]
        taken += [await self._key(name, key) for name, key in answer.pseudonym_keys.items()]
        for one in answer.erasures:
            await self._erase(one.pipeline, one.entity)
            self._erased = one.serial
        return all(taken)

    async def _follow(self, updates: bytes) -> bool:
        try:
            if await asyncio.to_thread(self._trust.follow, updates):
                self._serving.doubt()
        except (PenstockError, OSError) as error:  # that of a full disk, too
            log.warning("trust_not_followed", reason=str(error))
            return False
        return True

    async def _key(self, pipeline: str, key: bytes) -> bool:
        if pipeline in self._pipelines.numbers:
            try:
                await asyncio.to_thread(self._pseudonyms.take, pipeline, key)
            except (PenstockError, OSError) as error:
                log.warning("pseudonym_key_not_taken", pipeline=pipeline, reason=str(error))
                return False
        return True

    async def _one(self, kind: type[E], said: bytes, take: Callable[[E], None]) -> bool:
        try:
            await asyncio.to_thread(lambda: take(kind.model_validate_json(said)))
        except (PenstockError, OSError, ValueError) as error:
            log.warning("not_taken", kind=kind.__name__, reason=str(error))
            return False
        return True

    def _promoted(self, promotion: ModelVersionPromoted) -> None:
        version = promotion.version
        if reasons := admissible(promotion, Keys(self._trust.folder).trust(), version.digest):
            said = f"{version.pipeline} generation {promotion.generation} is not taken: {'; '.join(reasons)}"
            self._loop.call_soon_threadsafe(self._serving.say, version.pipeline, said)
            raise Tampered(said)
        self._loop.call_soon_threadsafe(self._serving.promoted, promotion)
