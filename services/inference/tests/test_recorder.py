"""Every line of the log is published once, whenever the recorder dies."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import Consumer

from penstock.testing.broker import Kafka
from penstock.testing.wait import until
from penstock_inference.door.door import Backends, Door
from penstock_inference.record.spool import rotate

pytestmark = pytest.mark.kafka

Make = Callable[..., Any]
PROCESS = Path(__file__).with_name("support") / "recorder_process.py"


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def door(tmp_path: Path) -> Door:
    door = Door(
        tmp_path, "127.0.0.1:1", "127.0.0.1:2", Backends("127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"), {}
    )
    door.logs.mkdir()
    return door


@contextmanager
def recording(door: Door, kafka: Kafka, prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(PROCESS), str(door.logs), kafka.bootstrap_servers, prefix]
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def published(kafka: Kafka, prefix: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What a reader sees so far."""
    found: list[dict[str, Any]] = []
    consumer = Consumer(
        kafka.settings().client(
            group_id=prefix,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            topic_metadata_refresh_interval_ms=200,
        )
    )
    consumer.subscribe([f"{prefix}credit-risk.predictions.v1"])

    def read() -> list[dict[str, Any]]:
        found.extend(
            orjson.loads(message.value()) for message in consumer.consume(5000, 0.2) if not message.error()
        )
        return found

    yield read
    consumer.close()


@pytest.fixture
def numbered(line: Make, framed: Make, grpc_request: Make, grpc_response: Make) -> Callable[[int], bytes]:
    request = framed(grpc_request([[41.0, 1.0]], [["car", "true"]]).SerializeToString())
    response = framed(grpc_response([[0.25, 0.75]], ["yes"]).SerializeToString())
    return lambda number: line(request, response, id=f"{number:06d}") + b"\n"


def test_nothing_lost_or_doubled_by_kill_9(
    door: Door,
    kafka: Kafka,
    prefix: str,
    published: Callable[[], list[dict[str, Any]]],
    numbered: Callable[[int], bytes],
) -> None:
    rng = random.Random(7)
    written = 0

    def write(count: int) -> None:
        nonlocal written
        with door.log.open("ab") as log:
            log.write(b"".join(numbered(number) for number in range(written, written + count)))
        written += count

    write(3_000)
    for _ in range(3):
        with recording(door, kafka, prefix) as process:
            goal = len(published()) + 1
            write(3_000)
            until(lambda goal=goal: len(published()) >= goal, what="the recorder publishes")  # type: ignore[misc]
            write(2_000)
            time.sleep(rng.uniform(0, 0.15))  # a moment of its work, seeded
            process.kill()
            if rng.random() < 0.5:
                rotate(door)
    with recording(door, kafka, prefix):
        write(1_000)
        until(lambda: len(published()) >= written, what="everything is published")
        write(1)
        until(lambda: len(published()) > written - 1, what="and the next one")
    ids = [prediction["id"] for prediction in published()]
    assert ids == [f"{number:06d}" for number in range(written)]


def test_a_second_recorder_waits_for_the_first_to_go(
    door: Door,
    kafka: Kafka,
    prefix: str,
    published: Callable[[], list[dict[str, Any]]],
    numbered: Callable[[int], bytes],
) -> None:
    with recording(door, kafka, prefix) as first:
        door.log.write_bytes(numbered(0))
        until(lambda: len(published()) == 1, what="the first records")
        with recording(door, kafka, prefix) as second:
            with door.log.open("ab") as log:
                log.write(numbered(1))
            until(lambda: len(published()) == 2, what="the first goes on")
            first.kill()
            with door.log.open("ab") as log:
                log.write(numbered(2))
            until(lambda: len(published()) == 3, what="the second takes over")
            assert second.poll() is None
    assert [prediction["id"] for prediction in published()] == ["000000", "000001", "000002"]


def test_a_recorder_elsewhere_is_fenced(
    door: Door,
    kafka: Kafka,
    prefix: str,
    numbered: Callable[[int], bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same transactional id on another machine, where no lock is seen: the older one ends, and
    says why.
    """
    elsewhere = Door(
        tmp_path_factory.mktemp("elsewhere"),
        "127.0.0.1:1",
        "127.0.0.1:2",
        Backends("127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"),
        {},
    )
    elsewhere.logs.mkdir()
    with recording(elsewhere, kafka, prefix) as older:
        until(lambda: (elsewhere.logs / "recorder.lock").exists(), what="the older one begins")
        elsewhere.log.write_bytes(numbered(0))
        until(lambda: (elsewhere.logs / "position.json").exists(), what="it has published")
        with recording(door, kafka, prefix):
            door.log.write_bytes(numbered(1))
            until(
                lambda: (door.logs / "position.json").exists(),
                what="the newer one has published",
            )
            with elsewhere.log.open("ab") as log:
                log.write(numbered(2))
            assert older.wait(60) != 0


def test_a_request_that_is_too_large_for_a_topic_stops_nothing(
    door: Door,
    kafka: Kafka,
    prefix: str,
    published: Callable[[], list[dict[str, Any]]],
    numbered: Callable[[int], bytes],
    line: Make,
    framed: Make,
    grpc_request: Make,
    grpc_response: Make,
) -> None:
    """Of 960 kB, which the door keeps; as JSON it is 2 MB, and Kafka takes one."""
    rows = 40_000
    request = grpc_request([[0.1, 0.2]] * rows, [["", ""]] * rows)
    request.raw_input_contents[0] = np.random.default_rng(1).normal(size=(rows, 2)).tobytes()
    large = line(
        framed(request.SerializeToString()),
        framed(grpc_response([[0.25, 0.75]], ["yes"]).SerializeToString()),
        id="large",
    )
    door.log.write_bytes(numbered(1) + large + b"\n" + numbered(2))
    with recording(door, kafka, prefix):
        until(lambda: len(published()) == 3, what="all three are published")
    found = {prediction["id"]: prediction for prediction in published()}
    assert found["000001"]["undecoded"] is found["000002"]["undecoded"] is None
    assert found["large"]["inputs"] is None
    assert "bytes" in found["large"]["undecoded"]


def test_lines_nobody_can_read_stop_nothing(
    door: Door,
    kafka: Kafka,
    prefix: str,
    published: Callable[[], list[dict[str, Any]]],
    numbered: Callable[[int], bytes],
    line: Make,
) -> None:
    door.log.write_bytes(
        b"\n{torn\n" + line(b"\0\0\0\0\5", b"") + b"\n" + b"\xff" * 100 + b"\n" + numbered(1)
    )
    with recording(door, kafka, prefix):
        until(lambda: len(published()) == 1, what="what can be read is published")
    assert os.path.exists(door.logs / "position.json")
