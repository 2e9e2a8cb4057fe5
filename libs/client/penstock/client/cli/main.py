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
    stopping,
    training,
    tuning,
)
from penstock.client.cli.output import Reporting, errors
from penstock.client.settings import ClientSettings
from penstock.contracts.errors import NotFound


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


def calls(verb: Callable[P, R]) -> Callable[P, R]:
    """Verb that says which platform it is about to call, where nobody has named one. Raises NotFound where
    the home that somebody named has no stack: another's, at the default address, is not meant.
    """

    @wraps(verb)
    def said(*args: P.args, **options: P.kwargs) -> R:
        settings = ClientSettings()
        if settings.assumed and not options.get("site"):
            if "home" in settings.model_fields_set:
                raise NotFound(
                    f"no stack is up in {settings.home}, which PENSTOCK_HOME names",
                    remedy="Run `penstock up` there, mend the name, or set PENSTOCK_ENDPOINT",
                )
            why = (
                f"the stack of {settings.home} is down (`penstock up` starts it)"
                if settings.home.is_dir()
                else "no stack was started from this folder or one above"
            )
            errors.print(
                f"calling {settings.endpoint}, whatever is there: {why}. To name the platform once:"
                f" export PENSTOCK_ENDPOINT={settings.endpoint}, or PENSTOCK_HOME of `penstock up`",
                style="yellow",
            )
        return verb(*args, **options)

    return said


# `penstock --help` lists them in this order.
for verb in (
    stack.up,
    stack.down,
    calls(stack.status),
    stack.logs,
    init.init,
    pipelines.validate,
    calls(pipelines.apply),
    calls(pipelines.pipelines),
    calls(pipelines.delete),
    calls(events.publish),
    calls(events.rejects),
    calls(erasure.erase),
    calls(training.train),
    calls(training.import_),
    calls(training.runs),
    calls(training.cancel),
    calls(tuning.tune),
    calls(costs.costs),
    calls(models.models),
    calls(models.promote),
    calls(models.rollback),
    calls(stopping.stop),
    calls(stopping.resume),
    calls(models.verify),
    calls(audits.audit),
    calls(audits.report),
    calls(predictions.predict),
    calls(predictions.predictions),
    calls(predictions.trace),
):
    app.command(verb.__name__.rstrip("_"))(verb)
app.add_typer(tuning.study, name="study")
app.add_typer(stack.keys, name="keys")
app.add_typer(events.dead_letters, name="dead-letters")
app.add_typer(reviews.review, name="review")
app.add_typer(sites.sites, name="sites")
for group in (tuning.study, events.dead_letters, reviews.review, sites.sites):
    for command in group.registered_commands:
        command.callback = command.callback and calls(command.callback)
