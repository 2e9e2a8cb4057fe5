"""The stack on this machine: up, down, status, logs, keys."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from penstock.client.cli.output import AsJson, as_json, console, fail, platform, reported, table
from penstock.client.settings import ClientSettings
from penstock.contracts.errors import Invalid, Unavailable

keys = typer.Typer(help="The keys that sign packages, verdicts and promotions.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    for command in (up, down, status, logs):
        app.command()(reported(command))
    keys.command("init")(reported(keys_init))
    keys.command("rotate")(reported(keys_rotate))
    app.add_typer(keys, name="keys")


def up() -> None:
    """Bring up Kafka, Triton, Envoy and the services on this machine."""
    home = ClientSettings().home
    found = _embedded().up(home, progress=lambda text: console.print(text))
    console.print(
        f"up: {found.endpoint} (gRPC and HTTP), Kafka at {found.kafka}.   See `penstock status`; stop with `penstock down`", markup=False
    )


def down() -> None:
    """Stop everything that `up` started; data stays in PENSTOCK_HOME."""
    home = ClientSettings().home
    _embedded().down(home)
    console.print(f"down; data stays in {home}")


def status(as_json_: AsJson = False) -> None:
    """Who is ready, and what the others wait for."""
    settings = ClientSettings()
    if (settings.home / "stack.json").exists():
        programs = _embedded().status(settings.home)
        if as_json_:
            as_json([program.model_dump(mode="json") for program in programs])
        else:
            table(("program", "state", "what it says"), [(p.name, p.state, p.says) for p in programs], empty="nothing runs")
        if any(program.state != "ready" for program in programs):
            raise typer.Exit(1)
        return
    with platform() as penstock:
        services = penstock.status.services()
    if as_json_:
        as_json(services)
    else:
        rows = [
            (
                s.service,
                "ready" if s.ready else "waiting",
                ", ".join(s.facts) if s.ready else "; ".join(f"for {w.thing} ({w.why})" for w in s.waiting),
            )
            for s in services
        ]
        table(("service", "state", "what it says"), rows, empty="no service answers")
    if not all(service.ready for service in services):
        raise typer.Exit(1)


def logs(
    service: Annotated[str, typer.Argument(help="A service, or kafka, triton, envoy.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """The log of one program."""
    home = ClientSettings().home
    if not (home / "stack.json").exists():
        raise Unavailable("no stack was brought up here", where=str(home), remedy="penstock up, or set PENSTOCK_HOME")
    for line in _embedded().logs(home, service, follow=follow):
        typer.echo(line)


def keys_init() -> None:
    """Make the keys that are missing."""
    made = _keys().ensure(_keys_home())
    console.print(f"made {', '.join(made)}" if made else "all keys are there")


def keys_rotate(role: Annotated[str, typer.Argument(help="registry or audit.")]) -> None:
    """A new key for a role; the old one is retired and still verifies what it signed."""
    keyid = _keys().rotate(_keys_home(), role)
    console.print(f"{role} signs with {keyid} from now on; restart the service: the old key is retired")


def _keys_home() -> Path:
    return ClientSettings().home / "keys"


def _embedded() -> ModuleType:
    try:
        from penstock import stack  # the `stack` extra: some 40 MB that a plain client does without
    except ImportError:
        fail("the embedded stack is not installed here: pip install 'penstock-client[stack]', or use docker compose", 1)
    return stack


def _keys() -> ModuleType:
    try:
        from penstock.packages import keys as found
    except ImportError as error:
        raise Invalid("keys need penstock-packages", remedy="pip install 'penstock-client[stack]'") from error
    return found
