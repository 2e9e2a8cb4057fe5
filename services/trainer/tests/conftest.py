from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.contracts.errors import NotFound, PenstockError
from penstock.contracts.events import OffsetRange, TrainingSet
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
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.testing.broker import free_ports

SPEC: dict[str, Any] = {
    "version": 1,
    "pipeline": "loans",
    "entities": {"applicant": {"key": "applicant_id"}},
    "sources": {
        "applications": {
            "entity": "applicant",
            "id": "application_id",
            "timestamp": "at",
            "fields": {
                "income": {"type": "number"},
                "purpose": {"type": "category"},
                "sex": {"type": "category", "protected": True},
                "defaulted": {"type": "boolean"},
            },
        }
    },
    "features": {"income": {"from": "applications.income"}, "purpose": {"from": "applications.purpose"}},
    "targets": {"default": {"from": "applications.defaulted", "type": "binary"}},
    "audit": {"groups": {"sex": {}}},
    "trainer": {"epochs": 3, "early_stopping": None},
}
NUMBER = 3


class Loans:
    """A pipeline, its training sets in a real artifact store, and the two services that a run asks,
    with answers of our choosing.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self.folder = folder
        self.artifacts = Artifacts(root)
        self.spec = json.loads(json.dumps(SPEC))
        self.ports = free_ports(2)
        self.asked: list[features.CreateTrainingSetRequest] = []
        self.error: PenstockError | None = None
        """What the feature store says instead of a training set."""
        self._servers: list[_Server] = []

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.model_validate(self.spec)

    @property
    def peers(self) -> dict[str, str]:
        return {"model_registry": f"127.0.0.1:{self.ports[0]}", "feature_store": f"127.0.0.1:{self.ports[1]}"}

    def training_set(self, name: str = "set", *, train: int = 400, one_class: bool = False) -> TrainingSet:
        parts = {
            part: self.artifacts.put_file(
                f"training-sets/{name}/{part}.parquet", self._part(part, rows, one_class)
            )
            for part, rows in (("train", train), ("validation", 100), ("audit", 50))
        }
        return TrainingSet(
            fingerprint="sha256:" + "1" * 64,
            pipeline="loans",
            rows={"train": train, "validation": 100, "audit": 50},
            offsets=(OffsetRange(topic="loans.applications.events.v1", partition=0, first=0, last=550),),
            created_at=datetime(2026, 1, 2, tzinfo=UTC),
            **parts,
        )

    def _part(self, name: str, rows: int, one_class: bool) -> Path:
        draw = random.Random(f"{name} {rows}")
        income = [draw.gauss(0, 1) for _ in range(rows)]
        labels = [0 if one_class else int(value + draw.gauss(0, 0.3) > 0) for value in income]
        table = pa.table(
            {
                "income": [None if draw.random() < 0.1 else value for value in income],
                "purpose": [draw.choice(["home", "car", None]) for _ in range(rows)],
                "__label": pa.array(labels, pa.int64()),
                "__group_sex": [draw.choice(["f", "m"]) for _ in range(rows)],
            }
        )
        path = self.folder / f"{name}.parquet"
        pq.write_table(
            table.replace_schema_metadata({"penstock": json.dumps({"classes": ["false", "true"]})}), path
        )
        return path

    # -- peers -------------------------------------------------------------------------------------

    def start_registry(self) -> None:
        self._servers.append(
            _Server(self.ports[0], add_ModelRegistryServiceServicer_to_server, _Registry(self))
        )

    def start_feature_store(self) -> None:
        self._servers.append(
            _Server(self.ports[1], add_FeatureStoreServiceServicer_to_server, _FeatureStore(self))
        )

    def close(self) -> None:
        for server in self._servers:
            server.stop()


class _Registry(ModelRegistryServiceServicer):
    def __init__(self, loans: Loans) -> None:
        self._loans = loans

    async def GetPipeline(self, request: registry.GetPipelineRequest, context: Any) -> registry.Pipeline:
        if request.pipeline != "loans" or request.number not in (0, NUMBER):
            raise NotFound(f"no pipeline `{request.pipeline}`", remedy="There is loans")
        return registry.Pipeline(name="loans", number=NUMBER, spec_json=json.dumps(self._loans.spec))


class _FeatureStore(FeatureStoreServiceServicer):
    def __init__(self, loans: Loans) -> None:
        self._loans = loans

    async def CreateTrainingSet(
        self, request: features.CreateTrainingSetRequest, context: Any
    ) -> features.CreateTrainingSetResponse:
        self._loans.asked.append(request)
        if self._loans.error is not None:
            raise self._loans.error
        return features.CreateTrainingSetResponse(
            training_set_json=self._loans.training_set(request.id).model_dump_json()
        )


class _Server:
    """One gRPC server in a thread with a loop of its own."""

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


@pytest.fixture
def loans(tmp_path: Path, root: str) -> Iterator[Loans]:
    made = Loans(tmp_path, root)
    yield made
    made.close()
