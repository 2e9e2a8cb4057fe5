"""The compose files and the images, before anything is started."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from penstock.contracts.metrics import SERVICES as MEASURED
from penstock.contracts.services import PLATFORM as SERVICES
from penstock.testing.compose import build_images, clone_into, environment_of

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = "digests.yaml"  # by who runs the stack
FILES = [
    ROOT / "docker-compose.yml",
    *(path for path in sorted((ROOT / "deploy" / "compose").glob("*.yaml")) if path.name != WRITTEN),
]
OVERLAYS = [path.stem for path in FILES[1:]]
NEEDS = {"dashboards": {"observability"}}
"""What an overlay is put on top of."""
COMBINATIONS = [
    tuple(sorted(chosen, key=lambda overlay: (overlay in NEEDS, overlay)))
    for size in range(len(OVERLAYS) + 1)
    for chosen in itertools.combinations(OVERLAYS, size)
    if all(NEEDS.get(overlay, set()) <= set(chosen) for overlay in chosen)
]
MOST_BYTES = 450_000_000
SMALL = ("ingest", "model_registry", "inference", "edge_gateway", "site")
VERSION = os.environ.get("PENSTOCK_VERSION", "latest")
IMAGES = {name: f"penstock/{service.container}:{VERSION}" for name, service in SERVICES.items()} | {
    "site": f"penstock/site:{VERSION}"
}
MEMBERS = {"site": "edge_gateway"}  # of an image that is not named as its member
WITHOUT = {
    "site": {
        "confluent-kafka",
        "faststream",
        "kafka-python",
        "sqlalchemy",
        "alembic",
        "psycopg",
        "feast",
        "ray",
    },
    "edge_gateway": {"onnxruntime", "numpy", "tritonclient", "model-signing"},
}
"""Of the two images of one member, what the other alone needs."""
PUBLISHED = {
    *("envoy", "kafka", "kafka-2", "kafka-3", "branch-1", "branch-2"),
    *("grafana", "prometheus", "jaeger", "otel-collector"),
}
"""The door, Kafka for publishers, sites, where programs send their traces, and what an operator opens
in a browser.
"""
HOLDS_NOTHING_TO_ASK_WITH = {"otel-collector"}
"""Prometheus asks it."""


def compose_only(test: Any) -> Any:
    return pytest.mark.compose(pytest.mark.usefixtures("engine")(test))


@functools.cache
def resolved(*overlays: str, passwords: bool = True, root: Path = ROOT) -> dict[str, Any]:
    """`docker compose config`."""
    if passwords:
        subprocess.run([ROOT / "deploy" / "compose" / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--format", "json"],
        cwd=root,
        env=environment_of(*overlays, root=root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@compose_only
@pytest.mark.parametrize("overlays", COMBINATIONS, ids="+".join)
def test_every_combination_is_a_whole_stack(overlays: tuple[str, ...]) -> None:
    found = resolved(*overlays)
    for name, service in found["services"].items():
        assert service["image"], name
        assert service.get("mem_limit") or service.get("deploy", {}).get("resources", {}).get(
            "limits", {}
        ).get("memory"), name
        if service.get("restart") == "no":
            continue
        assert service["restart"] == "unless-stopped", name
        asked = "healthcheck" in service or name in HOLDS_NOTHING_TO_ASK_WITH
        assert asked or service["image"].startswith("penstock/"), (
            f"{name}: the images of ours bring their own"
        )
        assert "stop_grace_period" in service, name
        assert service["logging"]["driver"] == "local", f"{name}: the one by default keeps its log for ever"


@compose_only
def test_gpus_are_for_what_computes_on_them() -> None:
    """In full single precision where models are served: TF32 would not agree with their packages."""
    services = resolved("gpu")["services"]
    devices = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "devices" in service.get("deploy", {}).get("resources", {}).get("reservations", {})
    }
    assert devices.keys() == {"triton", "trainer"}
    assert all(each[0]["capabilities"] == ["gpu"] for each in devices.values())
    assert services["triton"]["environment"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert services["inference"]["environment"]["PENSTOCK_INFERENCE__TRITON_DEVICE"] == "gpu"


@compose_only
@pytest.mark.parametrize("overlays", COMBINATIONS, ids="+".join)
def test_only_the_door_and_kafka_listen_outside_and_only_here(overlays: tuple[str, ...]) -> None:
    services = resolved(*overlays)["services"]
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(ports) <= PUBLISHED
    assert set(ports) == {"envoy", "kafka"} if not overlays else {"envoy", "kafka"} <= set(ports)
    assert {port["host_ip"] for published in ports.values() for port in published} == {"127.0.0.1"}
    assert all("network_mode" not in service for service in services.values())


@compose_only
def test_our_containers_may_do_little() -> None:
    found = resolved()
    assert all(found["networks"][name]["internal"] for name in ("penstock", "serving"))
    ours = {
        name: service
        for name, service in found["services"].items()
        if service["image"].startswith("penstock/")
    }
    assert {name.replace("-", "_") for name in ours} == {*SERVICES, "access", "prepare", "gateway"}
    for name, service in ours.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"], name
        assert "privileged" not in service, name
        joined = {"inference": {"penstock", "serving"}, "gateway": {"serving"}}
        assert set(service["networks"]) == joined.get(name, {"penstock"}), name
    envoy, triton = found["services"]["envoy"], found["services"]["triton"]
    assert (envoy["user"], envoy["read_only"], envoy["cap_drop"]) == ("10001:10001", True, ["ALL"])
    assert (triton["user"], triton["read_only"], triton["cap_drop"]) == ("1000:1000", True, ["ALL"])
    assert triton["security_opt"] == ["no-new-privileges:true"]
    reach = {name for name, service in found["services"].items() if "serving" in service["networks"]}
    assert reach == {"triton", "gateway", "envoy", "inference"}, (
        "Triton takes a model from whoever reaches it"
    )
    assert "--allow-http=false" in triton["command"], "the gateway reads HTTP, with one meaning"
    assert [volume["read_only"] for volume in triton["volumes"]] == [True], "it reads its models only"


@compose_only
def test_a_site_in_a_container_may_do_no_more_than_a_service() -> None:
    found = resolved("sites")
    assert found["networks"]["sites-door"]["internal"]
    places = {
        "branch-1": {"branch-1"},
        "branch-2": {"branch-2"},
        "line": {"sites-door", "branch-1", "branch-2"},
    }
    for name, networks in places.items():
        service = found["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "secrets" not in service, name
        assert service["networks"].keys() == networks, name
    there = {name for name, service in found["services"].items() if "sites-door" in service["networks"]}
    assert there == {"line", "envoy"}


@compose_only
def test_a_node_of_ray_may_do_no_more_than_a_service_and_is_reached_by_who_spreads() -> None:
    found = resolved("ray")
    assert found["networks"]["ray"]["internal"]
    for name in ("ray-head", "ray-worker"):
        service = found["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert [secret["source"] for secret in service["secrets"]] == ["ray_token"], name
        assert service["networks"].keys() == {"ray"}, name
        assert service["environment"]["RAY_USE_TLS"] == "1", name
        assert service["environment"]["RAY_AUTH_MODE"] == "token", name
    there = {name for name, service in found["services"].items() if "ray" in service["networks"]}
    assert there == {"ray-head", "ray-worker", "trainer", "tuner"}


@compose_only
def test_each_service_is_reached_has_its_database_and_is_seen() -> None:
    services = resolved("observability")["services"]
    peers = {f"PENSTOCK_PEERS__{service.upper()}" for service in SERVICES}
    databases = set(
        re.findall(
            r"^own (\w+)$", (ROOT / "deploy" / "compose" / "postgres" / "roles.sh").read_text(), re.MULTILINE
        )
    )
    for service in SERVICES:
        environment = services[service.replace("_", "-")]["environment"]
        assert peers <= environment.keys()
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in environment
        database = environment.get(f"PENSTOCK_{service.upper()}__DATABASE")
        assert bool(database) == SERVICES[service].database
        if database:
            assert service in databases
            assert database == f"postgresql+psycopg://{service}@postgres:5432/{service}", "its own user's"
    assert set(MEASURED) == set(SERVICES)


@compose_only
def test_passwords_are_files_and_nothing_else() -> None:
    everything = json.dumps(resolved(*COMBINATIONS[-1]))
    for secret in (ROOT / "deploy" / "compose" / "secrets").iterdir():
        assert len(secret.read_text()) >= 32
        assert secret.read_text() not in everything
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/postgres_password"],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert ignored.returncode == 0
    assert (ROOT / "deploy" / "compose" / "secrets").stat().st_mode & 0o077 == 0


@compose_only
def test_each_password_is_known_to_one_service_and_to_who_makes_its_user() -> None:
    services = resolved(*COMBINATIONS[-1])["services"]
    known: dict[str, set[str]] = {}
    for name, service in services.items():
        for secret in service.get("secrets", []):
            known.setdefault(secret["source"], set()).add(name)
    for service in SERVICES.values():
        if service.database:
            assert known[f"postgres_{service.name}_password"] == {service.container, "roles"}
        if service.online_store:
            assert known[f"redis_{service.name}_password"] == {service.container, "redis"}
    assert known["postgres_password"] == {"postgres", "roles"}, "the administrator's"


DOCKER = """\
#!/bin/sh
case "$1" in
  compose) exec {real} "$@" ;;
  image) echo "somewhere/else@sha256:$(echo "$5" | sha256sum | cut -c1-64)" ;;
  *) exit 1 ;;
