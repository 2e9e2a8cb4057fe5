"""`penstock`: one verb a need, grouped as people ask for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Annotated, ParamSpec, TypeVar

import typer

from penstock.client.cli import (
    audits,
    costs,
    erasure,
    events,
    init,
    models,
    pipelines,
    predictions,
    reviews,
    sites,
    stack,
    training,
    tuning,
)
from penstock.client.cli.output import Reporting, errors
from penstock.client.settings import ClientSettings


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"penstock {version('penstock-client')}")
        raise typer.Exit


app = typer.Typer(
    name="penstock",
    cls=Reporting,
    help="Publish events, get audited models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


VERSION = typer.Option("--version", is_eager=True, help="Say which release this is.", callback=_tell_version)


@app.callback()
def penstock(tell_version: Annotated[bool, VERSION] = False) -> None: ...


P = ParamSpec("P")
R = TypeVar("R")


def hands_over(verb: Callable[P, R]) -> Callable[P, R]:
    """Verb that says which stack it is about to give something to, where nobody has named one."""

    @wraps(verb)
    def said(*args: P.args, **options: P.kwargs) -> R:
        settings = ClientSettings()
        if settings.assumed and not options.get("site"):
            errors.print(
                f"No stack was started from this folder or one above: calling {settings.endpoint}, whatever "
                "is there. PENSTOCK_HOME (of `penstock up`) or PENSTOCK_ENDPOINT says where the platform is.",
                style="yellow",
            )
        return verb(*args, **options)

    return said


# `penstock --help` lists them in this order.
for verb in (
    stack.up,
    stack.down,
    stack.status,
    stack.logs,
    init.init,
    pipelines.validate,
    hands_over(pipelines.apply),
    pipelines.pipelines,
    hands_over(pipelines.delete),
    hands_over(events.publish),
    events.rejects,
    hands_over(erasure.erase),
    hands_over(training.train),
    hands_over(training.import_),
    training.runs,
    hands_over(tuning.tune),
    costs.costs,
    models.models,
    models.promote,
    models.rollback,
    models.verify,
    audits.audit,
    audits.report,
    predictions.predict,
    predictions.predictions,
    predictions.trace,
):
    app.command(verb.__name__.rstrip("_"))(verb)
app.add_typer(tuning.study, name="study")
app.add_typer(stack.keys, name="keys")
app.add_typer(events.dead_letters, name="dead-letters")
app.add_typer(reviews.review, name="review")
app.add_typer(sites.sites, name="sites")
