"""What is done to FastStream's insides, and that each of it is needed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer
from sqlalchemy.orm import DeclarativeBase

from penstock.contracts.events import AuditStarted
from penstock.runtime import faststream_mends
from penstock.runtime.broker import ControlPlane
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.wait import until_async as until

ROOT = Path(__file__).parents[3]
MENDS = Path(faststream_mends.__file__)
INSIDES = re.compile(
    r"faststream(\.\w+)*\._|faststream\.confluent\.helpers|FAKE_CONSUMER|broker_config|config\.producer"
    r"|_thread_pool|_poll_task|\.consumer\.consumer"
)


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions, and methods of classes, whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from public(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def test_each_mend_names_a_test_that_exists() -> None:
    tests = {
        node.name
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    mends = {
        node.name: re.findall(r"Fails without it:\s+`(\w+)`", ast.get_docstring(node) or "")
        for node in public(ast.parse(MENDS.read_text()))
    }
    assert len(mends) >= 7
    assert {name: named for name, named in mends.items() if not named or not tests >= set(named)} == {}


def test_no_other_file_reaches_into_faststream() -> None:
    files = [
        file
        for folder in ("libs", "services")
        for file in (ROOT / folder).rglob("*.py")
        if "tests" not in file.parts and file != MENDS
    ]
    assert len(files) > 100
    assert INSIDES.search(MENDS.read_text())
    assert [str(file.relative_to(ROOT)) for file in files if INSIDES.search(file.read_text())] == []


class Tables(DeclarativeBase):
    pass


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[None]:
    task = asyncio.create_task(plane.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.kafka
async def test_an_idle_producer_is_asked_once_a_second(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    class Counted(Producer):
        def poll(self, *timeout: float) -> int:
            asked.append(time.monotonic())
            return int(super().poll(*timeout))

    monkeypatch.setattr("faststream.confluent.helpers.client.Producer", Counted)
    plane = ControlPlane("t", kafka.settings(), [])
    async with running(plane):
        await until(lambda: plane.readiness.ready)
        began = len(asked)
        await until(lambda: len(asked) > began and asked[-1] - asked[began] > 2.9)
    assert len(asked) - began < 8


@pytest.mark.kafka
def test_no_end_waits_for_a_producer_that_is_asked(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faststream_mends, "PRODUCER_POLL_S", 300.0)

    async def one_start() -> None:
        plane = ControlPlane("t", kafka.settings(), [])
        async with running(plane):
            await until(lambda: plane.readiness.ready)

    began = time.monotonic()
    asyncio.run(one_start())
    assert time.monotonic() - began < 150


async def test_it_stops_at_once_while_kafka_is_away(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}", Tables.metadata)
    started = AuditStarted(audit_id="1", pipeline="p", digest="d", started_at=datetime.now(UTC))
    [port] = free_ports(1)
    plane = ControlPlane("t", KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}"), [], store=store)
    async with running(plane):
        await store.write(lambda effect: effect.publish(started))

        def producer() -> Producer:
            return plane.broker.config.producer._producer.producer.producer  # type: ignore[attr-defined]

        await until(lambda: len(producer()) == 1, despite=AttributeError)
        await until(lambda: any("does not answer" in wait.why for wait in plane.readiness.waiting))
        began = time.monotonic()
    assert time.monotonic() - began < 3.0
    store.close()
