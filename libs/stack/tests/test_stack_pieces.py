"""What of the embedded stack can be tried without starting it."""

from __future__ import annotations

import configparser
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.contracts.errors import Conflict, NotFound, Tampered, Unavailable
from penstock.stack import fitness, install, jars, logfiles, passwords, ports, processes, programs
from penstock.stack.launch import Spec
from penstock.stack.places import Places
from penstock.stack.stackfile import StackFile, shared_memory
from penstock.stack.stackfile import socket as supervisor_socket
from penstock.stack.supervisor import Program, configuration

IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True);"
    " time.sleep(600)"  # until it is killed
)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_taken_port_gives_way_and_the_others_stay(listener: int) -> None:
    chosen = ports.choose({"door": listener, "kafka": 28_092})
    assert chosen == {"door": chosen["door"], "kafka": 28_092}
    assert chosen["door"] != listener
    assert (chosen["door"] - listener) % 100 == 0


def test_a_port_that_another_stack_chose_is_taken_before_it_listens() -> None:
    assert ports.choose({"door": 28_080}, taken={28_080, 28_180})["door"] == 28_280


def test_no_free_port_is_said(listener: int) -> None:
    with pytest.raises(Unavailable, match="no free port for door"):
        ports.choose({"door": listener}, taken=range(65_536))


def test_a_service_keeps_its_default_port() -> None:
    assert len(set(ports.DEFAULTS.values())) == len(ports.DEFAULTS)


def test_supervisors_configuration_survives_odd_paths(tmp_path: Path) -> None:
    home = tmp_path / "100% my home"
    program = Program("ingest", "services", ["/usr/bin/python", str(home / "run" / "ingest.json")])
    text = configuration([program], run=home / "run", logs=home / "logs", socket=supervisor_socket(home))
    read = configparser.RawConfigParser()
    read.read_string(text)
    assert read["program:ingest"]["command"] == f"/usr/bin/python '{home / 'run' / 'ingest.json'}'".replace(
        "%", "%%"
    )
    assert read["group:services"]["programs"] == "ingest"
    assert "group:broker" not in read


def test_the_socket_is_short_however_long_the_home() -> None:
    assert len(os.fsencode(supervisor_socket(Path("/" + "long/" * 60)))) < 100


def test_two_homes_share_neither_socket_nor_memory() -> None:
    first, second = Path("/a/.penstock"), Path("/b/.penstock")
    assert supervisor_socket(first) != supervisor_socket(second)
    assert not shared_memory(first).startswith(shared_memory(second))


def test_programs_get_the_stacks_addresses_and_not_the_callers(tmp_path: Path) -> None:
    stack = StackFile.of(tmp_path, ports.DEFAULTS | {"ingest": 9999}, ("ingest", "inference"))
    assert programs.platform(stack)["PENSTOCK_PEERS__INGEST"] == "127.0.0.1:9999"
    assert programs.platform(stack)["DO_NOT_TRACK"] == "1"
    assert (
        programs.service_settings(stack, "inference")["PENSTOCK_INFERENCE__TRITON_GRPC"] == stack.triton_grpc
    )
    kafka = programs.service_settings(stack, "ingest")
    assert kafka["PENSTOCK_KAFKA__BOOTSTRAP_SERVERS"] == stack.kafka_services
    assert kafka["PENSTOCK_KAFKA__SASL_USERNAME"] == "ingest"
    assert passwords.ensure(tmp_path / "kafka")["ingest"] not in str(kafka)
    callers = {
        "PENSTOCK_KAFKA__SASL_USERNAME": "x",
        "PENSTOCK_ENDPOINT": "elsewhere:1",
        "PENSTOCK_INGEST__PORT": "1",
        "PENSTOCK_KAFKA__TOPIC_PREFIX": "mine.",
        "PENSTOCK_TRAINER__PARALLEL": "2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
    }
    assert set(programs.inherited(callers)) == {
        "PENSTOCK_KAFKA__TOPIC_PREFIX",
        "PENSTOCK_TRAINER__PARALLEL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }


def test_a_proxy_of_the_caller_is_not_for_this_machine() -> None:
    callers = {"http_proxy": "http://proxy:1", "no_proxy": "corp"}
    assert programs.inherited(callers) == {
        "http_proxy": "http://proxy:1",
        "no_proxy": "corp,127.0.0.1,localhost,::1",
        "NO_PROXY": "127.0.0.1,localhost,::1",
    }


def test_the_stacks_file_is_read_back_and_its_absence_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="penstock up"):
        StackFile.read(tmp_path)
    stack = StackFile.of(tmp_path, ports.DEFAULTS, ("ingest",))
    stack.write()
    assert StackFile.read(tmp_path) == stack
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


