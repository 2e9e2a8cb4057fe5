"""The compose stack for tests, under a project's name and ports of its own, and a hand that kills,
stops and cuts its containers.

It is docker-compose.yml as it stands, with the overlays that a test names. Needs root where it
kills: a container's main process is a process of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter

from penstock.client import ClientSettings, Penstock
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.services import PLATFORM
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import free_ports
from penstock.testing.containers import require_engine
from penstock.testing.guard import guarded
from penstock.testing.wait import until

ROOT = Path(__file__).resolve().parents[4]
NETWORK = "penstock"
SERVICES = tuple(service.container for service in PLATFORM.values())
"""Containers of Penstock's own services."""
UP_WITHIN_S = 300.0
READY_WITHIN_S = 90.0
LAST_LINES = 60
"""Log lines of each container that stand beside a failed test."""
PORTS = ("", "KAFKA_", "KAFKA_2_", "KAFKA_3_", "PROMETHEUS_", "GRAFANA_", "JAEGER_", "OTLP_")
"""Ports of this machine that a stack takes: PENSTOCK_PORT, PENSTOCK_KAFKA_PORT …"""


class ComposeUnderTest:
    """A running stack. Containers are named by their service in the compose file: `kafka`,
    `feature-store` …
    """

    def __init__(self, environment: dict[str, str], home: Path, seconds: float) -> None:
        self.environment = environment
        self.home = home
        """Folder for the client's files."""
        self.seconds_up = seconds
        """Seconds that `up -d --wait` took."""
        self.prometheus_address = f"127.0.0.1:{environment['PENSTOCK_PROMETHEUS_PORT']}"
        """host:port of the overlay's."""
        self.endpoint = f"127.0.0.1:{environment['PENSTOCK_PORT']}"

    @cached_property
    def bootstrap_servers(self) -> str:
        """All Kafka nodes, as publishers on this machine reach them."""
        nodes = [service for name, service in self.config()["services"].items() if name.startswith("kafka")]
        return ",".join(f"127.0.0.1:{port['published']}" for node in nodes for port in node["ports"])

    @cached_property
    def client(self) -> Penstock:
        kafka = KafkaSettings(bootstrap_servers=self.bootstrap_servers)
        return Penstock(ClientSettings(home=self.home, endpoint=self.endpoint, kafka=kafka))

    # -- what it says of itself --------------------------------------------------------------------

    def compose(self, *arguments: str, within: float = UP_WITHIN_S) -> str:
        """`docker compose …`; its standard output. Raises RuntimeError with its standard error."""
        return _run(["docker", "compose", *arguments], self.environment, within)

    def config(self) -> Any:
        """The files of the stack, resolved."""
        return json.loads(self.compose("config", "--format", "json"))

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, stopped ones too; one each unless it is scaled."""
        return sorted(self.compose("ps", "--all", "--quiet", service).split())

    def inspect(self, service: str, number: int = 0) -> Any:
        return json.loads(_run(["docker", "inspect", self.containers(service)[number]]))[0]

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
            lambda: json.loads(_run(["docker", "inspect", *self.containers(service)])),
            accept=lambda found: all(
                one["State"]["Running"] and one["State"]["Health"]["Status"] == "healthy" for one in found
            ),
            within=within,
            what=f"{service} is healthy",
        )

    def processes(self, service: str, number: int = 0) -> str:
        """The commands that run in a container, one a line."""
        return _run(["docker", "top", self.containers(service)[number], "-eo", "pid,args"])

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
            _run(["docker", "restart", container])
            self.healthy(service)
        self.ready()

    @contextmanager
    def dead(self, service: str, number: int = 0) -> Iterator[None]:
        """One of its containers killed, and not started again within the block."""
        container = self.containers(service)[number]
        _run(["docker", "kill", container])
        try:
            yield
        finally:
            _run(["docker", "start", container])

    @contextmanager
    def without(self, service: str) -> Iterator[None]:
        """Stopped within the block."""
        self.compose("stop", service)
        try:
            yield
        finally:
            self.compose("start", service)

    @contextmanager
    def cut(self, service: str) -> Iterator[None]:
        """Off the network within the block; its process goes on."""
        network = f"{self.environment['COMPOSE_PROJECT_NAME']}_{NETWORK}"
        container = self.containers(service)[0]
        _run(["docker", "network", "disconnect", network, container])
        try:
            yield
        finally:
            _run(["docker", "network", "connect", "--alias", service, network, container])

    def memory_bytes(self) -> int:
        """Memory of all containers together, as Docker accounts it: without the page cache."""
        ids = self.compose("ps", "--quiet").split()
        lines = _run(["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *ids]).splitlines()
        return sum(TypeAdapter(ByteSize).validate_python(line.split("/")[0].strip()) for line in lines)


@contextmanager
def running_compose(
    *overlays: str, services: Sequence[str] = (), build: bool = True, root: Path = ROOT
) -> Iterator[ComposeUnderTest]:
    """The stack with `overlays` from deploy/compose, ready; with `services` only these and what
    they depend on.

    With `root` the files and the passwords are those of another folder. It ends with its volumes,
    even when this process is killed. Raises CannotRun where Docker does not.
    """
    require_engine()
    environment = environment_of(*overlays, root=root)
    subprocess.run([root / "deploy" / "compose" / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    down = ("docker", "compose", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    with (
        guarded(*down, folder=ROOT, environment=environment),
        tempfile.TemporaryDirectory(prefix="penstock-compose-") as home,
    ):
        if build:
            own = ["--file", str(ROOT / "docker-compose.yml")]
            _run(["docker", "compose", *own, "build", "--quiet"], environment, within=1800)
        began = time.monotonic()
        _run(
            ["docker", "compose", "up", "--detach", "--wait", "--no-build", *services],
            environment,
            within=UP_WITHIN_S,
        )
        yield ComposeUnderTest(environment, Path(home), time.monotonic() - began)


def image_of(service: str, *overlays: str) -> str:
    """The image of a service, as the compose files and this machine's environment name it. Raises
    CannotRun where there is no Docker.
    """
    require_engine(service)
    config = json.loads(_run(["docker", "compose", "config", "--format", "json"], environment_of(*overlays)))
    return str(config["services"][service]["image"])


def clone_into(folder: Path) -> Path:
    """Copies the files that a stack is made from, without passwords, as an operator's clone has them."""
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for name in ("docker-compose.yml", ".env"):
        shutil.copy(ROOT / name, folder / name)
    return folder


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


def _run(command: Sequence[str], environment: dict[str, str] | None = None, within: float = 60.0) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=within, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:]}")
    return done.stdout
