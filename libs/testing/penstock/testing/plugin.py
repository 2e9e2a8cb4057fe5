"""Fixtures for every test in the repository; the root conftest.py loads this module."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import pytest
import structlog

from penstock.runtime.loading import loading
from penstock.testing import spread

if TYPE_CHECKING:
    from xdist.remote import Producer

    from penstock.testing.broker import Kafka
    from penstock.testing.compose import ComposeUnderTest
    from penstock.testing.postgres import Postgres
    from penstock.testing.s3 import S3
    from penstock.testing.stack import StackUnderTest

T = TypeVar("T")

# Each call gives the URL of a new, empty database for a block.
Databases = Callable[[], AbstractContextManager[str]]


@runtime_checkable
class Logged(Protocol):
    """A fixture's value that runs programs."""

    def last_words(self) -> str: ...


gc.disable()  # until tests are collected: what conftest.py files load stays, as `loading` says

_RUNNING = pytest.StashKey[dict[str, Logged]]()
_ENDS = pytest.StashKey[dict[str, ExitStack]]()  # by fixture; closing one ends its program


def pytest_configure(config: pytest.Config) -> None:
    # Configured, or who starts a stack in this process silences what later tests look for in its log.
    # A traceback without the values of all variables, of which rich makes 100 KB in a sixth of a second.
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, plain])
    if config.pluginmanager.hasplugin("hypothesispytest"):
        spread.expect_delays()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of which no test will run is not imported: of a hundred that takes a worker seconds."""
    return spread.is_left_out(collection_path, config.getoption("markexpr")) or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    with loading(without=()):  # every worker imports the modules of every test that may run
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spread.arrange(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.set_threshold(20_000, 10, 10)  # at 700 new objects a search a test or two takes a fiftieth of a run
    spread.tell_needs(session.items)
    spread.give_way()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> spread.Spread | None:
    return spread.Spread(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_unconfigure() -> None:
    gc.freeze()  # what is left ends with the process, and is not searched for garbage twice before


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    value = yield
    if isinstance(value, Logged):
        request.session.stash.setdefault(_RUNNING, {})[fixturedef.argname] = value
    return value


def pytest_fixture_post_finalizer(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> None:
    request.session.stash.get(_RUNNING, {}).pop(fixturedef.argname, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails says what the programs of its fixtures logged last: they are gone when
    somebody reads of it.
    """
    report = yield
    if report.failed:
        for name, programs in item.session.stash.get(_RUNNING, {}).items():
            if name in getattr(item, "fixturenames", ()):
                report.sections.append((f"what {name} logged last", programs.last_words()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Ends what `while_needed` runs, where no later test may ask for it."""
    yield
    for name, running in item.session.stash.get(_ENDS, {}).items():
        if nextitem is not None and name not in nextitem.stash[spread.NEEDED]:
            item.session.stash.get(_RUNNING, {}).pop(name, None)
            running.close()


@contextmanager
def while_needed(request: pytest.FixtureRequest, program: AbstractContextManager[T]) -> Iterator[T]:
    """A session's program, ended after the last test that may use it: idle, a stack takes a twelfth
    of a core, its broker half of that.
    """
    with ExitStack() as running:
        request.session.stash.setdefault(_ENDS, {})[str(request.fixturename)] = running
        yield running.enter_context(program)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Kafka]:
    """A broker for the session: the one at $PENSTOCK_TEST_KAFKA, else an embedded one on a free
    port, ended with the last test that uses it.
    """
    from penstock.testing.broker import EmbeddedKafka, Kafka

    if given := os.environ.get("PENSTOCK_TEST_KAFKA"):
        yield Kafka(given)
        return
    with while_needed(request, EmbeddedKafka()) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for the session: the one at $PENSTOCK_TEST_POSTGRES, else one in a container.
    Without either the test is skipped.
    """
    from penstock.testing.containers import or_skip
    from penstock.testing.postgres import postgres_at_hand

    with or_skip(), postgres_at_hand() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.docker)])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """A test that asks for this runs twice, on SQLite and on PostgreSQL."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database
    numbers = iter(range(1_000_000))

    @contextmanager
    def file() -> Iterator[str]:
        yield f"sqlite:///{tmp_path}/database-{next(numbers)}.db"

    return file


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The URL of a new, empty database, with its password: one of SQLite, then one of PostgreSQL."""
    with databases() as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 in a container for the session. Without Docker the test is skipped."""
    from penstock.testing.containers import or_skip
    from penstock.testing.s3 import running_s3

    with or_skip(), running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.docker)])
def artifacts_root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that asks for this runs twice, with an empty folder and an empty bucket of S3;
    processes that it starts are told where.
    """
    if request.param == "file":
        return f"file://{tmp_path}/artifacts"
    server: S3 = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket()}/artifacts"


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Root of a test's artifacts: files, and S3 too for one with `usefixtures("artifacts_root")`."""
    if "artifacts_root" in request.fixturenames:
        return str(request.getfixturevalue("artifacts_root"))
    return f"file://{tmp_path}/artifacts"


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[StackUnderTest]:
    """The whole embedded stack, brought up once a session on ports of its own.

    A test that stops or kills something waits until it is ready again.
    """
    from penstock.testing.stack import running_stack

    with while_needed(request, running_stack()) as under_test:
        yield under_test


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips, by name, what needs Docker where Docker cannot run."""
    from penstock.testing.containers import or_skip, require_engine

    with or_skip():
        require_engine("the compose stack")


@pytest.fixture(scope="session")
def compose(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeUnderTest]:
    """The whole compose stack, built and brought up once a session. Its files are a copy, as an
    operator's clone is one. A test that changes it leaves it ready, as it was or newer.
    """
    from penstock.testing.compose import clone_into, running_compose

    with running_compose(root=clone_into(tmp_path_factory.mktemp("clone"))) as under_test:
        yield under_test
