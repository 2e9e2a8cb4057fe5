"""Envoy's clusters (`cds.json`): Triton and every service."""

from __future__ import annotations

from typing import Final

from penstock_inference.door.door import MAX_REQUEST_BYTES, Door
from penstock_inference.door.xds import EXTENSIONS, TYPES, Json, address, is_ip

TRITON_GRPC: Final = "triton-grpc"
TRITON_HTTP: Final = "triton-http"

# Address that refuses every connection: no program may listen there, and Envoy itself does not.
_NOBODY: Final = "127.0.0.1:1"
_MANY_AT_ONCE: Final[Json] = {
    "circuit_breakers": {
        # By default three calls may be tried again at a time, and a thousand may wait.
        "thresholds": [
            {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 4096}
        ]
    }
}
_READY_CHECK: Final[Json] = {
    "grpc_health_check": {},
    "interval": "1s",
    "no_traffic_interval": "1s",
    "timeout": "1s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
}


def clusters(door: Door, *, held: bool = False) -> list[Json]:
    """Clusters of the door. With `held` nobody is behind Triton's: a prediction is tried again
    until somebody is, or until its client gives up.

    So Triton restarts without a failed prediction: it answers before its models are there, that it
    knows none.
    """
    return [
        cluster(TRITON_GRPC, _NOBODY if held else door.triton.grpc) | _MANY_AT_ONCE,
        cluster(TRITON_HTTP, _NOBODY if held else door.triton.http, http2=False) | _MANY_AT_ONCE,
        *(_replicas(service, at) for service, at in sorted(door.services.items())),
    ]


def cluster(name: str, at: str, *, http2: bool = True) -> Json:
    """Cluster of one address, or of all addresses that its name stands for."""
    options: Json = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    endpoint = {"endpoint": {"address": address(at)}}
    return {
        "@type": TYPES + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if is_ip(at) else "STRICT_DNS",
        "dns_refresh_rate": "1s",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": EXTENSIONS + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": options,
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _replicas(service: str, at: str) -> Json:
    """Cluster of a service. A name may stand for several replicas: calls go to those that are
    ready, and to all of them where none is.
    """
    return cluster(service, at) | ({} if is_ip(at) else {"health_checks": [_READY_CHECK]})