def test_a_launched_program_replaces_what_its_predecessor_left(tmp_path: Path) -> None:
    region = Path("/dev/shm") / f"penstock_test_{os.getpid()}_left"
    prefix = region.name.removesuffix("left")
    spec = tmp_path / "sleeper.json"
    Spec(str(tmp_path), "sleeper", [sys.executable, "-c", IGNORES_TERM], {}, prefix).write(spec)
    command = [sys.executable, "-m", "penstock.stack.launch", str(spec)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"up\n"
    region.write_bytes(b"what a killed one left")
    second = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert first.wait(10) == -signal.SIGKILL
    assert second.stdout is not None
    assert second.stdout.readline() == b"up\n"
    assert not region.exists()
    assert [process.pid for process in processes.of_stack(tmp_path)] == [second.pid]
    processes.end(processes.of_stack(tmp_path), grace=0.2)
    assert second.wait(10) == -signal.SIGKILL


def test_a_jar_with_another_digest_is_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "m2" / "g" / "a" / "1"
    repository.mkdir(parents=True)
    (repository / "a-1.jar").write_bytes(b"not what was locked")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    honest = jars.Jar("g", "a", "1", "", len(b"not what was locked"))
    real = jars.read_lock(Places.find().kafka_lock)[0]
    places = Places(tmp_path)
    places.kafka_lock.parent.mkdir(parents=True)
    jars.write_lock(places.kafka_lock, [dataclasses.replace(honest, sha256="0" * 64)])
    with pytest.raises((Tampered, Unavailable)):
        list(jars.fetch(places))
    assert jars.missing(places) == jars.read_lock(places.kafka_lock)
    assert jars.read_lock(Places.find().kafka_lock)[0] == real


def test_the_lock_pins_every_jar_by_digest() -> None:
    locked = jars.read_lock(Places.find().kafka_lock)
    assert {jar.artifact for jar in locked} >= {"kafka_2.13", "slf4j-simple"}
    assert all(len(jar.sha256) == 64 and jar.size for jar in locked)


@pytest.mark.process
def test_a_start_up_cache_that_cannot_be_made_stops_no_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, places = Places.find(), Places(tmp_path)
    for name in ("deploy", ".venv-triton"):
        (tmp_path / name).symlink_to(real.triton_venv.parent / name)
    places.kafka.mkdir(parents=True)
    (places.kafka / "jars").symlink_to(real.kafka / "jars")
    monkeypatch.setattr(Places, "find", lambda: places)
    monkeypatch.setattr(install, "_BROKER_WITHIN_S", 0.0)  # as on a machine that has too much to do
    said: list[str] = []
    install.install(said.append)
    assert "a start-up cache for Kafka: not made" in said[-1]
    assert "the next `make setup` tries again" in said[-1]
    assert list(places.kafka.iterdir()) == [places.kafka / "jars"]
    assert [part.what for part in install.missing(places)] == ["a start-up cache for Kafka"]


def test_this_machine_is_fit_and_another_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitness.problems() == []
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert len(fitness.problems()) == 1
    with pytest.raises(Conflict, match="docker compose up -d --wait"):
        fitness.check()


def test_following_a_log_goes_on_over_a_rotation(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "ingest.log"
    log.write_text("".join(f"line {number}\n" for number in range(5)))
    assert list(logfiles.logs(tmp_path, "ingest", last=2)) == ["line 3", "line 4"]
    lines = logfiles.logs(tmp_path, "ingest", follow=True, last=1)
    assert next(lines) == "line 4"
    log.rename(log.with_suffix(".log.1"))
    log.write_text("after the rotation\n")
    assert next(lines) == "after the rotation"


def test_the_services_stop_before_what_they_stand_on() -> None:
    from penstock.stack.supervisor import GROUPS

    order = sorted(GROUPS, key=GROUPS.__getitem__, reverse=True)
    assert list(pairwise(order)) == [("services", "serving"), ("serving", "broker")]


def test_the_stack_names_no_services_module() -> None:
    """It starts and prepares services by the table and one convention."""
    from importlib.util import find_spec

    from penstock.contracts.services import SERVICES

    assert programs.preparing_services()
    assert all(find_spec(f"penstock_{service}.prepare") for service in programs.preparing_services())
    for path in Path(programs.__file__).parent.glob("*.py"):
        assert not [name for name in SERVICES if f"penstock_{name}" in path.read_text()], path
