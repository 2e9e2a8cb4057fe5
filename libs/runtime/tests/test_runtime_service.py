"""A service from outside: health, status, errors, deadlines, SIGTERM; and settings that are misspelt."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError
from sqlalchemy.dialects import sqlite

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Invalid, Kind, NotFound, PenstockError
from penstock.contracts.events import PartitionOffset
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.process import EXIT_FAILED
from penstock.runtime.settings import ServiceSettings, check_names
from penstock.runtime.tables import Json
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing.broker import free_ports
from penstock.testing.wait import until

SERVICE = """
    from penstock.runtime.loading import loading
    with loading():  # as `__main__` does
        import asyncio, os
        from penstock.contracts.errors import NotFound
        from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
        from penstock.runtime import process
        from penstock.runtime.lifecycle import Service
        from penstock.runtime.process import start
        from penstock.runtime.settings import ServiceSettings, service_config

    class Settings(ServiceSettings):
        model_config = service_config("ingest")

    class Servicer(ingest_pb2_grpc.IngestServiceServicer):
        def __init__(self, data, source):
            self.data, self.source = data, source

        async def GetCounts(self, request, context):
            if request.pipeline == "slow":
                await asyncio.sleep(60)  # longer than the caller waits
            if request.pipeline == "broken":
                raise KeyError("a person's name")
            if request.pipeline == "held":
                (self.data / "in-hand").touch()
                while not (self.data / "goes-on").exists():
                    await asyncio.sleep(0.02)  # polls; the test ends it
                self.source.read(1)
            raise NotFound("no pipeline `x`", where="pipeline", remedy="Apply it")

    async def run(settings):
        async with Service("ingest", settings) as service:
            source = open(os.devnull, "rb")
            service.closes(source.close)
            service.serve(
                ingest_pb2_grpc.add_IngestServiceServicer_to_server,
                Servicer(service.settings.data_dir, source),
            )
            service.readiness.waits_for("the moon", "it has not risen")
            async def rise():
                while not (service.settings.data_dir / "moon").exists():
                    await asyncio.sleep(0.02)  # polls; the test ends it
                service.readiness.has("the moon")
                service.readiness.fact("sky", "1 moon")
            service.background("moon", rise)
            async def cling():
                try:
                    await asyncio.Event().wait()
                finally:
                    while (service.settings.data_dir / "clings").exists():
                        await asyncio.sleep(0.02)  # polls; the test ends it
            service.background("cling", cling)
            await service.until_stopped()

    process.STOPS_WITHIN_S = float(os.environ.get("STOPS_WITHIN_S", process.STOPS_WITHIN_S))
    start(run, Settings)
"""

pytestmark = pytest.mark.process


class Running:
    def __init__(self, home: Path) -> None:
        (self.port,) = free_ports(1)
        self.home = home
        environment = os.environ | {"PENSTOCK_HOME": str(home), "PENSTOCK_INGEST__PORT": str(self.port)}
        self.log = home / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVICE)],
            env=environment,
            stderr=self.log.open("wb"),
            start_new_session=True,
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        grpc.channel_ready_future(self.channel).result(60)

    def rise(self) -> None:
        (self.home / "ingest" / "moon").touch()

    def health(self) -> int:
        request = health_pb2.HealthCheckRequest(service="penstock.ingest.v1.IngestService")
        return int(health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=5).status)

    def status(self) -> status_pb2.ServiceStatus:
        return (
            status_pb2_grpc.StatusServiceStub(self.channel)
            .GetStatus(status_pb2.GetStatusRequest(), timeout=5)
            .services[0]
        )

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    service = Running(tmp_path)
    yield service
    service.kill()


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that only call it."""
    service = Running(tmp_path_factory.mktemp("called"))
    yield service
    service.kill()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Running]]:
    services = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        services.append(Running(tmp_path / name))
    yield services
    for service in services:
        service.kill()


def test_it_says_what_it_waits_for_and_when_it_is_there(running: Running) -> None:
    assert running.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    waiting = running.status().waiting
    assert [(one.thing, one.why) for one in waiting] == [("the moon", "it has not risen")]
    running.rise()
    until(lambda: running.health() == health_pb2.HealthCheckResponse.SERVING, what="it is ready")
    assert running.status().ready
    assert list(running.status().facts) == ["1 moon"]


