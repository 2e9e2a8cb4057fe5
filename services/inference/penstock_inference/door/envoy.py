"""Envoy's configuration as a value: what the front door lets in, where it leads, what it writes down.

Three documents: `envoy.json` is read once; `cds.json` (clusters) and `rds.json` (routes) are
watched by Envoy and replaced by rename. Nothing here touches a file or the network.

What the door does, on one port, h2c and HTTP/1.1:

- ModelInfer and `POST /v2/models/NAME[/versions/N]/infer` go to Triton; request and response go
  into the log, one line a call, which is in the file before the answer leaves (`recording.lua`).
  The log is the recorder's spool (`recorder.py`).
- Health and metadata of Triton pass; what changes or watches Triton (repository, statistics, shared
  memory) is refused by name.
- `penstock.<service>.v1.` goes to that service, streams too. Health, reflection and status are
  asked of the door for all services: their paths are rewritten, so that the same port of inference
  answers for itself when asked directly.
- Each call gets an id of Envoy's own making, which no client can choose; a prediction's goes back
  as `x-penstock-prediction`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

PREDICTION_HEADER: Final = "x-penstock-prediction"
MAX_REQUEST_BYTES: Final = 64 << 20
KEPT_BYTES: Final = 1 << 20
"""A longer body goes through, but not into the log: a line grows by a third in base64."""
KEPT_HEAD_BYTES: Final = 4 << 10
"""Of a longer body this much is kept: enough for the name of the model."""
LOG_FILE: Final = "predictions.log"
HEALTH_PATHS: Final = ("/ready", "/stats/prometheus")

DOOR_PACKAGE: Final = "penstock.door.v1"
"""Where inference serves what is asked of the door as a whole. Not reachable by this name from outside."""
REWRITTEN: Final = {
    "/grpc.health.v1.Health/": f"/{DOOR_PACKAGE}.Health/",
    "/grpc.reflection.v1.ServerReflection/": f"/{DOOR_PACKAGE}.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/": f"/{DOOR_PACKAGE}.ServerReflection/",
    "/penstock.status.v1.StatusService/": f"/{DOOR_PACKAGE}.Status/",
}

_T = "type.googleapis.com/"
_EXT = _T + "envoy.extensions."
_OIP = "/inference.GRPCInferenceService/"
_NAME = "[a-z][a-z0-9-]*"
"""A pipeline's name; a candidate's has a dot and so no HTTP route."""
_MODEL = f"/v2/models/{_NAME}(/versions/[0-9]+)?"
_READY = ("ServerReady", "ModelReady")
_METADATA = ("ServerLive", "ServerMetadata", "ModelMetadata")


@dataclass(frozen=True)
class Door:
    """Where everything is. Addresses are host:port."""

    folder: Path
    listen: str
    admin: str
    """Where inference asks whether Envoy is ready."""
    triton_grpc: str
    triton_http: str
    services: Mapping[str, str]
    admin_listen: str = ""
    """Where Envoy's administration listens; by default at `admin`."""
    health_listen: str = ""
    """Where Envoy lets others ask for its readiness and its metrics, and nothing else of its
    administration; by default nowhere.
    """
    traces: str = ""
    """A collector that takes OTLP over gRPC: Envoy sends it a span for each call. By default none."""

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE


# -- the recording ---------------------------------------------------------------------------------


def _recording(door: Door) -> str:
    """The script that writes the log, `recording.lua`, for this door."""
    script = resources.files("penstock_inference.door").joinpath("recording.lua").read_text()
    constants = {
        "@KEPT@": str(KEPT_BYTES),
        "@HEAD@": str(KEPT_HEAD_BYTES),
        "@LOG@": json.dumps(str(door.log), ensure_ascii=False),
    }
    for name, value in constants.items():
        script = script.replace(name, value)
    return script


# -- envoy.json ------------------------------------------------------------------------------------


def bootstrap(door: Door) -> Json:
    lua = _filter(
        "lua", _EXT + "filters.http.lua.v3.Lua", source_codes={"record": {"inline_string": _recording(door)}}
    )
    router = _filter("router", _EXT + "filters.http.router.v3.Router")
    manager = {
        "@type": _EXT + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "door",
        "codec_type": "AUTO",
        "generate_request_id": False,
        "early_header_mutation_extensions": [_ID],
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "local_reply_config": _LOCAL_REPLIES,
        "http_filters": [lua, router],
        "rds": {"route_config_name": "door", "config_source": _watched(door, "rds.json")},
        **({"tracing": _TRACING, "request_id_extension": _NO_REQUEST_ID} if door.traces else {}),
    }
    listener = {
        "name": "door",
        "address": _address(door.listen),
        "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {
        "node": {"id": "door", "cluster": "penstock"},
        "admin": {"address": _address(door.admin_listen or door.admin)},
        "dynamic_resources": {"cds_config": _watched(door, "cds.json")},
        "static_resources": {
            "listeners": [listener, *([_health(door)] if door.health_listen else [])],
            "clusters": [
                *(
                    [_static("administration", door.admin_listen or door.admin, http2=False)]
                    if door.health_listen
                    else []
                ),
                *([_static(_COLLECTOR, door.traces)] if door.traces else []),
            ],
        },
    }


