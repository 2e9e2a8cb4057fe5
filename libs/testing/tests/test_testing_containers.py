"""The containers that the other tests stand on: they answer, come back at the same port, and end
with their owner.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from penstock.testing import containers
from penstock.testing.containers import CannotRun, Container, or_skip
from penstock.testing.wait import until

pytestmark = [pytest.mark.docker, pytest.mark.process]

IMAGE = "redis:7"
OWNER = f"""
import sys
from penstock.testing import containers
def answers(container):
    return "PONG" in container.execute("redis-cli", "ping")

with containers.run("{IMAGE}", port=6379, ready=answers) as container:
    print(container.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[Container]:
    environment, command = {"SAID": "so"}, ["redis-server", "--maxclients", "7"]
    with (
        or_skip(),
        containers.run(
            IMAGE, port=6379, ready=answers, environment=environment, command=command
        ) as container,
    ):
        yield container


def answers(container: Container) -> bool:
    return ask(container, b"PING") == b"+PONG"


def ask(container: Container, line: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", container.port), timeout=5) as connection:
            connection.sendall(line + b"\r\n")
            return connection.recv(100).strip()
    except OSError:
        return b""


def known() -> list[str]:
    """The names of all containers, running or not."""
    return subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout.split()


def test_it_runs_the_command_in_the_environment_that_it_was_given(redis: Container) -> None:
    assert redis.execute("redis-cli", "config", "get", "maxclients").split() == ["maxclients", "7"]
    assert redis.execute("printenv", "SAID") == "so\n"


@pytest.mark.parametrize("end", [Container.stop, Container.kill])
def test_it_is_away_until_it_is_started_at_the_same_port(
    redis: Container, end: Callable[[Container], None]
) -> None:
    end(redis)
    assert not answers(redis)
    redis.start()
    assert answers(redis)


def test_a_command_that_ends_is_told_with_its_last_words(redis: Container) -> None:
    with (
        pytest.raises(RuntimeError, match="Bad directive"),
        containers.run(IMAGE, port=6379, ready=answers, command=["--no-such-option"]),
    ):
        pass


def test_it_ends_when_its_owner_is_killed(redis: Container) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    name = owner.stdout.readline().strip()
    assert name in known()
    owner.kill()
    owner.wait()
    until(lambda: name not in known(), what=f"{name} is gone")


def test_an_image_that_nobody_has_is_named() -> None:
    with (
        pytest.raises(CannotRun, match="Docker cannot run localhost/penstock-none:0: "),
        containers.run("localhost/penstock-none:0", port=1, ready=answers),
    ):
        pass


def test_without_docker_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with (
        pytest.raises(CannotRun, match=r"Docker cannot run redis:7: .*unix:///nowhere/docker\.sock"),
        containers.run(IMAGE, port=1, ready=answers),
    ):
        pass
