"""gRPC in: translate, call, translate back."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import grpc
import pyarrow.compute as pc

from penstock.contracts import metrics
from penstock.contracts.errors import Invalid
from penstock.contracts.topics import source_topic
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.rpc import DEFAULT_DEADLINE_S, timestamp
from penstock_feature_store import names
from penstock_feature_store.erasure import Erased, Erasures
from penstock_feature_store.lake.barrier import Barrier
from penstock_feature_store.lake.ownership import Forwarding
from penstock_feature_store.lake.reading import once
from penstock_feature_store.online.stores import Row, Scalar
from penstock_feature_store.pipelines import Held, Owned, Pipelines
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

    @functools.wraps(method)
    async def call(self: Servicer, request: Any, context: Context) -> Any:
        if self._forwarding.ownership.mine or method.__name__ in self._anywhere:
            return await method(self, request, context)
        return await self._forwarding.call(method.__name__, request, context)

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
    async def GetOnlineFeatures(
        self, request: pb.GetOnlineFeaturesRequest, context: Context
    ) -> pb.GetOnlineFeaturesResponse:
        held = self._pipelines.get(request.pipeline)
        if len(request.entities) > MAX_ENTITIES:
            raise Invalid(
                f"{len(request.entities):,} entities, at most {MAX_ENTITIES:,}",
                where="entities",
                remedy="Ask in several calls",
            )
        fields = list(request.fields) or [
            feature.source_field for feature in held.pipeline.resolved_features().values()
        ]
        began = time.perf_counter()
        rows = await asyncio.to_thread(
            _read_online, held, list(request.entities), list(dict.fromkeys(fields))
        )
        entities = [
            _entity(entity, fields, found) for entity, found in zip(request.entities, rows, strict=True)
        ]
        _measure(request.pipeline, time.perf_counter() - began, entities)
        return pb.GetOnlineFeaturesResponse(fields=fields, entities=entities)

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


def _read_online(held: Held, entities: list[str], fields: list[str]) -> list[dict[str, Row]]:
    by_source: dict[str, list[str]] = {}
    for source, field in map(held.reference, fields):
        by_source.setdefault(source, []).append(field)
    now = datetime.now(UTC)
    rows = {source: held.reader.read(source, entities, asked, now) for source, asked in by_source.items()}
    return [{source: found[place] for source, found in rows.items()} for place in range(len(entities))]


def _entity(entity: str, fields: list[str], rows: dict[str, Row]) -> pb.EntityFeatures:
    """Found when any source has a row that counts; expired when all that there are no longer do."""
    kinds = {row.status for row in rows.values()}
    status = next((kind for kind in ("found", "expired") if kind in kinds), "not_found")
    values = {
        f"{source}.{field}": value for source, row in rows.items() for field, value in row.values.items()
    }
    origins = {source: row.origin for source, row in rows.items() if row.origin and row.status == status}
    return pb.EntityFeatures(
        entity=entity,
        status=pb.EntityFeatures.Status.Value(f"STATUS_{status.upper()}"),
        values=[_value(values.get(field)) for field in fields],
        time=timestamp(max((origin.time for origin in origins.values()), default=None)),
        events={source: origin.event_id for source, origin in origins.items()},
    )


def _measure(pipeline: str, seconds: float, entities: Sequence[pb.EntityFeatures]) -> None:
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
            fields={field: _value(row.get(names.column_of(field))) for field in fields},
        )
        for row in table.slice(0, min(request.limit or 100, MAX_RECORDS)).to_pylist()
    ]


def _value(value: Scalar) -> pb.Value:
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(boolean=value)
        case str():
            return pb.Value(text=value)
        case _:
            return pb.Value(number=value)


def _remaining(context: Context) -> float:
    said = context.time_remaining()
    remaining = DEFAULT_DEADLINE_S if said is None else said
    return max(remaining - max(MARGIN_S, MARGIN * remaining), 0.1)
