"""gRPC in: translate, call, translate back."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import grpc
import pyarrow.compute as pc

from penstock.contracts import metrics
from penstock.contracts.errors import Invalid
from penstock.contracts.topics import source_topic
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime.metrics import counter, exported, histogram
from penstock.runtime.rpc import DEFAULT_DEADLINE_S, timestamp
from penstock_feature_store import names
from penstock_feature_store.erasure import Erased, Erasures
from penstock_feature_store.lake.barrier import Barrier
from penstock_feature_store.lake.ownership import Forwarding
from penstock_feature_store.lake.reading import once
from penstock_feature_store.online.features import features_of
from penstock_feature_store.online.packed import value_of
from penstock_feature_store.pipelines import Owned, Pipelines
from penstock_feature_store.training.sets import TrainingSets

_ERASED = counter(metrics.ERASED)
_READS = histogram(metrics.ONLINE_READS)
_ENTITIES = counter(metrics.ONLINE_ENTITIES)
_AGE = histogram(metrics.ONLINE_AGE)

Context = grpc.aio.ServicerContext[Any, Any]

# Kept back of a caller's deadline, so that the answer says what is missing: so much, or this share.
MARGIN_S, MARGIN = 0.3, 0.1
MAX_ENTITIES = 1_000
MAX_RECORDS = 1_000


def _of_the_owner(
    method: Callable[[Any, Any, Context], Awaitable[Any]],
) -> Callable[[Any, Any, Context], Awaitable[Any]]:
    """Answered where the lake is owned, or where it is not needed; handed on elsewhere."""

    name = method.__name__

    @functools.wraps(method)
    async def call(self: Servicer, request: Any, context: Context) -> Any:
        if self._forwarding.ownership.mine or name in self._anywhere:
            return await method(self, request, context)
        return await self._forwarding.call(name, request, context)

    return call


class Servicer(feature_store_pb2_grpc.FeatureStoreServiceServicer):
    """Any replica answers: by itself where it owns the lake or needs none, else with what the owner says."""

    def __init__(
        self,
        pipelines: Pipelines,
        barrier: Barrier,
        sets: TrainingSets,
        erasures: Erasures,
        forwarding: Forwarding,
        *,
        online: bool,
    ) -> None:
        """`online`: whether a replica that does not own the lake reads the online store."""
        self._pipelines = pipelines
        self._barrier = barrier
        self._sets = sets
        self._erasures = erasures
        self._forwarding = forwarding
        self._anywhere = {"GetOnlineFeatures"} if online else set()
        self._erasing: set[asyncio.Task[Erased]] = set()

    @_of_the_owner
    async def GetOnlineFeatures(self, request: pb.GetOnlineFeaturesRequest, context: Context) -> bytes:
        held = self._pipelines.get(request.pipeline)
        if len(request.entities) > MAX_ENTITIES:
            raise Invalid(
                f"{len(request.entities):,} entities, at most {MAX_ENTITIES:,}",
                where="entities",
                remedy="Ask in several calls",
            )
        began = time.perf_counter()
        response = await features_of(
            held, list(request.entities), tuple(request.fields) or held.features, datetime.now(UTC)
        )
        if exported():  # after the answer has left: an entity's age takes as long as its row
            took = time.perf_counter() - began
            asyncio.get_running_loop().call_soon(_measure, request.pipeline, took, response)
        return response

    @_of_the_owner
    async def CreateTrainingSet(
        self, request: pb.CreateTrainingSetRequest, context: Context
    ) -> pb.CreateTrainingSetResponse:
        known = await self._sets.known(request.id, request.pipeline, request.pipeline_number)
        if known is None:
            pipeline, number = await self._pipelines.wait(
                request.pipeline, request.pipeline_number, _remaining(context)
            )
            held = self._pipelines.owned(request.pipeline)
            below = [(offset.topic, offset.partition, offset.offset) for offset in request.min_offsets]
            await self._barrier.wait(held, below, _remaining(context))
            known = await self._sets.create(request.id, held, pipeline, number)
        return pb.CreateTrainingSetResponse(training_set_json=known.model_dump_json())

    @_of_the_owner
    async def EraseEntity(self, request: pb.EraseEntityRequest, context: Context) -> pb.EraseEntityResponse:
        held = self._pipelines.owned(request.pipeline)
        if not request.entity:
            raise Invalid("no entity is named", where="entity", remedy="Name the one whose rows shall leave")
        task = asyncio.create_task(held.alone(self._erasures.erase, held.pipeline.pipeline, request.entity))
        self._erasing.add(task)
        task.add_done_callback(self._erasing.discard)
        erased = await asyncio.shield(task)  # it goes on when the caller does not wait for it
        _ERASED.add(1, {"pipeline": request.pipeline})
        return pb.EraseEntityResponse(
            lake_rows=erased.lake_rows, online=erased.online, training_set_rows=erased.training_set_rows
        )

    @_of_the_owner
    async def GetPositions(
        self, request: pb.GetPositionsRequest, context: Context
    ) -> pb.GetPositionsResponse:
        held = self._pipelines.owned(request.pipeline)
        return pb.GetPositionsResponse(sources=await asyncio.to_thread(_positions, held))

    @_of_the_owner
    async def GetRecords(self, request: pb.GetRecordsRequest, context: Context) -> pb.GetRecordsResponse:
        held = self._pipelines.owned(request.pipeline)
        return pb.GetRecordsResponse(records=await asyncio.to_thread(_records, held, request))


def add_to_server(servicer: Servicer, server: Any) -> None:
    """Adds it as the generated function does; online features are bytes already, which it would not take."""
    online = grpc.unary_unary_rpc_method_handler(
        servicer.GetOnlineFeatures, pb.GetOnlineFeaturesRequest.FromString, _encoded
    )
    service = pb.DESCRIPTOR.services_by_name["FeatureStoreService"].full_name
    handler = grpc.method_handlers_generic_handler(service, {"GetOnlineFeatures": online})
    server.add_generic_rpc_handlers((handler,))
    feature_store_pb2_grpc.add_FeatureStoreServiceServicer_to_server(servicer, server)


def _encoded(answer: bytes | pb.GetOnlineFeaturesResponse) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()  # an owner's elsewhere


def _measure(pipeline: str, seconds: float, answer: bytes) -> None:
    entities = pb.GetOnlineFeaturesResponse.FromString(answer).entities
    _READS.record(seconds, {"pipeline": pipeline})
    now = datetime.now(UTC).timestamp()
    for status, count in Counter(entity.status for entity in entities).items():
        name = pb.EntityFeatures.Status.Name(status).removeprefix("STATUS_").lower()
        _ENTITIES.add(count, {"pipeline": pipeline, "status": name})
    for entity in entities:
        if entity.HasField("time"):
            _AGE.record(max(0.0, now - entity.time.seconds), {"pipeline": pipeline})


def _positions(held: Owned) -> list[pb.SourcePosition]:
    def offsets(
        kind: Literal["records", "events"], source: str, at: Mapping[int, int]
    ) -> list[pb.PartitionOffset]:
        topic = source_topic(kind, held.pipeline.pipeline, source)
        return [
            pb.PartitionOffset(topic=topic, partition=part, offset=offset)
            for part, offset in sorted(at.items())
        ]

    return [
        pb.SourcePosition(
            source=source,
            rows=lake.count(),
            entities=lake.entities(),
            positions=offsets("records", source, lake.positions()),
            events=offsets("events", source, lake.events()),
            newest=timestamp(lake.newest()),
        )
        for source, lake in held.lakes.items()
    ]


def _records(held: Owned, request: pb.GetRecordsRequest) -> list[pb.Record]:
    """Newest first."""
    lake, kind = held.source(request.source), request.WhichOneof("by")
    if kind is None:
        raise Invalid("neither an entity nor an id is named", where="by", remedy="Name one")
    keep = pc.field(names.ENTITY) == request.entity if kind == "entity" else pc.field(names.ID) == request.id
    table = once(lake.read(keep=keep)).sort_by([(names.TIME, "descending"), (names.OFFSET, "descending")])
    fields = held.pipeline.sources[request.source].fields
    return [
        pb.Record(
            id=row[names.ID],
            entity=row[names.ENTITY],
            time=timestamp(row[names.TIME]),
            partition=row[names.PARTITION],
            offset=row[names.OFFSET],
            traceparent=row[names.TRACE] or "",
            fields={field: value_of(row.get(names.column_of(field))) for field in fields},
            ingested=timestamp(row[names.INGESTED]),
        )
        for row in table.slice(0, min(request.limit or 100, MAX_RECORDS)).to_pylist()
    ]


def _remaining(context: Context) -> float:
    said = context.time_remaining()
    remaining = DEFAULT_DEADLINE_S if said is None else said
    return max(remaining - max(MARGIN_S, MARGIN * remaining), 0.1)
