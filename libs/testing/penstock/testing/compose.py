"""The compose stack for tests, under a project's name and ports of its own, and a hand that kills,
stops and cuts its containers.

It is docker-compose.yml as it stands, with the overlays that a test names. Needs root where it
kills: a container's main process is a process of this machine.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter

from penstock.client import ClientSettings, Penstock
from penstock.contracts.connection import SCRAM
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.services import PLATFORM
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import free_ports
from penstock.testing.checkout import ROOT
from penstock.testing.containers import docker, require_engine
from penstock.testing.guard import guarded
from penstock.testing.wait import until

NETWORK = "penstock"
SERVICES = tuple(service.container for service in PLATFORM.values())  # Penstock's own
UP_WITHIN_S = 300.0
READY_WITHIN_S = 90.0
LAST_LINES = 60  # of each container's log, beside a failed test
# Ports of this machine that a stack takes: PENSTOCK_PORT, PENSTOCK_KAFKA_PORT …
PORTS = (
    *("", "KAFKA_", "KAFKA_2_", "KAFKA_3_", "PROMETHEUS_", "GRAFANA_", "JAEGER_", "OTLP_"),
    *("SITES_", "BRANCH_1_", "BRANCH_1_HTTP_", "BRANCH_2_", "BRANCH_2_HTTP_"),
)


class ComposeUnderTest:
    """A running stack. Containers are named by their service in the compose file, `kafka`,
    `feature-store` …, ours by their name in Python too. `home` is the folder for the client's
    files; `up -d --wait` took `seconds_up`.
    """

    def __init__(self, environment: dict[str, str], home: Path, seconds: float) -> None:
        self.environment = environment
        self.home = home
        self.seconds_up = seconds
        self.prometheus_address = f"127.0.0.1:{environment['PENSTOCK_PROMETHEUS_PORT']}"
        self.endpoint = f"127.0.0.1:{environment['PENSTOCK_PORT']}"

    @property
    def root(self) -> Path:
        """Folder of its files and passwords."""
        return Path(self.environment["COMPOSE_FILE"].split(":")[0]).parent

    @cached_property
    def bootstrap_servers(self) -> str:
        """Kafka nodes, as publishers on this machine reach them."""
        nodes = [service for name, service in self.config()["services"].items() if name.startswith("kafka")]
        return ",".join(f"127.0.0.1:{port['published']}" for node in nodes for port in node["ports"])

    @cached_property
    def client(self) -> Penstock:
        kafka = self.kafka("publisher")
        return Penstock(ClientSettings(home=self.home, endpoint=self.endpoint, kafka=kafka))

    def kafka(self, user: str) -> KafkaSettings:
        """Settings by which one of Kafka's users reaches it from this machine."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism=SCRAM,
            sasl_username=user,
            sasl_password_file=self.root / "deploy" / "compose" / "secrets" / f"kafka_{user}_password",
        )

    # -- what it says of itself --------------------------------------------------------------------

    def compose(self, *arguments: str, within: float = UP_WITHIN_S) -> str:
        """`docker compose …`; its standard output. Raises RuntimeError with its standard error."""
        return docker("compose", *arguments, environment=self.environment, within=within)

    def config(self) -> Any:
        """The files of the stack, resolved."""
        return json.loads(self.compose("config", "--format", "json"))

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, stopped ones too; one each unless it is scaled."""
        return sorted(self.compose("ps", "--all", "--quiet", service.replace("_", "-")).split())

    def inspect(self, service: str, number: int = 0) -> Any:
        return json.loads(docker("inspect", self.containers(service)[number]))[0]

    def pid(self, service: str) -> int:
        """Id of its container's main process on this machine."""
        return int(self.inspect(service)["State"]["Pid"])

    def execute(self, service: str, *command: str) -> str:
        """Runs a command in its container, as its user; its standard output. Raises RuntimeError."""
        return self.compose("exec", "-T", service.replace("_", "-"), *command)

    def waiting(self) -> dict[str, list[str]]:
        """Asks through the front door what each Penstock service, by its name in Python, waits for;
        empty when it is ready.
        """
        return {
            found.service: (
                []
                if found.ready
                else [f"{one.thing} ({one.why})" for one in found.waiting] or ["its own start"]
            )
            for found in self.client.status.services()
        }

    def ready(self, within: float = READY_WITHIN_S) -> None:
        """Until every service says through the door that it is ready. Fails naming what they wait for."""
        until(
            self.waiting,
            accept=lambda waiting: not any(waiting.values()),
            despite=Unavailable,  # while the door is away nobody is ready
            within=within,
            what="all services are ready",
        )

    def healthy(self, service: str, within: float = READY_WITHIN_S) -> None:
        """Until Docker's own health checks of all its containers pass."""
        until(
            lambda: json.loads(docker("inspect", *self.containers(service))),
            accept=lambda found: all(
                one["State"]["Running"] and one["State"]["Health"]["Status"] == "healthy" for one in found
            ),
            within=within,
            what=f"{service} is healthy",
        )

    def processes(self, service: str, number: int = 0) -> str:
        """The commands that run in a container, one a line."""
        return docker("top", self.containers(service)[number], "-eo", "pid,args")

    def log(self, service: str) -> str:
        return self.compose("logs", "--no-color", "--no-log-prefix", service)

    def last_words(self) -> str:
        """Describes what is not ready, with the newest lines of every container. Raises nothing."""

        def not_ready() -> str:
            return f"not ready: { ({name: things for name, things in self.waiting().items() if things}) }"

        def lines() -> str:
            return self.compose("logs", "--no-color", "--timestamps", "--tail", str(LAST_LINES))

        said = []
        for ask in (not_ready, lines):
            try:
                said.append(ask())
            except (PenstockError, RuntimeError, subprocess.TimeoutExpired) as error:
                said.append(f"{type(error).__name__}: {error}")
        return "\n".join(said)

    # -- what happens to it ------------------------------------------------------------------------

    def kill(self, service: str, number: int = 0) -> None:
        """kill -9 of a container's main process, from outside: its restart policy starts it again,
        as after a crash.
        """
        os.kill(self.inspect(service, number)["State"]["Pid"], signal.SIGKILL)

    def restart(self, service: str) -> None:
        self.compose("restart", service)

    def roll(self, service: str) -> None:
        """Restarts its containers one after the other, each ready before the next."""
        for container in self.containers(service):
            docker("restart", container)
            self.healthy(service)
        self.ready()

    def dead(self, service: str, number: int = 0) -> AbstractContextManager[None]:
        """Kills one of its containers, which is not started again within the block."""
        container = self.containers(service)[number]
        return self._meanwhile(["kill", container], ["start", container])

    def without(self, service: str) -> AbstractContextManager[None]:
        """Stopped within the block."""
        return self._meanwhile(["compose", "stop", service], ["compose", "start", service])

    def cut(self, service: str) -> AbstractContextManager[None]:
        """Off the network within the block; its process goes on."""
        ends = f"{self.environment['COMPOSE_PROJECT_NAME']}_{NETWORK}", self.containers(service)[0]
        return self._meanwhile(
            ["network", "disconnect", *ends], ["network", "connect", "--alias", service, *ends]
        )

    @contextmanager
    def _meanwhile(self, do: Sequence[str], undo: Sequence[str]) -> Iterator[None]:
        docker(*do, environment=self.environment, within=UP_WITHIN_S)
        try:
            yield
        finally:
            docker(*undo, environment=self.environment, within=UP_WITHIN_S)

    def memory_bytes(self) -> int:
        """Memory of all containers together, as Docker accounts it: without the page cache."""
        ids = self.compose("ps", "--quiet").split()
        lines = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *ids).splitlines()
        return sum(TypeAdapter(ByteSize).validate_python(line.split("/")[0].strip()) for line in lines)


