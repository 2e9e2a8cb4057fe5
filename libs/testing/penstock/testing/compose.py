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
from typing import TYPE_CHECKING, Any

from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.services import PLATFORM
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import free_ports
from penstock.testing.containers import require_engine
from penstock.testing.wait import until

if TYPE_CHECKING:
    from penstock.client import Penstock

ROOT = Path(__file__).resolve().parents[4]
NETWORK = "penstock"
SERVICES = tuple(service.container for service in PLATFORM.values())
"""Containers of Penstock's own services."""
UP_WITHIN_S = 300.0
READY_WITHIN_S = 90.0
LAST_LINES = 60
"""Log lines of each container that stand beside a failed test."""
_GUARD = "cat >/dev/null; docker compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1"
"""Takes the stack down when its standard input ends, a pipe that the test process holds and never
writes to.
"""


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

    @property
    def prometheus_address(self) -> str:
        """host:port of the overlay's."""
        return f"127.0.0.1:{self.environment['PENSTOCK_PROMETHEUS_PORT']}"

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.environment['PENSTOCK_PORT']}"

    @cached_property
    def bootstrap_servers(self) -> str:
        """All Kafka nodes, as publishers on this machine reach them."""
        nodes = [service for name, service in self.config()["services"].items() if name.startswith("kafka")]
        return ",".join(f"127.0.0.1:{port['published']}" for node in nodes for port in node["ports"])

    @cached_property
    def client(self) -> Penstock:
        from penstock.client import ClientSettings, Penstock

        kafka = KafkaSettings(bootstrap_servers=self.bootstrap_servers)
        return Penstock(ClientSettings(home=self.home, endpoint=self.endpoint, kafka=kafka))

    # -- what it says of itself --------------------------------------------------------------------

    def compose(self, *arguments: str, within: float = UP_WITHIN_S) -> str:
        """`docker compose …`; its standard output. Raises RuntimeError with its standard error."""
        return _run(["docker", "compose", *arguments], self.environment, within)

    def config(self) -> dict[str, Any]:
        """The files of the stack, resolved."""
        found: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return found

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, stopped ones too; one each unless it is scaled."""
        return sorted(self.compose("ps", "--all", "--quiet", service).split())

    def inspect(self, service: str, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_run(["docker", "inspect", self.containers(service)[number]]))[0]
        return found

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

        waited: dict[str, list[str]] = {}

        def look() -> bool:
            nonlocal waited
            waited = self.waiting()
            return not any(waited.values())

        until(_patiently(look), within=within, what=lambda: f"all services are ready: {waited}")

    def healthy(self, service: str, within: float = READY_WITHIN_S) -> None:
        """Until Docker's own health checks of all its containers pass."""

        def look() -> bool:
            states = [
                json.loads(_run(["docker", "inspect", "--format", "{{json .State}}", one]))
                for one in self.containers(service)
            ]
            return bool(states) and all(
                state["Running"] and state["Health"]["Status"] == "healthy" for state in states
            )

        until(look, within=within, what=f"{service} is healthy")

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

    def stop(self, service: str) -> None:
        self.compose("stop", service)

    def start(self, service: str) -> None:
        self.compose("start", service)

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
        self.stop(service)
        try:
            yield
        finally:
            self.start(service)

    @contextmanager
    def cut(self, service: str) -> Iterator[None]:
        """Off the network within the block; its process goes on."""
        network, container = (
            f"{self.environment['COMPOSE_PROJECT_NAME']}_{NETWORK}",
            self.containers(service)[0],
        )
        _run(["docker", "network", "disconnect", network, container])
        try:
            yield
        finally:
            _run(["docker", "network", "connect", "--alias", service, network, container])

    def memory_bytes(self) -> int:
        """Memory of all containers together, as Docker accounts it: without the page cache."""
        ids = self.compose("ps", "--quiet").split()
        lines = _run(["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *ids]).splitlines()
        return sum(_bytes(line.split("/")[0].strip()) for line in lines)


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
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD], stdin=subprocess.PIPE, start_new_session=True, cwd=ROOT, env=environment
    )
    try:
        if build:
            _run(
                ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "build", "--quiet"],
                environment,
                within=1800,
            )
        began = time.monotonic()
        _run(
            ["docker", "compose", "up", "--detach", "--wait", "--no-build", *services],
            environment,
            within=UP_WITHIN_S,
        )
        with tempfile.TemporaryDirectory(prefix="penstock-compose-") as home:
            yield ComposeUnderTest(environment, Path(home), time.monotonic() - began)
    finally:
        guard.communicate()


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
    door, kafka, *others = free_ports(8)
    files = [
        root / "docker-compose.yml",
        *(root / "deploy" / "compose" / f"{overlay}.yaml" for overlay in overlays),
    ]
    more = dict(
        zip(
            ("KAFKA_2_PORT", "KAFKA_3_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "JAEGER_PORT", "OTLP_PORT"),
            map(str, others),
            strict=False,
        )
    )
    return {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"penstock-test-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": ":".join(map(str, files)),
        "PENSTOCK_PORT": str(door),
        "PENSTOCK_KAFKA_PORT": str(kafka),
        **{f"PENSTOCK_{name}": port for name, port in more.items()},
    }


def _patiently(look: Any) -> Any:
    """While the door is away nobody is ready."""

    def patient() -> Any:
        try:
            return look()
        except Unavailable:
            return False

    return patient


def _run(command: Sequence[str], environment: dict[str, str] | None = None, within: float = 60.0) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=within, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _bytes(text: str) -> int:
    """`23.5MiB` as docker prints it."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}
    unit = next(name for name in units if text.endswith(name))
    return int(float(text.removesuffix(unit)) * units[unit])
