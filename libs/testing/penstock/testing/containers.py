"""A container for the tests: one image, one port on 127.0.0.1, gone with the test process, however that ends.

The image is pulled where it is not at hand. Docker is the command `docker`, its engine where that
command finds it.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException

import pytest

from penstock.testing.broker import free_ports
from penstock.testing.checkout import ROOT
from penstock.testing.guard import guarded
from penstock.testing.wait import until

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
COMMAND_WITHIN_S = 60.0
PULL_WITHIN_S = 600.0


class CannotRun(Exception):
    """Docker cannot run the container here; the message says what it said."""


class Container:
    """A running container. Its port on this machine stays the same when it is stopped and started."""

    def __init__(self, name: str, port: int, ready: Callable[[Container], object]) -> None:
        self.name = name
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._ready = ready

    def start(self, within: float = READY_WITHIN_S) -> None:
        """Returns once it is ready. Raises RuntimeError with its last words where it ends instead,
        TimeoutError.
        """
        docker("start", self.name)
        self.wait(within)

    def stop(self) -> None:
        """SIGTERM to its main process, SIGKILL after 20 s; it stays down until `start`."""
        docker("stop", "--time", f"{STOP_WITHIN_S:.0f}", self.name)

    def kill(self) -> None:
        """SIGKILL to its main process, and so to all in it; it stays down until `start`."""
        docker("kill", self.name)
        docker("wait", self.name)

    def execute(self, *command: str) -> str:
        """Runs a command in the container; returns its output. Raises RuntimeError where it fails."""
        return docker("exec", self.name, *command)

    def log(self) -> str:
        """Standard output and standard error so far."""
        done = subprocess.run(
            ["docker", "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def wait(self, within: float = READY_WITHIN_S) -> None:
        """Until it is ready. Raises RuntimeError with its last words where it has ended, TimeoutError."""

        def ready() -> object:
            with contextlib.suppress(RuntimeError):  # `execute` in a container that is not there yet
                if answer := self._ready(self):
                    return answer
            if docker("inspect", "--format", "{{.State.Running}}", self.name).strip() != "true":
                raise RuntimeError(f"the container {self.name} ended: {self.log()[-2000:]}")
            return False

        until(ready, within=within, what=f"the container {self.name} is ready")


@contextlib.contextmanager
def run(
    image: str,
    *,
    port: int,
    ready: Callable[[Container], object],
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    within: float = READY_WITHIN_S,
) -> Iterator[Container]:
    """A container of `image`, ready, until the block or this process ends; its volumes go with it.

    `port` is the container's; `ready` is asked until it answers something true. Raises CannotRun
    without Docker or the image, RuntimeError with the container's last words where it ends,
    TimeoutError.
    """
    require_image(image)
    name = f"penstock-test-{uuid.uuid4().hex[:12]}"
    container = Container(name, free_ports(1)[0], ready)
    with guarded("docker", "rm", "--force", "--volumes", name):
        options = ["--detach", "--name", name, "--publish", f"{container.address}:{port}"]
        options += [f"--env={variable}={value}" for variable, value in (environment or {}).items()]
        docker("run", *options, image, *command)
        container.wait(within)
        yield container


def answers_at(path: str) -> Callable[[Container], bool]:
    """A container's `ready`: a GET of `path` is answered with 200."""

    def ready(container: Container) -> bool:
        try:
            with urllib.request.urlopen(f"http://{container.address}{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, HTTPException):
            return False

    return ready


@contextlib.contextmanager
def or_skip() -> Iterator[None]:
    """Skips the test, with the reason, where Docker cannot run what the block needs."""
    try:
        yield
    except CannotRun as error:
        pytest.skip(str(error))


def require_engine(what: str = "here") -> None:
    """Raises CannotRun, naming `what` cannot run, where none answers."""
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"Docker cannot run {what}: {error}") from error


def require_image(image: str) -> None:
    """Pulls it where it is not at hand. Raises CannotRun where no engine answers or none can get it."""
    require_engine(image)
    try:
        if not docker("image", "ls", "--quiet", image):
            docker("pull", "--quiet", image, within=PULL_WITHIN_S)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"Docker cannot run {image}: {error}") from error


def docker(
    *arguments: str, environment: Mapping[str, str] | None = None, within: float = COMMAND_WITHIN_S
) -> str:
    """Runs docker in the checkout; returns its standard output. Raises RuntimeError with its standard
    error.
    """
    command = ["docker", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=within, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:] or done.returncode}")
    return done.stdout
