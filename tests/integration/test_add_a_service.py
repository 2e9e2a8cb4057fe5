"""`docs/add-a-service.md`, followed in a copy of the repository: its files make a service that
starts, consumes each event once and says so; then the checks, the fast tests, the embedded stack
and docker-compose.yml know it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Producer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from ruamel.yaml import YAML

from penstock.contracts.events import ModelVersionPromoted, encode
from penstock.contracts.topics import SHARED
from penstock.runtime.kafka.admin import ensure_topics
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing.broker import free_ports
from penstock.testing.checkout import ROOT, SET_UP, change, copied, environment, make
from penstock.testing.wait import PATIENCE_S

PAGE = (ROOT / "docs" / "add-a-service.md").read_text()
FILE = re.compile(r"```(?:python|toml|proto)\n(?:#|//) (?P<path>\S+)\n(?P<text>.*?)```", re.DOTALL)
NO_SOURCES = {*SET_UP, "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"}
FOLDER = "services/tally/"
OUTSIDE_AT_MOST = 4
GRPC_NAME = "penstock.tally.v1.TallyService"
UP_WITHIN_S = 180
CHECKS_WITHIN_S = 1800
PENSTOCK = [sys.executable, "-c", "from penstock.client.cli import main; main()"]

pytestmark = pytest.mark.process


@dataclass(frozen=True)
class House:
    folder: Path
    """A copy of the repository in which the page was followed, to `make gen`."""
    by_hand: frozenset[str]
    """Files that the page makes or changes, before `make gen`."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = copied(tmp_path_factory.mktemp("house"))
    for found in FILE.finditer(PAGE):
        (folder / found["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / found["path"]).write_text(found["text"])
    change(PAGE, folder)
    by_hand = frozenset(differing(folder))
    code, said = make(folder, "gen")
    assert code == 0, said
    return House(folder, by_hand)


def differing(folder: Path) -> set[str]:
    """Files of the copy that the repository has otherwise or not at all."""

    def otherwise(name: str) -> bool:
        here = ROOT / name
        return not here.exists() or here.read_bytes() != (folder / name).read_bytes()

    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if not NO_SOURCES & {*path.parts} and otherwise(str(path))}


def test_few_files_outside_its_folder_are_touched_and_the_page_names_all(house: House) -> None:
    outside = {name for name in house.by_hand if not name.startswith(FOLDER)}
    assert 0 < len(outside) <= OUTSIDE_AT_MOST
    generated = differing(house.folder) - house.by_hand
    assert {"docker-compose.yml", "deploy/images/tally.txt", "schemas/asyncapi.json"} <= generated
    named = set(re.findall(r"`([^`\s]+)`", PAGE)) | house.by_hand
    of_named_folders = tuple(name for name in named if name.endswith("/"))
    unnamed = {name for name in generated - named if not name.startswith(of_named_folders)}
    assert unnamed == set()


def test_a_service_of_a_site_and_one_without_a_database_get_what_they_need(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    rows = """\
    ServiceDefinition(name="probe", port=9188, memory="256m", database=False, keys="verify"),
    ServiceDefinition(name="outpost", port=9193, memory="256m", place="site"),
)
SERVICES: Final"""
    table = folder / "libs" / "contracts" / "penstock" / "contracts" / "services.py"
    table.write_text(table.read_text().replace(")\nSERVICES: Final", rows))
    for name in ("probe", "outpost"):
        (folder / "services" / name).mkdir()
        (folder / "services" / name / "pyproject.toml").touch()
    subprocess.run(
        [sys.executable, "deploy/services.py"], cwd=folder, env=environment(folder), check=True, timeout=120
    )
    assert '"penstock_outpost",' in (folder / "pyproject.toml").read_text()
    assert "probe" not in (folder / "deploy" / "compose" / "postgres" / "roles.sh").read_text()
    services = YAML(typ="safe").load(folder / "docker-compose.yml")["services"]
    assert "outpost" not in str(services)
    assert "PENSTOCK_PROBE__DATABASE" not in services["probe"]["environment"]
    assert services["probe"]["secrets"] == ["kafka_probe_password"]
    assert services["probe"]["volumes"] == [
        "trust:/var/lib/penstock/keys:ro",
        "trust-training:/var/lib/penstock/keys-training:ro",
        "traces:/var/lib/penstock/traces",
    ]
    assert services["probe"]["depends_on"].keys() == {"access"}


@pytest.mark.kafka
def test_the_page_makes_a_service(house: House, kafka: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = kafka.settings(f"tally-{time.time_ns()}-")
    ensure_topics(settings, SHARED)
    told = environment(house.folder) | {
        "PENSTOCK_HOME": str(tmp_path / "home"),
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": settings.topic_prefix,
        "PENSTOCK_TALLY__PORT": str(port),
    }
    service = subprocess.Popen([sys.executable, "-m", "penstock_tally"], env=told)
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
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            reflected = ProtoReflectionDescriptorDatabase(channel)
            assert GRPC_NAME in reflected.get_services()
            described = reflected.FindFileContainingSymbol(GRPC_NAME)
            assert [method.name for method in described.service[0].method] == ["GetTally"]
    finally:
        service.terminate()
        assert service.wait(30) == 0


def _eventually_says(port: int, fact: str) -> bool:
    deadline = time.monotonic() + PATIENCE_S
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


# -- everything else, in `make test-slow` ----------------------------------------------------------


@pytest.mark.slow
def test_the_checks_and_the_fast_tests_pass_there(house: House) -> None:
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=house.folder, check=True)
    for target in ("check", "test-fast"):
        code, said = make(house.folder, target, within=CHECKS_WITHIN_S)
        assert code == 0, said[-8000:]


@pytest.mark.slow
def test_the_embedded_stack_runs_it(house: House, tmp_path: Path) -> None:
    told = environment(house.folder) | {"PENSTOCK_HOME": str(tmp_path / "home")}

    def penstock(*arguments: str) -> Any:
        done = subprocess.run(
            [*PENSTOCK, *arguments, "--json"], env=told, capture_output=True, text=True, timeout=UP_WITHIN_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    try:
        endpoint = penstock("up")["endpoint"]
        programs = {program["program"]: program for program in penstock("status")}
        assert programs["tally"]["state"] == "ready"
        assert programs["tally"]["facts"] == ["0 promotions"]
        with grpc.insecure_channel(endpoint) as door:
            assert GRPC_NAME in ProtoReflectionDescriptorDatabase(door).get_services()
            health = health_pb2_grpc.HealthStub(door)
            state = health.Check(health_pb2.HealthCheckRequest(service=GRPC_NAME), timeout=5)
            assert state.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="no model of `` was promoted"):
                door.unary_unary(f"/{GRPC_NAME}/GetTally")(b"", timeout=5)
    finally:
        penstock("down")


@pytest.mark.slow
@pytest.mark.parametrize("overlays", [(), ("cluster", "observability", "s3")], ids="+".join)
def test_compose_runs_it(house: House, overlays: tuple[str, ...]) -> None:
    files = ["docker-compose.yml", *(f"deploy/compose/{overlay}.yaml" for overlay in overlays)]
    compose = ["docker", "compose", *(part for file in files for part in ("--file", file))]
    if not shutil.which("docker") or subprocess.run([*compose, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not at hand")
    subprocess.run(["deploy/compose/secrets.sh"], cwd=house.folder, check=True, capture_output=True)
    done = subprocess.run(
        [*compose, "config", "--format", "json"], cwd=house.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services["tally"]["image"].startswith("penstock/tally:")
    assert services["tally"]["environment"]["PENSTOCK_TALLY__DATABASE"].endswith("/tally")
    assert services["inference"]["environment"]["PENSTOCK_PEERS__TALLY"] == "tally:9191"
    assert ("OTEL_EXPORTER_OTLP_ENDPOINT" in services["tally"]["environment"]) == bool(overlays)