def _static(name: str, address: str, *, http2: bool = True) -> Json:
    cluster = _cluster(name, address, http2=http2)
    del cluster["@type"]  # known where it stands
    return cluster


_COLLECTOR: Final = "collector"
_TRACING: Final[Json] = {
    "provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": _T + "envoy.config.trace.v3.OpenTelemetryConfig",
            "grpc_service": {"envoy_grpc": {"cluster_name": _COLLECTOR}, "timeout": "1s"},
            "service_name": "penstock.door",
        },
    },
    # By its id a prediction is found among the traces, whoever began its trace.
    "custom_tags": [{"tag": "penstock.prediction", "request_header": {"name": PREDICTION_HEADER}}],
}
"""A call goes on in its client's trace, where it names one (`traceparent`), else a trace begins with it."""
_NO_REQUEST_ID: Final[Json] = {
    "typed_config": {
        "@type": _EXT + "request_id.uuid.v3.UuidRequestIdConfig",
        "use_request_id_for_trace_sampling": False,  # or nothing is sampled: nobody makes request ids here
    }
}


def _health(door: Door) -> Json:
    """Whoever reaches the whole administration can end Envoy; these two paths only tell."""
    manager = {
        "@type": _EXT + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "health",
        "http_filters": [_filter("router", _EXT + "filters.http.router.v3.Router")],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "health",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"path": path, "headers": _methods("GET")},
                            "route": {"cluster": "administration"},
                        }
                        for path in HEALTH_PATHS
                    ],
                }
            ]
        },
    }
    return {
        "name": "health",
        "address": _address(door.health_listen),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


# %STREAM_ID% is the client's own x-request-id when it sends one; %UNIQUE_ID% is Envoy's. Set before
# any filter: a refused call has one too.
_ID: Final[Json] = {
    "name": "envoy.http.early_header_mutation.header_mutation",
    "typed_config": {
        "@type": _EXT + "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [
            {
                "append": {
                    "header": {"key": PREDICTION_HEADER, "value": "%UNIQUE_ID%"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            }
        ],
    },
}
_ID_BACK: Final[Json] = {
    "header": {"key": PREDICTION_HEADER, "value": f"%REQ({PREDICTION_HEADER})%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}


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
_LOCAL_REPLIES: Final[Json] = {
    "mappers": [
        # Envoy's own table turns 413 into UNKNOWN.
        {
            "filter": {"and_filter": {"filters": [_status_is(413), _IS_GRPC]}},
            "headers_to_add": [
                {
                    "header": {"key": "grpc-status", "value": "8"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
            "body": {"inline_string": _TOO_LARGE},
        },
        {"filter": _status_is(413), "body": {"inline_string": _TOO_LARGE}},
        {"filter": _status_is(404), "body": {"inline_string": _UNKNOWN_PATH}},
    ]
}


def _filter(name: str, kind: str, **config: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": kind, **config}}


def _watched(door: Door, name: str) -> Json:
    return {
        "path_config_source": {
            "path": str(door.folder / name),
            "watched_directory": {"path": str(door.folder)},
        },
        "resource_api_version": "V3",
    }


# -- cds.json --------------------------------------------------------------------------------------


def clusters(door: Door, *, held: bool = False) -> list[Json]:
    """With `held` nobody is behind Triton's clusters: a prediction is tried again until somebody
    is, or until its client gives up.

    It is how Triton is restarted without a failed prediction: it answers before its models are
    there, that it knows none.
    """
    return [
        _cluster("triton-grpc", _NOBODY if held else door.triton_grpc) | _MANY_AT_ONCE,
        _cluster("triton-http", _NOBODY if held else door.triton_http, http2=False) | _MANY_AT_ONCE,
        *(_replicas(service, address) for service, address in sorted(door.services.items())),
    ]


def _replicas(service: str, address: str) -> Json:
    """A name may stand for several replicas: calls go to those that are ready, and to all of them
    where none is.
    """
    return _cluster(service, address) | ({} if _is_ip(address) else {"health_checks": [_READY_CHECK]})


_READY_CHECK: Final[Json] = {
    "grpc_health_check": {},
    "interval": "1s",
    "no_traffic_interval": "1s",
    "timeout": "1s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
}
_NOBODY: Final = "127.0.0.1:1"
"""Refuses every connection: no program may listen there, and Envoy itself does not."""
_MANY_AT_ONCE: Final[Json] = {
    "circuit_breakers": {
        # By default three calls may be tried again at a time, and a thousand may wait.
        "thresholds": [
            {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 4096}
        ]
    }
}


def _cluster(name: str, address: str, *, http2: bool = True) -> Json:
    options: Json = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    endpoint = {"endpoint": {"address": _address(address)}}
    return {
        "@type": _T + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if _is_ip(address) else "STRICT_DNS",
        "dns_refresh_rate": "1s",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _EXT + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": options,
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(address: str) -> Json:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


# -- rds.json --------------------------------------------------------------------------------------


def routes(door: Door, closed: str | None = None, *, required: bool) -> Json:
    """What goes where.

    `required`: an answer that cannot be recorded is withheld. `closed`: why nothing is predicted at
    all. Both hold for every pipeline: the model's name is in the body, where no route can see it.
    """
    shut: Json | None = (
        {"direct_response": {"status": 503, "body": {"inline_string": closed}}} if closed else None
    )
    found = [
        _recorded("infer-grpc", {"path": _OIP + "ModelInfer", "grpc": {}}, "triton-grpc", shut, required),
        _recorded(
            "infer-http",
            {"safe_regex": {"regex": _MODEL + "/infer"}, "headers": _methods("POST")},
            "triton-http",
            shut,
            required,
        ),
        *(_open(f"oip-{name}", {"path": _OIP + name, "grpc": {}}, "triton-grpc", shut) for name in _READY),
        *(_open(f"oip-{name}", {"path": _OIP + name, "grpc": {}}, "triton-grpc") for name in _METADATA),
        # Triton reads `stats` as all models' statistics, not as a model's name.
        _refused("closed-statistics", {"path_separated_prefix": "/v2/models/stats"}),
        _open(
            "oip-http-ready",
            {"safe_regex": {"regex": f"(/v2/health|{_MODEL})/ready"}, "headers": _methods("GET")},
            "triton-http",
            shut,
        ),
        _open(
            "oip-http",
            {"safe_regex": {"regex": f"/v2(/health/live|{_MODEL[3:]})?"}, "headers": _methods("GET")},
            "triton-http",
        ),
        _refused("closed-grpc", {"prefix": _OIP}),
        *(_rewritten(path, to) for path, to in REWRITTEN.items()),
        *(_service(service) for service in sorted(door.services)),
    ]
    return {
        "@type": _T + "envoy.config.route.v3.RouteConfiguration",
        "name": "door",
        "virtual_hosts": [
            {
                "name": "door",
                "domains": ["*"],
                "request_body_buffer_limit": MAX_REQUEST_BYTES,
                "routes": found,
            }
        ],
    }


_CONNECT_AGAIN: Final[Json] = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
    # Triton that ends: its models go first, and it still answers for them.
    "retriable_headers": [
        {"name": "grpc-message", "string_match": {"contains": "has no available versions"}}
    ],
    "num_retries": 80,
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
}
"""Only what never reached a model is sent again, for some 20 s or until the client gives up: longer
than Triton takes to start again.
"""
_ANOTHER_REPLICA: Final[Json] = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": _EXT + "retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
}
"""What never reached a service may go to another replica of it, or to the same one again."""


def _recorded(name: str, match: Json, cluster: str, shut: Json | None, required: bool) -> Json:
    per_route = {
        "envoy.filters.http.lua": {"@type": _EXT + "filters.http.lua.v3.LuaPerRoute", "name": "record"}
    }
    return {
        "name": name,
        "match": match,
        "typed_per_filter_config": per_route,
        "metadata": {"filter_metadata": {"envoy.filters.http.lua": {"required": required}}},
        "response_headers_to_add": [_ID_BACK],
        **(shut or {"route": _to(cluster, "30s") | {"retry_policy": _CONNECT_AGAIN}}),
    }


def _open(name: str, match: Json, cluster: str, shut: Json | None = None) -> Json:
    return {"name": name, "match": match, **(shut or {"route": _to(cluster, "5s")})}


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
    """`at_most` None: a stream may last. A client's own deadline holds always."""
    longest = {"max_stream_duration": at_most} if at_most else {}
    # A passed `timeout` would be UNAVAILABLE; the stream's duration answers DEADLINE_EXCEEDED.
    return {
        "cluster": cluster,
        "timeout": "0s",
        "idle_timeout": "0s",
        "max_stream_duration": {**longest, "grpc_timeout_header_max": "0s"},
    }


def _methods(*names: str) -> list[Json]:
    return [{"name": ":method", "string_match": {"exact": name}} for name in names]
