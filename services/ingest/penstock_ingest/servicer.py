"""gRPC: what ingest did with the events of one source."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock_ingest.catalog import Catalog
from penstock_ingest.counts import Counts
from penstock_ingest.ledger import Ledger
from penstock_ingest.profile import FieldProfile

Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(ingest_pb2_grpc.IngestServiceServicer):
    def __init__(self, catalog: Catalog, ledger: Ledger) -> None:
        self._catalog = catalog
        self._ledger = ledger

    async def GetCounts(
        self, request: ingest_pb2.GetCountsRequest, context: Context
    ) -> ingest_pb2.GetCountsResponse:
        self._catalog.find(request.pipeline, request.source)
        standings = await asyncio.to_thread(self._ledger.standings, request.pipeline, request.source)
        counts = sum((standing.counts for standing in standings.values()), Counts())
        return ingest_pb2.GetCountsResponse(
            events=counts.events,
            records=counts.records,
            duplicates=counts.duplicates,
            rejects=dict(counts.rejects),
            forgotten=counts.forgotten,
            partitions=[
                ingest_pb2.PartitionCounts(partition=number, position=standing.position, lag=standing.lag)
                for number, standing in standings.items()
            ],
        )

    async def GetProfile(
        self, request: ingest_pb2.GetProfileRequest, context: Context
    ) -> ingest_pb2.GetProfileResponse:
        declared = self._catalog.find(request.pipeline, request.source).fields
        found = await asyncio.to_thread(self._ledger.profile, request.pipeline, request.source)
        return ingest_pb2.GetProfileResponse(
            fields=[_field(name, found.get(name, FieldProfile())) for name in declared]
        )


def _field(name: str, profile: FieldProfile) -> ingest_pb2.FieldProfile:
    moments = profile.moments
    return ingest_pb2.FieldProfile(
        name=name,
        present=profile.present,
        missing=profile.missing,
        mean=moments.mean if moments else None,
        standard_deviation=profile.standard_deviation,
        minimum=moments.minimum if moments else None,
        maximum=moments.maximum if moments else None,
        values=dict(profile.values),
    )
