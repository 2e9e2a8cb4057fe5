"""`penstock`: one verb a need, grouped as people ask for them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from penstock.client.cli import audits, events, models, pipelines, predictions, stack, training


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"penstock {version('penstock-client')}")
        raise typer.Exit


app = typer.Typer(
    name="penstock",
    help="Publish events, get audited models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


VERSION = typer.Option("--version", is_eager=True, help="Say which release this is.", callback=_tell_version)


@app.callback()
def penstock(tell_version: Annotated[bool, VERSION] = False) -> None: ...


for group in (stack, pipelines, events, training, models, audits, predictions):
    group.register(app)


def main() -> None:
    app()
