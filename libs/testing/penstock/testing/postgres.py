"""A real PostgreSQL for the tests: the one at hand, or one in a container, which a test may stop and kill."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from penstock.testing import containers
from penstock.testing.compose import image_of
from penstock.testing.containers import Container

PASSWORD = "only-for-tests"
# Faster settings that lose data only when the machine dies, which a container does not outlive.
_QUICK = ("-c", "fsync=off", "-c", "max_connections=300")


class Postgres:
    """A server at an address, with a role that may make databases. `url` is that of the database that is
    there before any other; it holds the password.
    """

    def __init__(self, url: URL) -> None:
        self.url = url

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new, empty database for a block; its URL, with the password. In the end whoever is
        connected to it is thrown out.
        """
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}"')
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(_conninfo(self.url), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())


class PostgresContainer(Postgres):
    """A server of one's own: `server.container.kill()`, `.start()`."""

    def __init__(self, container: Container) -> None:
        super().__init__(_url(container))
        self.container = container


@contextmanager
def running_postgres() -> Iterator[PostgresContainer]:
    """A server in a container, until the block or this process ends. Raises CannotRun."""
    with containers.run(
        image_of("postgres"),
        port=5432,
        ready=_answers,
        environment={"POSTGRES_USER": "penstock", "POSTGRES_PASSWORD": PASSWORD},
        command=_QUICK,
    ) as container:
        yield PostgresContainer(container)


@contextmanager
def postgres_at_hand() -> Iterator[Postgres]:
    """The server at $PENSTOCK_TEST_POSTGRES, an SQLAlchemy URL, else one in a container. Raises
    CannotRun where there is neither.
    """
    if given := os.environ.get("PENSTOCK_TEST_POSTGRES"):
        yield Postgres(make_url(given))
        return
    with running_postgres() as server:
        yield server


def database_settings(service: str, url: str, folder: Path) -> dict[str, str]:
    """The variables that tell a service's process its database, the password in a file of `folder`."""
    parsed, prefix = make_url(url), f"PENSTOCK_{service.upper()}__DATABASE"
    if parsed.password is None:
        return {prefix: url}
    file = folder / "database-password"
    file.write_text(f"{parsed.password}\n")
    bare = URL.create(
        parsed.drivername,
        parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=parsed.query,
    )
    return {prefix: str(bare), f"{prefix}_PASSWORD_FILE": str(file)}


def _url(container: Container) -> URL:
    return URL.create("postgresql+psycopg", "penstock", PASSWORD, "127.0.0.1", container.port, "penstock")


def _answers(container: Container) -> bool:
    """Over the network: while the image sets itself up, its server listens on a socket of its own."""
    try:
        psycopg.connect(_conninfo(_url(container)), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
