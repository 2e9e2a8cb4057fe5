"""Peers of a training run: they give a pipeline and training sets, or answers of a test's choosing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from threading import Event, Thread
from typing import Any

from penstock.contracts.errors import NotFound, PenstockError
from penstock.contracts.events import Artifact, OffsetRange, TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1.feature_store_pb2_grpc import (
    FeatureStoreServiceServicer,
    add_FeatureStoreServiceServicer_to_server,
)
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1.model_registry_pb2_grpc import (
    ModelRegistryServiceServicer,
    add_ModelRegistryServiceServicer_to_server,
)
from penstock.packages import facts
from penstock.packages.keys import Keys
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.testing import lending
from penstock.testing.broker import free_ports

NUMBER = 3


class Loans:
    """A pipeline, its training sets in a real artifact store, and the two services that a run asks,
    with answers of our choosing.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self.folder = folder
        self.artifacts = Artifacts(root)
        self.keys = Keys(folder / "home" / "keys")
        self.keys.ensure()
        self.spec = lending.spec(
            features={name: {"from": f"applications.{name}"} for name in ("income", "purpose")},
            audit={"groups": {"sex": {}}},
            trainer={"epochs": 3, "early_stopping": None},
        )
        self.ports = free_ports(2)
        self.asked: list[features.CreateTrainingSetRequest] = []
        self.error: PenstockError | None = None
        """Answer of the feature store instead of a training set."""
        self.without_audit = False
        """Deletes the audit parts of training sets as soon as they are made."""
        self.one_class = False
        """Makes training sets in which nobody defaulted, so that nothing can be learned."""
        self._servers: list[_Server] = []

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.model_validate(self.spec)

    @property
    def peers(self) -> dict[str, str]:
        return {"model_registry": f"127.0.0.1:{self.ports[0]}", "feature_store": f"127.0.0.1:{self.ports[1]}"}

    def training_set(self, name: str = "set", *, train: int = 400, one_class: bool = False) -> TrainingSet:
        rows = {"train": train, "validation": 100, "audit": 50}
        parts: dict[str, Any] = {
            part: self._part(name, part, count, one_class or self.one_class) for part, count in rows.items()
        }
        offsets = (OffsetRange(topic="loans.applications.events.v1", partition=0, first=0, last=550),)
        made = lending.training_set(rows=rows, offsets=offsets, **parts)
        return facts.signed(made, self.keys.signer("feature_store"))

    def _part(self, name: str, part: str, rows: int, one_class: bool) -> Artifact:
        table = lending.applications(f"{part} {rows}", rows, one_class=one_class)
        path = lending.write_part(self.folder / f"{part}.parquet", table)
        return self.artifacts.put_file(f"training-sets/{name}/{part}.parquet", path)

    # -- peers -------------------------------------------------------------------------------------

    def start_registry(self) -> None:
        self._servers.append(
            _Server(self.ports[0], add_ModelRegistryServiceServicer_to_server, _Registry(self))  # type: ignore[abstract]
        )

    def start_feature_store(self) -> None:
        self._servers.append(
            _Server(self.ports[1], add_FeatureStoreServiceServicer_to_server, _FeatureStore(self))  # type: ignore[abstract]
        )

    def stop_feature_store(self) -> None:
        """The one that was started last of the two."""
        self._servers.pop().stop()

    def close(self) -> None:
        for server in self._servers:
            server.stop()


class _Registry(ModelRegistryServiceServicer):
    def __init__(self, loans: Loans) -> None:
        self._loans = loans

    async def GetPipeline(  # noqa: N802
        self, request: registry.GetPipelineRequest, context: Any
    ) -> registry.Pipeline:
        if request.pipeline != "loans" or request.number not in (0, NUMBER):
            raise NotFound(f"no pipeline `{request.pipeline}`", remedy="There is loans")
        return registry.Pipeline(name="loans", number=NUMBER, spec_json=json.dumps(self._loans.spec))


class _FeatureStore(FeatureStoreServiceServicer):
    def __init__(self, loans: Loans) -> None:
        self._loans = loans

    async def CreateTrainingSet(  # noqa: N802
        self, request: features.CreateTrainingSetRequest, context: Any
    ) -> features.CreateTrainingSetResponse:
        self._loans.asked.append(request)
        if self._loans.error is not None:
            raise self._loans.error
        made = self._loans.training_set(request.id)
        if self._loans.without_audit:
            self._loans.artifacts.remove(made.audit)
        return features.CreateTrainingSetResponse(training_set_json=made.model_dump_json())


class _Server:
    """A gRPC server in a thread with a loop of its own."""

    def __init__(self, port: int, register: Any, servicer: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        up = Event()

        async def serve() -> None:
            server = rpc.server()
            register(servicer, server)
            assert server.add_insecure_port(f"127.0.0.1:{port}") == port
            await server.start()
            up.set()
            await self._end.wait()
            await server.stop(None)

        self._thread = Thread(target=lambda: self._loop.run_until_complete(serve()), daemon=True)
        self._thread.start()
        assert up.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()
