"""A site that forwards what lies in its spool and fetches a version: `beyond_the_line.py FOLDER RECORDS`.
Prints AWAY once its hub is, among the lines of its log, and ends when both are done.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from penstock.contracts.events import ModelVersion
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.fetching import PackageFetch
from penstock_edge_gateway.site.forwarder import Forwarder
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.spool import Record, Spool

WITHIN_S = 300.0
AWAY = "the hub is away"


async def main(folder: Path, records: int) -> None:
    version = ModelVersion.model_validate_json((folder / "version.json").read_bytes())
    fetched = folder / "fetched"
    fetched.mkdir()
    with Spool(folder / "events.db", durable=True, size=64 << 20) as spool:
        spool.append([Record("loans", "applications", "p", b"%d" % number) for number in range(records)])
        async with SiteIdentity.load(folder).channel() as channel:
            hub = Hub(channel)
            await hub.hello()
            forwards = asyncio.create_task(Forwarder(Lane("events", spool), hub).run())
            fetch = PackageFetch(hub, folder / "incoming", asyncio.get_running_loop())
            fetches = asyncio.create_task(asyncio.to_thread(fetch, version, fetched))
            await until_async(lambda: hub.why, within=WITHIN_S)
            print(AWAY, flush=True)
            await until_async(lambda: not spool.waiting, within=WITHIN_S)
            await fetches
            forwards.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
