"""A service that is taken over reaches its own database in PostgreSQL, and nothing else there: with
the users that deploy/compose/postgres/roles.sh makes, in a new volume and in one of a release that
had one user for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import URL

from penstock.contracts.services import PLATFORM
from penstock.runtime.store import Store
from penstock.testing.checkout import ROOT
from penstock.testing.containers import or_skip
from penstock.testing.postgres import PASSWORD, PostgresContainer, running_postgres

pytestmark = pytest.mark.docker

SCRIPT = (ROOT / "deploy" / "compose" / "postgres" / "roles.sh").read_text()
SERVICES = [name for name, service in PLATFORM.items() if service.database]
DATABASES = {name: name for name in SERVICES} | {"mlflow": "trainer"}
"""Owner of each database."""


@dataclass(frozen=True)
class Server:
    container: PostgresContainer

    def make_users(self) -> None:
        """As the container `roles` does it."""
        files = {"postgres": PASSWORD} | {f"postgres_{name}": f"only-{name}'s" for name in SERVICES}
        secrets = [f'echo "{text}" > /run/secrets/{name}_password' for name, text in files.items()]
        place = "export PGHOST=127.0.0.1 PGUSER=penstock PGDATABASE=postgres"
        script = "\n".join(["mkdir -p /run/secrets", *secrets, place, SCRIPT])
        self.container.container.execute("sh", "-c", script)

    def url(self, user: str, database: str) -> URL:
        password = PASSWORD if user == "penstock" else f"only-{user}'s"
        return self.container.url.set(username=user, password=password, database=database)

    def connect(self, user: str, database: str) -> psycopg.Connection[tuple[object, ...]]:
        url = self.url(user, database).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5)


@pytest.fixture(scope="module", params=["new", "of the release before"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with or_skip(), running_postgres() as container:
        made = Server(container)
        if request.param != "new":
            with made.connect("penstock", "postgres") as connection:
                for name in DATABASES:
                    connection.execute(f"CREATE DATABASE {name}".encode())
            for name in SERVICES:
                migrate(made, "penstock", name)
            with made.connect("penstock", "mlflow") as connection:
                connection.execute("CREATE TABLE runs (id int GENERATED ALWAYS AS IDENTITY, other serial)")
                connection.execute("CREATE VIEW newest AS SELECT max(id) FROM runs")
        made.make_users()
        made.make_users()  # at the next `up`
        yield made


def migrate(server: Server, user: str, name: str) -> None:
    url = server.url(user, name).render_as_string(hide_password=False)
    Store.open(url, migrations=f"penstock_{name}.migrations").close()


@pytest.mark.parametrize("database", DATABASES)
def test_its_user_does_all_that_its_service_does(server: Server, database: str) -> None:
    """Tables that are there, too: a migration changes them."""
    user = DATABASES[database]
    if database in SERVICES:
        migrate(server, user, database)
    with server.connect(user, database) as connection:
        found = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        tables = [str(name) for (name,) in found if name in ("alembic_version", "runs")]
        for table in tables:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN further int".encode())
        connection.execute("CREATE TABLE made (a int)")
        connection.execute("DROP TABLE made")
        left = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner = 10"
        assert connection.execute(left.encode()).fetchall() == [], "what is left to the administrator"
        for table in tables:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN further".encode())


@pytest.mark.parametrize("user", SERVICES)
def test_it_reaches_no_other_database(server: Server, user: str) -> None:
    for database in {*DATABASES, "postgres", "penstock", "template1"}:
        if DATABASES.get(database) != user:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                server.connect(user, database)


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE other",
        "CREATE DATABASE other",
        "ALTER ROLE inference SUPERUSER",
        "ALTER ROLE penstock PASSWORD 'mine'",
        "GRANT penstock TO inference",
        "SET ROLE penstock",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('/run/secrets/postgres_password')",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "ALTER SYSTEM SET log_statement = 'all'",
    ],
)
def test_it_gains_no_power(server: Server, user: str, statement: str) -> None:
    with server.connect(user, user) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())
