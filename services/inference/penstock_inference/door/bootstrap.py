"""Envoy's bootstrap (`envoy.json`): its listeners, its administration, its traces. Read once, at
its start.
"""

from __future__ import annotations

from typing import Final

from penstock.serving.protocol.http_request import MAX_REQUEST_BYTES
from penstock.serving.records import PREDICTION_HEADER
from penstock_inference.door.door import Door
from penstock_inference.door.limits import BUFFER_BYTES, CONNECTION, overload_manager
from penstock_inference.door.recording import recording_filter
from penstock_inference.door.routes import cluster
from penstock_inference.door.xds import (
    EXTENSIONS,
    ROUTER,
    TYPES,
    Json,
    address,
    header,
    http_listener,
    method_is,
    watched,
)

HEALTH_PATHS: Final = ("/ready", "/stats/prometheus")
CLUSTERS_FILE: Final = "cds.json"
ROUTES_FILE: Final = "rds.json"
LISTENERS_FILE: Final = "lds.json"

_ADMINISTRATION: Final = "administration"
_COLLECTOR: Final = "collector"


def bootstrap(door: Door) -> Json:
    """Whole document. Clusters, routes and the listener for sites come from files that Envoy watches."""
    listeners, static = [_door(door)], []
    if door.health_listen:
        listeners.append(_health(door))
        static.append(_static(_ADMINISTRATION, door.administration, http2=False))
    if door.traces:
        static.append(_static(_COLLECTOR, door.traces))
    return {
        "node": {"id": "door", "cluster": "penstock"},
        "admin": {"address": address(door.administration)},
        "dynamic_resources": {
            "cds_config": watched(door.folder, CLUSTERS_FILE),
            "lds_config": watched(door.folder, LISTENERS_FILE),
        },
        "static_resources": {"listeners": listeners, "clusters": static},
        "overload_manager": overload_manager(),
    }


def _door(door: Door) -> Json:
    # For everybody, over h2c and HTTP/1.1.
    manager = {
        "codec_type": "AUTO",
        **CONNECTION,
        "generate_request_id": False,
        "early_header_mutation_extensions": [_ID],
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "local_reply_config": _LOCAL_REPLIES,
        "http_filters": [recording_filter(door), _router(door)],
        "rds": {"route_config_name": "door", "config_source": watched(door.folder, ROUTES_FILE)},
        **({"tracing": _TRACING, "request_id_extension": _NO_REQUEST_ID} if door.traces else {}),
    }
    return http_listener("door", door.listen, manager, per_connection_buffer_limit_bytes=BUFFER_BYTES)


def _router(door: Door) -> Json:
    # A dozen figures by status and cluster cost each call some 4 µs, and say nothing where nobody can
    # ask for them; of headers of Envoy's own nobody makes use.
    config = {"dynamic_stats": bool(door.health_listen), "suppress_envoy_headers": True}
    return {**ROUTER, "typed_config": ROUTER["typed_config"] | config}


def _health(door: Door) -> Json:
    # For health checks and Prometheus. The administration itself could end Envoy; these two paths
    # only read.
    routes = [
        {"match": {"path": path, "headers": method_is("GET")}, "route": {"cluster": _ADMINISTRATION}}
        for path in HEALTH_PATHS
    ]
    manager = {
        "http_filters": [ROUTER],
        "route_config": {"virtual_hosts": [{"name": "health", "domains": ["*"], "routes": routes}]},
    }
    return http_listener("health", door.health_listen, manager)


def _static(name: str, at: str, *, http2: bool = True) -> Json:
    # Within the bootstrap a cluster's type goes without saying.
    return {key: value for key, value in cluster(name, at, http2=http2).items() if key != "@type"}


# -- ids -------------------------------------------------------------------------------------------

# %STREAM_ID% is the client's own x-request-id when it sends one; %UNIQUE_ID% is Envoy's. Set before
# any filter: a refused call has one too.
_ID: Final[Json] = {
    "name": "envoy.http.early_header_mutation.header_mutation",
    "typed_config": {
        "@type": EXTENSIONS + "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [{"append": header(PREDICTION_HEADER, "%UNIQUE_ID%")}],
    },
}


# -- traces ----------------------------------------------------------------------------------------

# Tracing of each call, in its client's trace where it names one (`traceparent`), else in a new one.
_TRACING: Final[Json] = {
    "provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": TYPES + "envoy.config.trace.v3.OpenTelemetryConfig",
            "grpc_service": {"envoy_grpc": {"cluster_name": _COLLECTOR}, "timeout": "1s"},
            "service_name": "penstock.door",
        },
    },
    # By its id a prediction is found among the traces, whoever began its trace.
    "custom_tags": [{"tag": "penstock.prediction", "request_header": {"name": PREDICTION_HEADER}}],
}
_NO_REQUEST_ID: Final[Json] = {
    "typed_config": {
        "@type": EXTENSIONS + "request_id.uuid.v3.UuidRequestIdConfig",
        "use_request_id_for_trace_sampling": False,  # or nothing is sampled: nobody makes request ids here
    }
}


# -- Envoy's own answers ---------------------------------------------------------------------------


def _status_is(code: int) -> Json:
    return {
        "status_code_filter": {
            "comparison": {
                "op": "EQ",
                "value": {"default_value": code, "runtime_key": f"penstock.door.{code}"},
            }
        }
    }


_IS_GRPC: Final[Json] = {
    "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
}
_TOO_LARGE: Final = f"the request is larger than {MAX_REQUEST_BYTES >> 20} MiB: send fewer rows at once"
_UNKNOWN_PATH: Final = "there is no such method or path at this door"
_AS_IT_IS: Final[Json] = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
_LOCAL_REPLIES: Final[Json] = {
    "mappers": [
        # Envoy's own table turns 413 into UNKNOWN.
        {
            "filter": {"and_filter": {"filters": [_status_is(413), _IS_GRPC]}},
            "headers_to_add": [header("grpc-status", "8")],
            "body": {"inline_string": _TOO_LARGE},
            "body_format_override": _AS_IT_IS,
        },
        {
            "filter": {"and_filter": {"filters": [_status_is(404), _IS_GRPC]}},
            "body": {"inline_string": _UNKNOWN_PATH},
            "body_format_override": _AS_IT_IS,
        },
        {"filter": _IS_GRPC, "body_format_override": _AS_IT_IS},
        {"filter": _status_is(413), "body": {"inline_string": _TOO_LARGE}},
        {"filter": _status_is(404), "body": {"inline_string": _UNKNOWN_PATH}},
    ],
    # Over HTTP the protocol's own form.
    "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"},
}
