"""Migrations without an env.py: a package of alembic revision files, applied from the code that owns it.

A new revision: `python -m penstock.runtime.migrate penstock_trainer.store:Tables
penstock_trainer.migrations "why"`.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.migration import MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, MetaData, TypeDecorator, create_engine

from penstock.contracts.errors import Conflict

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


def upgrade(engine: Engine, package: str, *, version_table: str = "alembic_version") -> None:
    """Applies what `package` holds and the database has not, in one transaction: all or nothing,
    also with replicas side by side.

    Raises Conflict where the database was written by a newer release.
    """
    script = _scripts(package)

    def missing(current: Any, _context: MigrationContext) -> Iterable[Any]:
        for one in current:
            script.get_revision(one)  # raises CommandError for one that this release does not have
        newest_first = script.iterate_revisions("heads", current or "base")
        return [MigrationStep.upgrade_from_script(script.revision_map, one) for one in newest_first][::-1]

    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table, "fn": missing, "render_as_batch": True}
        )
        try:
            with Operations.context(context):
                context.run_migrations()
        except CommandError as error:
            raise Conflict(
                f"the database does not fit {package}: {error}",
                where=str(engine.url.database),
                remedy="Run the release that wrote it, or a newer one",
            ) from error


def new_revision(tables: MetaData, package: str, why: str) -> Path:
    """Writes the revision that takes the package's tables to `tables`; to be read and kept by a person."""
    from alembic.autogenerate import produce_migrations, render_python_code

    script = _scripts(package)
    with tempfile.TemporaryDirectory() as scratch:
        engine = create_engine(f"sqlite:///{scratch}/now.db")
        if script.get_heads():
            upgrade(engine, package)
        with engine.connect() as connection:
            operations = produce_migrations(
                MigrationContext.configure(connection, opts={"compare_type": True}), tables
            )
        engine.dispose()
    assert operations.upgrade_ops is not None
    body = render_python_code(operations.upgrade_ops, render_as_batch=True, render_item=_plain)
    heads = script.get_heads()
    number = f"{len(list(script.walk_revisions())) + 1:04d}"
    path = Path(script.versions) / f"{number}_{re.sub(r'[^a-z0-9]+', '_', why.lower()).strip('_')}.py"
    path.write_text(
        f'"""{why}"""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision ='
        f" {number!r}\ndown_revision = {heads[0] if heads else None!r}\nbranch_labels = None\ndepends_on ="
        f" None\n\n\ndef upgrade() -> None:\n    {body}\n"
    )
    return path


def _plain(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Renders a type of ours as the database's own: a revision must not change when the code does."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


def _scripts(package: str) -> ScriptDirectory:
    directory = next(iter(importlib.import_module(package).__path__))
    return ScriptDirectory(directory, version_locations=[directory])


if __name__ == "__main__":
    where, package, why = sys.argv[1:]
    module, name = where.split(":")
    found = getattr(importlib.import_module(module), name)
    print(new_revision(found if isinstance(found, MetaData) else found.metadata, package, why))
