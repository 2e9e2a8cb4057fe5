"""Signs what other services change in the trust store, for sites: they hold no key of the registry."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from penstock.contracts.errors import PenstockError
from penstock.packages.keys import Keys

log = structlog.get_logger(__name__)

EVERY_S: Final = 10.0


async def run(keys: Keys) -> None:
    """Looks again and again."""
    while True:
        try:
            await asyncio.to_thread(keys.endorse)
        except PenstockError as error:
            log.warning("trust_not_endorsed", why=str(error))
        await asyncio.sleep(EVERY_S)
