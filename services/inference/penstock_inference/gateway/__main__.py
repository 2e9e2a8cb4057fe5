"""`python -m penstock_inference.gateway`"""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import Any

from penstock.runtime.loading import loading

with loading():
    import uvicorn
    import uvloop

    from penstock.runtime.local_http import UNIX
    from penstock.runtime.logging import configure_logging
    from penstock.serving.protocol.http import UVICORN, Headers, HttpApplication
    from penstock_inference.gateway import servicer
    from penstock_inference.gateway.backend import Backend
    from penstock_inference.settings import Settings


def http_server(backend: Backend, address: str) -> uvicorn.Server:
    async def infer(request: Any) -> tuple[Any, Headers]:
        return await backend.infer(request), ()

    host, _, port = address.rpartition(":")
    at = (
        {"uds": address.removeprefix(UNIX)} if address.startswith(UNIX) else {"host": host, "port": int(port)}
    )
    return uvicorn.Server(
        uvicorn.Config(
            HttpApplication(backend, infer),
            **at,
            **UVICORN,
            timeout_keep_alive=3600,  # Envoy closes what is idle
        )
    )


async def run(settings: Settings) -> None:
    async with Backend(settings.triton_grpc) as backend:
        over_grpc = servicer.server(backend, _listen(settings, settings.gateway_grpc))
        await over_grpc.start()
        # uvicorn raises again what ended it; this one may.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        gc.freeze()  # what is loaded by now stays
        await http_server(backend, _listen(settings, settings.gateway_http)).serve()
        await over_grpc.stop(8)


def _listen(settings: Settings, address: str) -> str:
    # A name in it may be that of several gateways.
    return address if address.startswith(UNIX) else f"{settings.host}:{address.rpartition(':')[2]}"


if __name__ == "__main__":
    _settings = Settings()
    configure_logging("gateway", _settings.platform.log_level)
    uvloop.run(run(_settings))
