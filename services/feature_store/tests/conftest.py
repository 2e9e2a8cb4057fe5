"""Fixtures; what tests share stands in `support/`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.containers import or_skip

sys.path.insert(
    0, str(Path(__file__).parent / "support")
)  # pytest's importlib mode lets tests share modules in no other way
from online_worlds import OnlineWorld, RedisWorld, SqliteWorld
from redis_server import RedisServer, redis_server


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that hypothesis may use for many examples."""
    folder = Path(tempfile.mkdtemp(prefix="feature-store-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with or_skip(), redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.docker)])
def online_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnlineWorld:
    """Each adapter of the online store in turn."""
    folder = tmp_path_factory.mktemp("online")
    return (
        SqliteWorld(folder)
        if request.param == "sqlite"
        else RedisWorld(folder, request.getfixturevalue("redis"))
    )
