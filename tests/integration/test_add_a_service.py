"""`docs/add-a-service.md`: its files, as they stand, make a service that starts, consumes each
event once and says so.
"""

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Producer

from penstock.contracts.events import ModelVersionPromoted, encode
from penstock.contracts.topics import SHARED
from penstock.runtime.kafka.admin import ensure_topics
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing.broker import free_ports

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"```(?:python|toml)\n# (?P<path>\S+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.kafka
def test_the_page_makes_a_service(kafka: Any, tmp_path: Path) -> None:
    blocks = {
        found["path"]: found["text"]
        for found in BLOCK.finditer((ROOT / "docs" / "add-a-service.md").read_text())
    }
    assert len(blocks) == 7
    for path, text in blocks.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (port,) = free_ports(1)
    settings = kafka.settings(f"tally-{time.time_ns()}-")
    ensure_topics(settings, SHARED)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "services" / "tally"),
        "PENSTOCK_HOME": str(tmp_path / "home"),
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": settings.topic_prefix,
        "PENSTOCK_TALLY__PORT": str(port),
    }
    service = subprocess.Popen([sys.executable, "-m", "penstock_tally"], env=environment)
    try:
        promoted = _promotion()
        producer = Producer(settings.client())
        for identity in ("first", "second", "second"):  # a repeat counts once
            headers = {
                "ce_id": identity,
                "ce_type": promoted.ce_type(),
                "ce_source": "/test",
                "ce_specversion": "1.0",
            }
            producer.produce(
                settings.topic(promoted.topic), encode(promoted), promoted.key.encode(), headers=headers
            )
        producer.flush(10)
        assert _eventually_says(port, "2 promotions")
    finally:
        service.terminate()
        assert service.wait(20) == 0


def _eventually_says(port: int, fact: str) -> bool:
    deadline = time.monotonic() + 30
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)
        while time.monotonic() < deadline:
            try:
                status = stub.GetStatus(
                    status_pb2.GetStatusRequest(), timeout=1, wait_for_ready=True
                ).services[0]
            except grpc.RpcError:
                continue
            if status.ready and fact in status.facts:
                return True
    return False


def _promotion() -> ModelVersionPromoted:
    example = ROOT / "schemas" / "examples" / "ModelVersionPromoted.json"
    return ModelVersionPromoted.model_validate_json(example.read_text()).model_copy(
        update={"promoted_at": datetime.now(UTC)}
    )
