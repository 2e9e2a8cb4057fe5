"""`penstock`: one verb a need, grouped as people ask for them."""

from __future__ import annotations

import typer

from penstock.client.cli import audits, events, models, pipelines, predictions, stack, training

app = typer.Typer(
    name="penstock",
    help="Publish events, get audited models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for group in (stack, pipelines, events, training, models, audits, predictions):
    group.register(app)


def main() -> None:
    app()
