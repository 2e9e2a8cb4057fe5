"""Limits of the door: what it waits for, how many it lets in, and how much memory that may take.

Many large bodies at once, clients that stop in the middle or do not read their answers: each costs
at most a connection, a time and a stream; the door stays up.
"""

from __future__ import annotations

from typing import Any, Final

from penstock_inference.door.xds import EXTENSIONS, Json

# Heap of Envoy; its container in docker-compose.yml has 512 MiB.
HEAP_BYTES: Final = 384 << 20
CONNECTIONS: Final = 2000
# Longest time for a request's head, and in which nothing moves in an inference, in seconds.
HEAD_S: Final = 10
STILL_S: Final = 30
IDLE_S: Final = 300  # longest time for a connection without a call, in seconds

_HEAP: Final = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS: Final = "envoy.resource_monitors.global_downstream_max_connections"
_LARGE_STREAM: Final = 20  # power of two of the bytes from which a stream's memory is watched

# Of a listener's connection manager. HTTP/1.0 is taken: old clients and probes speak it.
CONNECTION: Final[Json] = {
    "request_headers_timeout": f"{HEAD_S}s",
    "stream_idle_timeout": f"{IDLE_S}s",
    "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
    "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "door"},
    "http2_protocol_options": {
        "max_concurrent_streams": 256,
        "connection_keepalive": {"interval": "60s", "timeout": "20s"},
    },
}


def overload_manager() -> Json:
    """Part of the bootstrap: near the heap's limit the largest streams are reset, then calls and
    connections are refused until there is room again.
    """
    return {
        "refresh_interval": "0.05s",
        "resource_monitors": [
            _monitor(_HEAP, "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=HEAP_BYTES),
            _monitor(
                _CONNECTIONS,
                "downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=CONNECTIONS,
            ),
        ],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _LARGE_STREAM},
        "actions": [
            _action("shrink_heap", threshold={"value": 0.7}),
            _action(
                "reset_high_memory_stream", scaled={"scaling_threshold": 0.75, "saturation_threshold": 0.95}
            ),
            _action("stop_accepting_requests", threshold={"value": 0.95}),
            _action("stop_accepting_connections", threshold={"value": 0.98}),
        ],
    }


def _monitor(name: str, kind: str, **config: int) -> Json:
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}resource_monitors.{kind}", **config}}


def _action(name: str, **trigger: Any) -> Json:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": _HEAP, **trigger}]}
