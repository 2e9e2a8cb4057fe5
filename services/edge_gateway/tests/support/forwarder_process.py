"""A hub that forwards and does nothing else, to be killed:
`forwarder_process.py FOLDER BOOTSTRAP PREFIX PORT`. Every call is one of site `branch-1`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.contracts.errors import NotFound
from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline
from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.edge_gateway.v1 import hub_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock_edge_gateway.hub.forward.forwarder import Forwarder
from penstock_edge_gateway.hub.forward.lanes import batch_of
from penstock_edge_gateway.hub.forward.lease import Lease
from penstock_edge_gateway.hub.store import Tables

EXAMPLE = Path(__file__).parents[4] / "examples" / "credit-risk" / "pipeline.yaml"


def now() -> datetime:
    return datetime.now(UTC)


class Hub(hub_pb2_grpc.HubServiceServicer):
    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    async def Forward(self, request: pb.ForwardRequest, context: Any) -> pb.ForwardResponse:
        reached = await self._forwarder.forward(batch_of("branch-1", request))
        return pb.ForwardResponse(
            reached=reached.sequence,
            rejected=[pb.Rejected(sequence=at, reason=str(why)) for at, why in reached.rejected.items()],
        )


async def main(folder: Path, bootstrap: str, prefix: str, port: str) -> None:
    pipeline = read(EXAMPLE.read_text())

    def declared(name: str) -> Pipeline:
        if name != pipeline.pipeline:
            raise NotFound(f"no pipeline `{name}`")
        return pipeline

    store = await asyncio.to_thread(Store.open, f"sqlite:///{folder}/hub.db", Tables.metadata)
    kafka = KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=prefix)
    forwarder = Forwarder(kafka, declared, Lease(store, "0", now), Readiness(now))
    threading.Thread(target=forwarder.run, args=[threading.Event()], daemon=True).start()
    server = rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(Hub(forwarder), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