def test_an_error_crosses_with_kind_place_and_remedy(called: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest_pb2_grpc.IngestServiceStub(called.channel).GetCounts(ingest_pb2.GetCountsRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    error = error_of_call(caught.value)
    assert isinstance(error, NotFound)
    assert (error.message, error.where, error.remedy) == ("no pipeline `x`", "pipeline", "Apply it")


def test_a_bug_is_told_without_its_detail_and_logged_without_peoples_data(called: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest_pb2_grpc.IngestServiceStub(called.channel).GetCounts(
            ingest_pb2.GetCountsRequest(pipeline="broken"), timeout=5
        )
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "person" not in (caught.value.details() or "")
    assert '"event": "request_failed"' in called.log.read_text()
    assert '"locals"' not in called.log.read_text()
    assert called.process.poll() is None


def test_a_deadline_is_kept(called: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest_pb2_grpc.IngestServiceStub(called.channel).GetCounts(
            ingest_pb2.GetCountsRequest(pipeline="slow"), timeout=0.2
        )
    assert error_of_call(caught.value).kind is Kind.DEADLINE


def test_reflection_lists_what_it_serves(called: Running) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(
        iter(
            reflection_pb2_grpc.ServerReflectionStub(called.channel).ServerReflectionInfo(
                iter([request]), timeout=5
            )
        )
    )
    names = {service.name for service in answer.list_services_response.service}
    assert {
        "penstock.ingest.v1.IngestService",
        "penstock.status.v1.StatusService",
        "grpc.health.v1.Health",
    } <= names


async def test_calls_go_to_all_replicas_and_fail_with_none_that_dies(replicas: list[Running]) -> None:
    one, other = replicas
    async with rpc.connect(f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}") as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)

        async def answered_by() -> set[int]:
            answers = [await stub.GetStatus(status_pb2.GetStatusRequest(), timeout=5) for _ in range(20)]
            return {answer.services[0].started_at.ToNanoseconds() for answer in answers}

        async with asyncio.timeout(20):
            while len(await answered_by()) < 2:  # it connects to one of them first
                pass
        await asyncio.gather(answered_by(), answered_by(), asyncio.to_thread(one.kill))
        assert await answered_by() == {other.status().started_at.ToNanoseconds()}


def test_sigterm_ends_it_with_0(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert '"event": "stopping"' in running.log.read_text()


def test_nothing_is_closed_under_a_call_in_hand(running: Running) -> None:
    held = ingest_pb2.GetCountsRequest(pipeline="held")
    call = ingest_pb2_grpc.IngestServiceStub(running.channel).GetCounts.future(held, timeout=30)
    data = running.home / "ingest"
    until(lambda: (data / "in-hand").exists(), what="the call is in hand")
    running.process.send_signal(signal.SIGTERM)
    until(lambda: '"event": "stopping"' in running.log.read_text(), what="it stops")
    (data / "goes-on").touch()
    assert call.code() is grpc.StatusCode.NOT_FOUND, call.details()
    assert running.process.wait(30) == 0


ALONE = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from penstock.runtime.process import Process

    class Settings:
        address, replica, log_level = "127.0.0.1:0", "0", "INFO"
        data_dir = traces = Path(sys.argv[1])

    async def run():
        async with Process("site", Settings()) as process:
            async def stop():
                os.kill(os.getpid(), signal.SIGTERM)
            process.background("stop", stop)
            await process.until_stopped()
            assert process.readiness.ready

    asyncio.run(run())
    heavy = {"confluent_kafka", "faststream", "kafka", "sqlalchemy", "alembic", "psycopg"}
    sys.exit(" ".join(sorted(heavy & sys.modules.keys())) or 0)
"""


def test_a_process_without_a_control_plane_needs_neither_kafka_nor_sql(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(ALONE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"event": "stopping"' in done.stderr


def test_what_does_not_end_is_ended_and_named(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOPS_WITHIN_S", "1")
    running: Running = request.getfixturevalue("running")
    (running.home / "ingest" / "clings").touch()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == EXIT_FAILED
    assert '"event": "not_stopped"' in (said := running.log.read_text())
    assert "most recent call first" in said


def test_a_misspelt_setting_ends_it_with_a_sentence(tmp_path: Path) -> None:
    environment = os.environ | {"PENSTOCK_HOME": str(tmp_path), "PENSTOCK_INGEST__PROT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVICE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert (
        "PENSTOCK_INGEST__PROT: no setting has this name. Did you mean PENSTOCK_INGEST__PORT?" in done.stderr
    )
    assert "Traceback" not in done.stderr
    wrong = environment | {"PENSTOCK_INGEST__PORT": "many"}
    del wrong["PENSTOCK_INGEST__PROT"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVICE)],
        env=wrong,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.startswith("setting port: Input should be a valid integer")


def test_names_are_checked_by_their_first_part() -> None:
    check_names(
        {"PENSTOCK_X__PORT": "1", "PENSTOCK_X__KAFKA__A": "1", "OTHER": "1"},
        "PENSTOCK_X__",
        ["port", "kafka"],
    )
    with pytest.raises(Invalid, match="Known: PENSTOCK_X__PORT"):
        check_names({"PENSTOCK_X__ZZZZ": "1"}, "PENSTOCK_X__", ["port"])


def test_a_replica_may_be_called_as_its_host() -> None:
    assert ServiceSettings(replica="hostname").replica == socket.gethostname()
    assert ServiceSettings(replica="2").replica == "2"


def test_every_kind_has_a_status_and_comes_back_as_itself() -> None:
    from penstock.contracts.errors import TREATMENTS, error_of

    assert set(TREATMENTS) == set(Kind)
    for kind in Kind:
        error = error_of(kind, "said", where="there", remedy="Do it")
        assert isinstance(error, PenstockError)
        assert error.kind is kind
        assert str(error) == "there: said. Do it"


def test_what_fits_no_event_is_the_callers_mistake_and_a_damaged_row_is_not() -> None:
    with pytest.raises(ValidationError) as caught:
        PartitionOffset(topic="t", partition=-1, offset=2**63)
    told = rpc._told(caught.value, "/penstock/CreateRun")
    assert (told.kind, told.where) == (Kind.INVALID, "partition")
    with pytest.raises(PenstockError, match="partition: a row of the database is damaged") as damaged:
        Json(PartitionOffset).process_result_value({"topic": "t"}, sqlite.dialect())
    assert rpc._told(damaged.value, "").kind == Kind.INTERNAL


def test_a_method_is_looked_up_once_and_what_is_none_leaves_nothing_behind() -> None:
    answers, asked = grpc.unary_unary_rpc_method_handler(lambda *_: b""), list[str]()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            asked.append(handler_call_details.method)
            return answers if handler_call_details.method == "/a/Known" else None

    methods = rpc.Methods()
    methods.add_generic_rpc_handlers((Handlers(),))
    for method, found in (("/a/Known", answers), ("/a/Other", None)):
        details: Any = SimpleNamespace(method=method)
        assert [methods.service(details) for _ in range(3)] == [found] * 3
    assert asked == ["/a/Known", *["/a/Other"] * 3]
    assert list(methods._found) == ["/a/Known"]
