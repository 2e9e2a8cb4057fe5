"""A channel to the front door; a failed call becomes the PenstockError behind it."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc

from penstock.contracts.error_details import error_in, error_of_call
from penstock.contracts.errors import DeadlineExceeded, PenstockError, Unavailable

Response = TypeVar("Response")

_PAUSES_S = (0.1, 0.2, 0.4, 0.8)  # between the attempts of a call
_RETRY = {
    "maxAttempts": len(_PAUSES_S) + 1,
    "initialBackoff": f"{_PAUSES_S[0]}s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# A prediction changes nothing and may be asked again: five attempts within some 9 s outlast a
# restart of the door or of Triton. This is the `retryPolicy` of the service config of any gRPC
# client of the Open Inference Protocol.
PREDICTION_RETRY: Final = {**_RETRY, "initialBackoff": "0.3s", "maxBackoff": "5s", "backoffMultiplier": 3}
# gRPC makes no stream again (grpcio 1.85): with a retry policy, one whose connection goes between two
# tries keeps no deadline and never ends, and one that is sent aborts the process. Who watches takes it up
# again, `fetch` asks again; an import that fails is asked for again by whoever asked.
_STREAMS = (
    ("penstock.ethics_audit.v1.EthicsAuditService", "FetchReport"),
    ("penstock.model_registry.v1.ModelRegistryService", "FetchPackage"),
    ("penstock.trainer.v1.TrainerService", "ImportModel"),
    ("penstock.trainer.v1.TrainerService", "WatchRun"),
    ("penstock.tuner.v1.TunerService", "WatchStudy"),
)
_SERVICE_CONFIG = {
    "methodConfig": [
        {"name": [{}], "retryPolicy": _RETRY},
        {"name": [{"service": service, "method": method} for service, method in _STREAMS]},
        {
            "name": [
                {"service": "inference.GRPCInferenceService"},
                {"service": "penstock.inference.v1.InferenceService", "method": "Predict"},
            ],
            "retryPolicy": PREDICTION_RETRY,
        },
    ],
}
_OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # A platform that comes back is found within a second, not after gRPC's two minutes.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
]


class Connection:
    """Connects at the first call. Safe from several threads."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        proxy = ("grpc.enable_http_proxy", int(not _loopback(endpoint)))
        self.channel = grpc.insecure_channel(endpoint, options=[*_OPTIONS, proxy])

    def call(self, method: Callable[..., Response], request: Any, *, timeout: float = 30.0) -> Response:
        """A unary call. Raises the PenstockError that the service raised, or Unavailable with
        what to do.
        """
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._explained(error, method) from error

    def stream(
        self, method: Callable[..., Iterator[Response]], request: Any, *, timeout: float | None = None
    ) -> Iterator[Response]:
        """A streaming call; raises as `call` does, at the message where it broke."""
        try:
            yield from method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._explained(error, method) from error

    def fetch(self, method: Callable[..., Iterator[Response]], request: Any) -> Iterator[Response]:
        """A streaming call that changes nothing: asked for again, five times in all as a call is, while
        none of it has come. Raises as `stream` does.
        """
        for pause in (*_PAUSES_S, None):
            begun = False
            try:
                for message in self.stream(method, request):
                    begun = True
                    yield message
                return
            except Unavailable:
                if begun or pause is None:
                    raise
            time.sleep(pause)  # the door or the service restarts

    def _explained(self, error: Any, method: object) -> PenstockError:
        """The PenstockError behind a gRPC error, with place and remedy where a Penstock service gave them."""
        told = error_in(error.trailing_metadata())
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not told:
            return DeadlineExceeded(
                f"{_name(method)} at {self._endpoint} did not answer in time",
                remedy="Try again; `penstock status` says what is busy or waits",
            )
        # A stream that the door or a service drops half-way ends as gRPC's own error, of no kind of ours.
        broken = "RST_STREAM" in (error.details() or "")
        if (broken or error.code() is grpc.StatusCode.UNAVAILABLE) and not told:
            return Unavailable(
                f"the platform at {self._endpoint} does not answer ({error.details()})",
                remedy="Start it with `penstock up`, see `penstock status`, or set PENSTOCK_ENDPOINT",
            )
        return error_of_call(error)


def _name(method: object) -> str:
    """`trainer.GetRun` of a stub's method."""
    path = getattr(method, "_method", b"the platform")
    text = path.decode() if isinstance(path, bytes) else str(path)
    return ".".join(part for part in text.removeprefix("/penstock.").replace(".v1.", "/").split("/") if part)


def _loopback(endpoint: str) -> bool:
    """Tells whether it lies on this machine, where no proxy that `http_proxy` names reaches it."""
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
