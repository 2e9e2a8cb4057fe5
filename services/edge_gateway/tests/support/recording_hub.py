"""A hub that ends TLS and keeps every byte of what a site tells it: it greets the site, gives one answer
to its first Watch, and lets all other calls wait.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc

from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock_edge_gateway import certificates
from penstock_edge_gateway.site.identity import SiteIdentity


class RecordingHub(grpc.GenericRpcHandler):
    def __init__(self, news: pb.WatchResponse) -> None:
        self.heard: dict[str, list[bytes]] = defaultdict(list)
        """Requests by method, with what came beside them."""
        self._answers = {"Hello": [pb.HelloResponse(incarnation=1)], "Watch": [news]}
        self._over = threading.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method).rpartition("/")[2]
        beside = repr(handler_call_details.invocation_metadata).encode()

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.heard[method].append(request + beside)
            answers = self._answers.get(method)
            if not answers:
                self._over.wait()
                context.abort(grpc.StatusCode.UNAVAILABLE, "the test is over")
            return answers.pop().SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    @contextmanager
    def serving(self, site: str) -> Iterator[SiteIdentity]:
        """Serves; yields the identity of a site that reaches it."""
        now, key = datetime.now(UTC), certificates.new_key()
        authority = certificates.new_authority(now)
        door = certificates.door_identity(authority, now)
        certificate = certificates.site_certificate(authority, site, key.public_key(), now)
        pair = door.key_pem.encode(), door.certificate_pem.encode()
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers([self])
        port = server.add_secure_port(
            "127.0.0.1:0",
            grpc.ssl_server_credentials([pair], authority.certificate_pem.encode(), True),
        )
        server.start()
        pems = authority.certificate_pem, certificates.pem(certificate), certificates.key_pem(key)
        try:
            yield SiteIdentity(site, f"127.0.0.1:{port}", *pems)
        finally:
            self._over.set()
            server.stop(1).wait()