@contextmanager
def running_compose(
    *overlays: str, services: Sequence[str] = (), build: bool = True, root: Path = ROOT
) -> Iterator[ComposeUnderTest]:
    """The stack with `overlays` from deploy/compose, ready; with `services` only these and what
    they depend on.

    With `root` the files and the passwords are those of another folder. It ends with its volumes and
    what an overlay added later, even when this process is killed. Raises CannotRun where Docker does not.
    """
    require_engine()
    environment = environment_of(*overlays, root=root)
    subprocess.run([root / "deploy" / "compose" / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    down = ("docker", "compose", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    with (
        guarded(*down, folder=ROOT, environment=_with_all_overlays(environment, root)),
        tempfile.TemporaryDirectory(prefix="penstock-compose-") as home,
    ):
        if build:
            build_images()
        began = time.monotonic()
        up = ("compose", "up", "--detach", "--wait", "--no-build", *services)
        docker(*up, environment=environment, within=UP_WITHIN_S)
        yield ComposeUnderTest(environment, Path(home), time.monotonic() - began)


@functools.cache
def build_images() -> None:
    """Builds the images of services, sites and Ray, once a session. Raises RuntimeError with what failed."""
    overlays = (ROOT / "deploy" / "compose" / name for name in ("sites.yaml", "ray.yaml"))
    files = (ROOT / "docker-compose.yml", *overlays)
    named = [word for file in files for word in ("--file", str(file))]
    docker("compose", *named, "build", "--quiet", within=1800)


def image_of(service: str, *overlays: str) -> str:
    """The image of a service, as the compose files and this machine's environment name it. Raises
    CannotRun where there is no Docker.
    """
    require_engine(service)
    said = docker("compose", "config", "--format", "json", environment=environment_of(*overlays))
    return str(json.loads(said)["services"][service]["image"])


def clone_into(folder: Path) -> Path:
    """Copies the files that a stack is made from, without passwords, as an operator's clone has them."""
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for name in ("docker-compose.yml", ".env"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _with_all_overlays(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    files = [Path(name) for name in environment["COMPOSE_FILE"].split(":")]
    files += [path for path in sorted((root / "deploy" / "compose").glob("*.yaml")) if path not in files]
    named = ":".join(
        str(path) for path in files if path.name != "digests.yaml"
    )  # which names what others add
    return {**environment, "COMPOSE_FILE": named}


def environment_of(*overlays: str, root: Path = ROOT) -> dict[str, str]:
    """Environment of a stack of its own: a project and ports that nobody has."""
    overlaid = (root / "deploy" / "compose" / f"{overlay}.yaml" for overlay in overlays)
    ports = zip(PORTS, free_ports(len(PORTS)), strict=True)
    return {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"penstock-test-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": ":".join(map(str, (root / "docker-compose.yml", *overlaid))),
        **{f"PENSTOCK_{name}PORT": str(port) for name, port in ports},
    }
