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


VERBS: tuple[Callable[..., None], ...] = (
    stack.up,
    stack.down,
    stack.status,
    stack.logs,
    init.init,
    pipelines.validate,
    pipelines.apply,
    pipelines.pipelines,
    pipelines.delete,
    events.publish,
    events.rejects,
    erasure.erase,
    training.train,
    training.import_,
    training.runs,
    training.cancel,
    tuning.tune,
    costs.costs,
    models.models,
    models.promote,
    models.rollback,
    stopping.stop,
    stopping.resume,
    models.verify,
    audits.audit,
    audits.report,
    predictions.predict,
    predictions.predictions,
    predictions.trace,
)
"""In the order of `penstock --help`."""
LOCAL = (stack.up, stack.down, stack.logs, init.init, pipelines.validate)
"""Verbs that call no platform; all others say which one they are about to call."""
GROUPS = {
    "study": tuning.study,
    "keys": stack.keys,
    "dead-letters": events.dead_letters,
    "review": reviews.review,
    "sites": sites.sites,
}
LOCAL_GROUPS = ("keys",)

for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb if verb in LOCAL else calls(verb))
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
    for command in group.registered_commands:
        if name not in LOCAL_GROUPS:
            command.callback = command.callback and calls(command.callback)
