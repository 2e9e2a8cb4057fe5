"""HTTP at the site: the Open Inference Protocol v2, as the cloud's door takes it, and publishing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn

from penstock.serving.protocol.http import Headers, HttpApplication
from penstock.serving.records import PREDICTION_HEADER
from penstock_edge_gateway.site.http_publish import PublishOverHttp
from penstock_edge_gateway.site.open_inference import OpenInference
from penstock_edge_gateway.site.publisher import Publisher

STOPS_WITHIN_S = 8


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: the process has handlers of its own."""
        yield


async def serve(answers: OpenInference, publisher: Publisher, host: str, port: int) -> None:
    """Serves until it is cancelled; calls in hand are finished."""

    async def infer(request: Any) -> tuple[Any, Headers]:
        prediction, response = await answers.infer(request, "http")
        return response, ((PREDICTION_HEADER.encode(), prediction.encode()),)

    config = uvicorn.Config(
        PublishOverHttp(publisher, HttpApplication(answers, infer)),
        host=host,
        port=port,
        http="httptools",
        loop="none",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=STOPS_WITHIN_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
