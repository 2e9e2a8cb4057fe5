"""HTTP at the site: the Open Inference Protocol v2, as the cloud's door takes it, and publishing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn

from penstock.serving.protocol.http import UVICORN, Headers, HttpApplication
from penstock.serving.records import PREDICTION_HEADER
from penstock_edge_gateway.site.http_publish import PublishOverHttp
from penstock_edge_gateway.site.open_inference import OpenInference
from penstock_edge_gateway.site.publisher import Publisher


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

    app = PublishOverHttp(publisher, HttpApplication(answers, infer))
    config = uvicorn.Config(app, host=host, port=port, **UVICORN)
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
