"""The door for sites (`lds.json`): a listener of its own, TLS, to the edge hub and to nothing else.

Under one name in TLS a client certificate of the hub's authority is required, and `HubService` is
there; under another, without one, a site joins with its token. Envoy tells the hub whose
certificate it saw, and adds a secret that no other program of the machine has: whoever asks the hub
directly is nobody's site.

What the listener needs (certificates, that secret) the hub makes; until then there is none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from penstock.contracts.site_door import (
    AUTHORITY_PATH,
    DOOR_HEADER,
    HUB_SERVICE,
    JOIN_METHOD,
    JOIN_NAME,
    SITES_NAME,
    SiteDoor,
)
from penstock_inference.door.bootstrap import LISTENERS_FILE
from penstock_inference.door.files import write_resources
from penstock_inference.door.limits import CONNECTION
from penstock_inference.door.xds import (
    EXTENSIONS,
    ROUTER,
    TYPES,
    Json,
    address,
    connection_manager,
    header,
    method_is,
)

log = structlog.get_logger(__name__)

HUB: Final = "edge_gateway"
# Of a connection, each way: a hundred slow sites are 200 MiB at most.
BUFFER_BYTES: Final = 1 << 20
PING_EVERY_S: Final = 300  # traffic of an idle site; one that is gone is noticed after that
STILL_S: Final = 300  # longest time in which nothing moves in a call: a site's watch is quiet
HANDSHAKE_S: Final = 10


@dataclass(frozen=True)
class SiteListener:
    """Address of the door for sites, Envoy's folder, and the file that the hub hands over."""

    listen: str
    folder: Path
    handed: Path

    async def run(self, every_s: float) -> None:
        """Looks again and again whether the hub has handed over anything new."""
        while True:
            await asyncio.to_thread(self.write)
            await asyncio.sleep(every_s)

    def write(self) -> None:
        """Replaces the listener where the hub handed over another. What is damaged changes nothing."""
        try:
            handed = SiteDoor.model_validate_json(self.handed.read_bytes())
        except FileNotFoundError:
            resources = []
        except (OSError, ValidationError) as error:
            log.warning("site_door_not_read", file=str(self.handed), why=str(error))
            return
        else:
            resources = [listener(self.listen, handed)]
        if write_resources(self.folder, LISTENERS_FILE, resources):
            log.info("site_door_written", listens=self.listen if resources else "nowhere")


def listener(listen: str, handed: SiteDoor) -> Json:
    return {
        "@type": TYPES + "envoy.config.listener.v3.Listener",
        "name": "sites",
        "address": address(listen),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "listener_filters": [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": EXTENSIONS + "filters.listener.tls_inspector.v3.TlsInspector"},
            }
        ],
        "filter_chains": [_sites(handed), _join(handed)],
    }


def _sites(handed: SiteDoor) -> Json:
    manager = {
        "codec_type": "HTTP2",
        # What a client says of itself in this header is replaced.
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
    }
    hub = _to_hub("hub", {"prefix": f"/{HUB_SERVICE}/", "grpc": {}})
    known = {"trusted_ca": {"inline_string": handed.authority}}
    tls = {"require_client_certificate": True, **_tls(handed, ["h2"], validation_context=known)}
    return _chain("sites", SITES_NAME, manager, [hub], tls, handed.secret)


def _join(handed: SiteDoor) -> Json:
    authority = {
        "name": "authority",
        "match": {"path": AUTHORITY_PATH, "headers": method_is("GET")},
        "direct_response": {"status": 200, "body": {"inline_string": handed.authority}},
    }
    join = _to_hub("join", {"path": JOIN_METHOD, "grpc": {}})
    tls = _tls(handed, ["h2", "http/1.1"])
    return _chain("join", JOIN_NAME, {"codec_type": "AUTO"}, [join, authority], tls, handed.secret)


def _to_hub(name: str, match: Json) -> Json:
    # Nothing is sent again: a site does that by itself, and Envoy would hold the body meanwhile.
    route = {
        "cluster": HUB,
        "timeout": "0s",
        "idle_timeout": f"{STILL_S}s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    return {"name": name, "match": match, "route": route}


_CLOSED: Final[Json] = {
    "name": "closed",
    "match": {"prefix": "/"},
    "direct_response": {"status": 403, "body": {"inline_string": "not through the door for sites"}},
}


def _chain(name: str, server_name: str, manager: Json, routes: list[Json], tls: Json, secret: str) -> Json:
    host = {"name": name, "domains": ["*"], "routes": [*routes, _CLOSED]}
    # The hub's cluster may come a moment later.
    config = {
        "name": name,
        "validate_clusters": False,
        "request_headers_to_add": [header(DOOR_HEADER, secret)],
        "virtual_hosts": [host],
    }
    http2 = {
        **CONNECTION["http2_protocol_options"],
        "max_concurrent_streams": 32,
        "initial_stream_window_size": BUFFER_BYTES,
        "initial_connection_window_size": BUFFER_BYTES,
        "connection_keepalive": {"interval": f"{PING_EVERY_S}s", "timeout": "20s"},
    }
    wanted = {**CONNECTION, "http2_protocol_options": http2, "http_filters": [ROUTER], "route_config": config}
    return {
        "name": name,
        "filter_chain_match": {"server_names": [server_name]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "transport_socket_connect_timeout": f"{HANDSHAKE_S}s",
        "filters": [connection_manager(f"sites-{name}", {**wanted, **manager})],
    }


def _tls(handed: SiteDoor, protocols: list[str], **further: Json) -> Json:
    pair = {
        "certificate_chain": {"inline_string": handed.certificate},
        "private_key": {"inline_string": handed.key},
    }
    return {
        "@type": EXTENSIONS + "transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "alpn_protocols": protocols,
            "tls_certificates": [pair],
            **further,
        },
    }
