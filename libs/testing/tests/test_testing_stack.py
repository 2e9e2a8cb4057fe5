"""The stack fixture: it ends with its owner, and its hands do what they say."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from penstock.stack import processes
from penstock.stack.stackfile import shared_memory
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack("failures")

OWNER = """
import sys
from functools import partial
from pathlib import Path
from penstock.testing.stack import running_stack
with running_stack([], Path(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_stack_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    assert processes.of_stack(tmp_path)
    owner.kill()
    owner.wait()
    until(lambda: not processes.of_stack(tmp_path), what="the stack is down")
    regions = partial(Path("/dev/shm").glob, f"{shared_memory(tmp_path)}*")
    until(lambda: list(regions()), accept=lambda left: not left, what="its shared memory is gone")


def test_a_killed_service_is_another_process_and_ready_again(stack: StackUnderTest) -> None:
    killed = stack.kill("ingest")
    until(lambda: stack.pid("ingest") != killed, what="ingest has another process")
    stack.ready("ingest")


def test_a_service_says_that_kafka_is_away(stack: StackUnderTest) -> None:
    with stack.without("kafka"):
        stack.waits("ingest", "kafka")
    stack.ready()


def test_the_client_reaches_the_stack_through_its_door(stack: StackUnderTest) -> None:
    assert {service.service for service in stack.client.status.services()} == set(stack.stack.file.services)
