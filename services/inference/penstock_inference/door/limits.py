"""Limits of the door: what it waits for, how many it lets in, and how much memory that may take.

Many large bodies at once, clients that stop in the middle or do not read their answers: each costs
at most a connection, a time and a stream; the door stays up.
"""

from __future__ import annotations

from typing import Final

from penstock_inference.door.xds import EXTENSIONS, TYPES, Json

# Heap of Envoy; its container in docker-compose.yml has 512 MiB. From the first part of it on large
# streams are ended, the more of them the more is taken; at the second nothing is let in.
HEAP_BYTES: Final = 416 << 20
SHED_FROM: Final = 0.5
FULL_AT: Final = 0.9
CONNECTIONS: Final = 2000
# What is read of a connection at once, and the largest answer. A request may be longer, see `routes`.
BUFFER_BYTES: Final = 8 << 20
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

_IMPATIENT: Final[Json] = {
    "@type": TYPES + "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
    "timer_scale_factors": [
        {"timer": timer, "min_timeout": "2s"}
        for timer in ("HTTP_DOWNSTREAM_CONNECTION_IDLE", "HTTP_DOWNSTREAM_STREAM_IDLE")
    ],
}


def overload_manager() -> Json:
    """Part of the bootstrap.

    A chance of being ended comes with each read of a connection (HTTP/1): a long body meets it often,
    a short one once. Over HTTP/2 the largest streams are reset.
    """
    more_and_more = {"scaled": {"scaling_threshold": SHED_FROM, "saturation_threshold": FULL_AT}}
    full = {"threshold": {"value": FULL_AT}}
    return {
        "refresh_interval": "0.02s",
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
            _triggered("overload_actions.reset_high_memory_stream", more_and_more),
            _triggered("overload_actions.shrink_heap", {"threshold": {"value": SHED_FROM}}),
            _triggered("overload_actions.reduce_timeouts", more_and_more) | {"typed_config": _IMPATIENT},
            _triggered("overload_actions.stop_accepting_requests", full),
            _triggered("overload_actions.stop_accepting_connections", full),
        ],
        "loadshed_points": [_triggered("load_shed_points.http1_server_abort_dispatch", more_and_more)],
    }


def _monitor(name: str, kind: str, **config: int) -> Json:
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}resource_monitors.{kind}", **config}}


def _triggered(name: str, trigger: Json) -> Json:
    return {"name": f"envoy.{name}", "triggers": [{"name": _HEAP, **trigger}]}
