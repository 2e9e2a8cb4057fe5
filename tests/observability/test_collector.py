"""The collector's last hop, as the overlay has it: what services tell goes on to `prometheus`, by
OTLP over HTTP, to its receiver's path.

In Prometheus' place stands a server that takes down what it gets, since not every build of
Prometheus has that receiver.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from base64 import b64decode
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from penstock.testing.compose import clone_into, running_compose
from penstock.testing.wait import until

pytestmark = pytest.mark.compose

SERVER = """
import base64, http.server, json

class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers["Content-Encoding"]
        said = {"path": self.path, "encoding": encoding, "body": base64.b64encode(body).decode()}
        print(json.dumps(said), flush=True)
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("", 9090), Take).serve_forever()
"""
OVERLAY = f"""
services:
  prometheus:
    image: penstock/ingest:${{PENSTOCK_VERSION:-latest}}
    command: [python, -c, {json.dumps(SERVER)}]
    healthcheck: {{test: [CMD, python, -c, "import socket; socket.create_connection(('127.0.0.1', 9090))"]}}
"""


def test_what_services_tell_goes_on_to_prometheus(engine: None, tmp_path: Path) -> None:
    clone = clone_into(tmp_path)
    (clone / "deploy" / "compose" / "taker.yaml").write_text(OVERLAY)
    told = ExportMetricsServiceRequest()
    metric = (
        told.resource_metrics.add().scope_metrics.add().metrics.add(name="penstock.service.ready", unit="1")
    )
    metric.gauge.data_points.add(as_double=1.0, time_unix_nano=time.time_ns())
    with running_compose("observability", "taker", services=["otel-collector"], root=clone) as stack:
        with grpc.insecure_channel(f"127.0.0.1:{stack.environment['PENSTOCK_OTLP_PORT']}") as channel:
            MetricsServiceStub(channel).Export(told, timeout=20, wait_for_ready=True)

        def taken() -> list[dict[str, str]]:
            return [json.loads(said) for said in re.findall(r"\{\"path\".*\}", stack.log("prometheus"))]

        (got,) = until(taken, what="the collector has passed it on")
    assert got["path"] == "/api/v1/otlp/v1/metrics"
    body = b64decode(got["body"])
    passed = ExportMetricsServiceRequest.FromString(
        gzip.decompress(body) if got["encoding"] == "gzip" else body
    )
    assert passed.resource_metrics[0].scope_metrics[0].metrics[0] == metric
