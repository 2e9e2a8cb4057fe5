"""Fixtures for every test in the repository; the root conftest.py loads this module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.testing.broker import EmbeddedKafka, Kafka

if TYPE_CHECKING:
    from penstock.testing.s3 import S3
    from penstock.testing.stack import StackUnderTest


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A broker for the session: the one at $PENSTOCK_TEST_KAFKA, else an embedded one on a free port, ended with the session."""
    if given := os.environ.get("PENSTOCK_TEST_KAFKA"):
        yield Kafka(given)
        return
    with EmbeddedKafka() as broker:
        yield broker


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 in a container for the session. Without Docker the test is skipped."""
    from penstock.testing.containers import CannotRun
    from penstock.testing.s3 import running_s3

    try:
        with running_s3(tmp_path_factory.mktemp("s3")) as server:
            yield server
    except CannotRun as error:
        pytest.skip(str(error))


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.docker)])
def artifacts_root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A test that asks for this runs twice, with an empty folder and an empty bucket of S3; processes that it starts are told where."""
    if request.param == "file":
        yield f"file://{tmp_path}/artifacts"
        return
    server: S3 = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{server.bucket()}/artifacts"


@pytest.fixture(scope="session")
def stack() -> Iterator[StackUnderTest]:
    """The whole embedded stack, brought up once a session on ports of its own.

    A test that stops or kills something waits until it is ready again.
    """
    from penstock.testing.stack import running_stack

    with running_stack() as under_test:
        yield under_test