esac
"""


@compose_only
def test_digests_pin_every_image_that_others_made(tmp_path: Path) -> None:
    """With an engine that pulled them, and then with one that knows none of them."""
    clone, overlays = clone_into(tmp_path / "clone"), COMBINATIONS[-1]
    (clone / "deploy" / "compose" / WRITTEN).unlink(missing_ok=True)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    environment = environment_of(*overlays, root=clone)
    environment["PATH"] = f"{docker.parent}:{environment['PATH']}"
    text = DOCKER.format(real=shutil.which("docker"))

    def write(text: str) -> subprocess.CompletedProcess[str]:
        docker.write_text(text)
        docker.chmod(0o755)
        command = [clone / "deploy" / "compose" / "digests.sh"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    none = write(text.replace("  image)", "  pictures)"))
    assert none.returncode == 1
    assert "knows the digest of" in none.stderr
    assert not list((clone / "deploy" / "compose").glob(f"{WRITTEN}*"))
    done = write(text)
    assert done.returncode == 0, done.stderr
    plain = resolved(*overlays)["services"]
    pinned = resolved(*overlays, WRITTEN.removesuffix(".yaml"), root=clone)["services"]
    assert pinned.keys() == plain.keys()
    for name, service in pinned.items():
        tag, _, digest = service["image"].partition("@")
        assert tag == plain[name]["image"]
        assert bool(re.fullmatch("sha256:[0-9a-f]{64}", digest)) != tag.startswith("penstock/"), name
    again = write(text)  # with the overlay in use
    assert again.returncode == 0, again.stderr


def test_env_tells_every_variable_with_its_default() -> None:
    told = dict(re.findall(r"^# ([A-Z0-9_]+)=(.*)$", (ROOT / ".env").read_text(), re.MULTILINE))
    asked = {
        match for path in FILES for match in re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", path.read_text())
    }
    assert {name for name, _ in asked} == set(told)
    assert {(name, default) for name, default in asked if told[name] != default} == set(), (
        "a default that .env tells otherwise"
    )
    bare = {match for path in FILES for match in re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)\}", path.read_text())}
    assert bare == set(), "a variable without a default stops `docker compose up`"


def unused(text: str) -> set[str]:
    """Mappings at the head of a compose file that nothing takes up."""
    named = set(re.findall(r"^x-[\w-]+: &([\w-]+)$", text, re.MULTILINE))
    return named - set(re.findall(r"\*([\w-]+)", text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_one_service_alone_is_told_reaches_it(path: Path) -> None:
    assert unused(path.read_text()) == set()


def test_a_setting_for_a_service_that_nobody_knows_is_found() -> None:
    text = "x-all: &all\n  A: b\nx-trainers: &trainers\n  C: d\nservices:\n  trainer: {environment: *all}\n"
    assert unused(text) == {"trainers"}


# -- images ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(engine: None) -> None:
    build_images()


def image(service: str) -> dict[str, Any]:
    done = subprocess.run(
        ["docker", "image", "inspect", IMAGES[service]], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def inside(service: str, *command: str) -> str:
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--read-only",
            "--network",
            "none",
            "--tmpfs",
            "/tmp",
            IMAGES[service],
            *command,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@compose_only
@pytest.mark.parametrize("service", IMAGES)
def test_an_image_is_what_it_says(built: None, service: str) -> None:
    found = image(service)
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert found["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert service in found["Config"]["Labels"]["org.opencontainers.image.title"]
    assert not [name for name in found["Config"]["Env"] if re.search("PASSWORD|SECRET|TOKEN", name)]
    if service in SMALL:
        assert found["Size"] <= MOST_BYTES, f"{found['Size'] / 1e6:.0f} MB"


@compose_only
@pytest.mark.parametrize("service", IMAGES)
def test_an_image_holds_its_own_service_and_says_what_else(built: None, service: str) -> None:
    bill = json.loads(inside(service, "cat", "/usr/share/penstock/bom.cyclonedx.json"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = {
        canonicalize_name(component["name"]): component["version"] for component in bill["components"]
    }
    row = SERVICES.get(service)
    packages = row.packages if row else service  # those with torch share a layer
    listed = (ROOT / "deploy" / "images" / f"{packages}.txt").read_text()
    pinned = dict(re.findall(r"^([^\s=]+)==(\S+)", listed, re.MULTILINE))
    ours = {name: version for name, version in components.items() if name.startswith("penstock-")}
    assert {name: version for name, version in components.items() if name not in ours} == {
        canonicalize_name(name): version for name, version in pinned.items()
    }
    own = f"penstock-{MEMBERS.get(service, service).replace('_', '-')}"
    assert {name for name in ours if name.removeprefix("penstock-").replace("-", "_") in SERVICES} == {own}
    assert ours[own] == image(service)["Config"]["Labels"]["org.opencontainers.image.version"]
    assert ("torch" in components) == (row is not None and row.torch)
    assert ("s3fs" in components) == (row is not None and bool(row.artifacts))
    assert not components.keys() & WITHOUT.get(service, set())
    assert inside(service, "id", "-u").strip() == "10001"
