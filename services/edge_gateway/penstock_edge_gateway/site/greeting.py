"""Work with the hub, once it was told that the site has started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from penstock.contracts.errors import PenstockError
from penstock_edge_gateway.site.forwarder import Forwarder
from penstock_edge_gateway.site.hub import Hub

log = structlog.get_logger(__name__)

REFUSED_S: Final = 60.0  # a hub that refuses the site is asked again after so long


async def with_hub(hub: Hub, watch: Callable[[], Awaitable[None]], forwarders: Sequence[Forwarder]) -> None:
    """Greets, then watches and forwards. A site that was superseded forwards again when the hub lets it
    count: once nothing is heard of the copy of its disk.
    """
    await _greet(hub)
    await asyncio.gather(watch(), _forward(hub, forwarders))


async def _forward(hub: Hub, forwarders: Sequence[Forwarder]) -> None:
    while True:
        works = [asyncio.create_task(one.run()) for one in forwarders]
        try:
            await next(asyncio.as_completed(works))
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
        for one in forwarders:
            await one.part()
        await _greet(hub)
        log.info("forwarding_again", incarnation=hub.incarnation)


async def _greet(hub: Hub) -> None:
    told = ""
    while True:
        try:
            await hub.hello()
            return
        except PenstockError as error:
            if str(error) != told:
                log.warning("hub_refuses", reason=str(error))
            told = str(error)
            await asyncio.sleep(REFUSED_S)
