"""gRPC of the site for programs beside it: events in, and how the site is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock_edge_gateway.site.publisher import Publisher

Context = grpc.aio.ServicerContext[Any, Any]


class SiteServicer(site_pb2_grpc.SiteServiceServicer):
    def __init__(self, publisher: Publisher, status: Callable[[], site_pb2.SiteStatus]) -> None:
        self._publisher = publisher
        self._status = status

    async def Publish(self, request: site_pb2.PublishRequest, context: Context) -> site_pb2.PublishResponse:
        rejects = await self._publisher.publish(request.pipeline, request.source, request.events)
        return site_pb2.PublishResponse(
            accepted=len(request.events) - len(rejects),
            rejected=[
                site_pb2.EventReject(index=place, reason=one.reason, field=one.field or "", detail=one.detail)
                for place, one in rejects.items()
            ],
        )

    async def GetPipeline(
        self, request: site_pb2.GetPipelineRequest, context: Context
    ) -> site_pb2.GetPipelineResponse:
        file = self._publisher.pipeline(request.pipeline)
        return site_pb2.GetPipelineResponse(pipeline_json=file.model_dump_json(by_alias=True))

    async def GetStatus(self, request: site_pb2.GetStatusRequest, context: Context) -> site_pb2.SiteStatus:
        return await asyncio.to_thread(self._status)  # which waits for an erasure
