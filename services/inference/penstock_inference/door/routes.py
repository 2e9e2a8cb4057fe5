"""Envoy's routes (`rds.json`), what the door lets in, and the clusters that they lead to
(`cds.json`): Triton, the gateway before it, and every service.

- Inferences are recorded (`recording.py`). Over HTTP they go to the gateway, which asks Triton; over
  gRPC to Triton, or to the gateway where the recording script finds that they are not plain.
- Health and metadata of Triton pass; what changes or watches Triton (repository, statistics, shared
  memory) is refused by name.
- `penstock.<service>.v1.` goes to that service, streams too. Health, reflection and status are
  asked of the door for all services: their paths are rewritten, so that the same port of inference
  answers for itself when it is asked directly.
- A prediction's id goes back as `x-penstock-prediction`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from penstock.contracts.site_door import FALLBACK_SERVICE, HUB_SERVICE
from penstock.serving.protocol.http import REFUSAL_HEADER
from penstock.serving.protocol.http_request import MAX_REQUEST_BYTES
from penstock.serving.records import PREDICTION_HEADER
from penstock_inference.door.door import (
    DOOR_PACKAGE,
    LARGE_HEADER,
    READ_HEADER,
    Door,
)
from penstock_inference.door.limits import STILL_S
from penstock_inference.door.recording import recorded
from penstock_inference.door.xds import EXTENSIONS, TYPES, Json, address, header, is_ip, method_is

TRITON: Final = "triton"
GATEWAY_GRPC: Final = "gateway-grpc"
GATEWAY_HTTP: Final = "gateway-http"

# Address that refuses every connection: no program may listen there, and Envoy itself does not.
NOBODY: Final = "127.0.0.1:1"
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

_REWRITTEN: Final = {
    "/grpc.health.v1.Health/": f"/{DOOR_PACKAGE}.Health/",
    "/grpc.reflection.v1.ServerReflection/": f"/{DOOR_PACKAGE}.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/": f"/{DOOR_PACKAGE}.ServerReflection/",
    "/penstock.status.v1.StatusService/": f"/{DOOR_PACKAGE}.Status/",
}
_OIP: Final = "/inference.GRPCInferenceService/"
# Name of a pipeline; a candidate's has a dot and so no HTTP route.
_NAME: Final = "[a-z][a-z0-9-]*"
# Without noughts before it, which Triton passes over: the record's path is cut, and has to name the model.
_MODEL: Final = f"/models/{_NAME}(/versions/[1-9][0-9]*)?"

# Sends what never reached a service to another replica of it, or to the same one again.
_ANOTHER_REPLICA: Final[Json] = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": EXTENSIONS + "retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
}


def _connect_again(served: Collection[str]) -> Json:
    # Sends again only what never reached a model, for some 20 s or until the client gives up: longer
    # than Triton takes to start again and to load its models.
    reached_none = [
        "failed to connect to all addresses",  # the gateway, of Triton
        # Triton that ends: its models go first, and it still answers. What is stopped is not served.
        *(f"'{pipeline}' has no available versions" for pipeline in sorted(served)),
        # Triton that has just started; `held` comes up to a second later.
        *(f"Request for unknown model: '{pipeline}' is not found" for pipeline in sorted(served)),
    ]
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
        "retriable_headers": [
            {"name": name, "string_match": {"contains": said}}
            for name in ("grpc-message", REFUSAL_HEADER)
            for said in reached_none
        ],
        "num_retries": 80,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
    }


def clusters(door: Door, *, held: bool = False) -> list[Json]:
    """Clusters of the door. With `held` nobody is behind Triton's: a prediction is tried again
    until somebody is, or until its client gives up.

    So Triton restarts without a failed prediction: it answers before its models are there, that it
    knows none.
    """
    backends = door.backends
    return [
        *(
            cluster(name, NOBODY if held else at, http2=name != GATEWAY_HTTP) | _MANY_AT_ONCE
            for name, at in (
                (TRITON, backends.triton),
                (GATEWAY_GRPC, backends.gateway_grpc),
                (GATEWAY_HTTP, backends.gateway_http),
            )
        ),
        # A service's name may stand for several replicas: calls go to those that are ready, and to
        # all of them where none is.
        *(
            cluster(service, at) | ({} if is_ip(at) else {"health_checks": [_READY_CHECK]})
            for service, at in sorted(door.services.items())
        ),
    ]


def cluster(name: str, at: str, *, http2: bool = True) -> Json:
    """Cluster of one address, or of all addresses that its name stands for."""
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
                "explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def routes(door: Door, closed: str | None = None, *, required: bool, served: Collection[str] = ()) -> Json:
    """Routes of the door. With `required` an answer that cannot be recorded is withheld; `closed`
    is why nothing is predicted at all; a call to a `served` pipeline waits while Triton has not
    loaded it.

    The first two hold for every pipeline: the model's name is in the body, where no route can see it.
    """
    ways = [
        *_inference(closed, served, required=required),
        *_readiness_and_metadata(closed),
        _refused("closed-grpc", {"prefix": _OIP}),
        _refused("closed-sites", {"prefix": f"/{HUB_SERVICE}/"}),
        _refused("closed-fallback", {"prefix": f"/{FALLBACK_SERVICE}/"}),
        *(_rewritten(path, to) for path, to in _REWRITTEN.items()),
        *(_service(service) for service in sorted(door.services)),
    ]
    return {
        "@type": TYPES + "envoy.config.route.v3.RouteConfiguration",
        "name": "door",
        "response_headers_to_remove": [REFUSAL_HEADER],
        "virtual_hosts": [
            {
                "name": "door",
                "domains": ["*"],
                "request_body_buffer_limit": MAX_REQUEST_BYTES,
                "routes": ways,
            }
        ],
    }


def _inference(closed: str | None, served: Collection[str], *, required: bool) -> list[Json]:
    def way(name: str, match: Json, cluster: str) -> list[Json]:
        # A large one is not sent again: that would hold its body twice.
        once, again = _to(cluster, "30s"), {"retry_policy": _connect_again(served)}
        return [
            _recorded(f"{name}-large", _and(match, LARGE_HEADER), _unless(closed, once), required),
            _recorded(name, match, _unless(closed, once | again), required),
        ]

    over_grpc = {"path": _OIP + "ModelInfer", "grpc": {}}
    return [
        # The script sets both headers; of a client's own making they do no harm.
        *way("infer-grpc-read", _and(over_grpc, READ_HEADER), GATEWAY_GRPC),
        *way("infer-grpc", over_grpc, TRITON),
        *way("infer-http", _http("POST", f"/v2{_MODEL}/infer"), GATEWAY_HTTP),
    ]


def _recorded(name: str, match: Json, action: Json, required: bool) -> Json:
    told = header(PREDICTION_HEADER, f"%REQ({PREDICTION_HEADER})%")
    return {
        "name": name,
        "match": match,
        **recorded(required=required),
        "response_headers_to_add": [told],
        **action,
    }


def _and(match: Json, present: str) -> Json:
    return match | {"headers": [*match.get("headers", []), {"name": present, "present_match": True}]}


def _readiness_and_metadata(closed: str | None) -> list[Json]:
    # Readiness is refused while the door is closed; metadata is not.
    def grpc(method: str, closed: str | None = None, cluster: str = TRITON) -> Json:
        match = {"path": _OIP + method, "grpc": {}}
        return {"name": f"oip-{method}", "match": match, **_unless(closed, _to(cluster, "5s"))}

    def http(name: str, path: str, closed: str | None = None) -> Json:
        return {"name": name, "match": _http("GET", path), **_unless(closed, _to(GATEWAY_HTTP, "5s"))}

    return [
        *(grpc(method, closed) for method in ("ServerReady", "ModelReady")),
        *(grpc(method) for method in ("ServerLive", "ModelMetadata")),
        grpc("ServerMetadata", cluster=GATEWAY_GRPC),  # it names only extensions that pass
        # Triton reads `stats` as all models' statistics, not as a model's name.
        _refused("closed-statistics", {"path_separated_prefix": "/v2/models/stats"}),
        http("oip-http-ready", f"(/v2/health|/v2{_MODEL})/ready", closed),
        http("oip-http", f"/v2(/health/live|{_MODEL})?"),
    ]


def _http(method: str, path: str) -> Json:
    return {"safe_regex": {"regex": path}, "headers": method_is(method)}


def _unless(closed: str | None, route: Json) -> Json:
    # Action of a route: the reason why the door is closed as an answer, else `route`.
    if closed:
        return {"direct_response": {"status": 503, "body": {"inline_string": closed}}}
    return {"route": route}


def _refused(name: str, match: Json) -> Json:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": 403, "body": {"inline_string": "not through the front door"}},
    }


def _rewritten(path: str, to: str) -> Json:
    return {
        "name": path.strip("/"),
        "match": {"prefix": path, "grpc": {}},
        "route": _to_service("inference") | {"prefix_rewrite": to},
    }


def _service(service: str) -> Json:
    # The dot keeps `v10` out.
    return {
        "name": service,
        "match": {"prefix": f"/penstock.{service}.v1.", "grpc": {}},
        "route": _to_service(service),
    }


def _to_service(service: str) -> Json:
    return _to(service, None) | {"retry_policy": _ANOTHER_REPLICA}


def _to(cluster: str, at_most: str | None) -> Json:
    # `at_most` is None for a stream, which may last. A client's own deadline holds always.
    longest = {"max_stream_duration": at_most} if at_most else {}
    # A passed `timeout` would be UNAVAILABLE; the stream's duration answers DEADLINE_EXCEEDED.
    return {
        "cluster": cluster,
        "timeout": "0s",
        "idle_timeout": f"{STILL_S}s" if at_most else "0s",
        "max_stream_duration": {**longest, "grpc_timeout_header_max": "0s"},
    }
