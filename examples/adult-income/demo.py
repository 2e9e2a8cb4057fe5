"""The whole line on real parts: 48,842 census records through Kafka into a model that the audit
refuses, a fair one that it lets pass, signed, promoted, served and called. `make demo` runs this;
every number it prints was measured in this run. With STACK=compose the same line walks in
containers.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import asking
import tritonclient.grpc as triton
from data import Event, people, spoiled
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from penstock.client import ClientSettings, Penstock, PenstockError
from penstock.client.cli.audits import gates
from penstock.client.cli.predictions import steps
from penstock.client.cli.stack import show_program
from penstock.client.lineage import Lineage
from penstock.contracts.connection import SCRAM, KafkaSettings
from penstock.contracts.measures import words
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.ingest.v1 import ingest_pb2 as ingest
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.stack import stack
from penstock.trainer.v1 import trainer_pb2 as trainer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PIPELINE, SOURCE = "adult-income", "people"
LATENCY_CALLS = 500

T = TypeVar("T")

# The door is on this machine: tritonclient and urllib shall not ask a proxy for it.
os.environ["no_proxy"] = f"127.0.0.1,localhost,{os.environ.get('no_proxy', '')}".rstrip(",")

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


class Unexpected(Exception):
    """The demo shows what the platform promises; something else happened."""


class Demo:
    def __init__(self, penstock: Penstock) -> None:
        self.penstock = penstock
        self.seconds: dict[str, float] = {}
        self.home = penstock.settings.home

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        console.print(f"\n[bold]{name}[/bold]")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def publish(self, events: list[Event], bad: list[bytes]) -> None:
        """All events, the spoiled ones at random places among them."""
        rows: list[Event | bytes] = [*events]
        draw = random.Random(7)
        for line in bad:
            rows.insert(draw.randrange(len(rows)), line)
        with _bar() as bar:
            task = bar.add_task("publish", total=len(rows))
            published = self.penstock.events.publish(
                PIPELINE, SOURCE, rows, progress=lambda count: bar.update(task, completed=count)
            )
        rate = published.events / published.seconds
        console.print(
            f"{published.events} events, {published.bytes / 1e6:.1f} MB on Kafka's disk in"
            f" {published.seconds:.1f} s ({rate:,.0f}/s)"
        )

    def ingested(self, events: int) -> ingest.GetCountsResponse:
        """What ingest made of them, when it has read them all."""
        with _bar() as bar:
            task = bar.add_task("ingest", total=events)

            def seen() -> ingest.GetCountsResponse | None:
                counts = self.penstock.events.counts(PIPELINE, SOURCE)
                bar.update(task, completed=counts.events)
                return counts if counts.events >= events else None

            return _until(seen, within=60, what="ingest to read all events")

    def train(
        self, overrides: Mapping[str, object] | None = None
    ) -> tuple[trainer.Run, registry.Version, audit.Audit]:
        """A run on all that was published, until its version is promoted or refused."""
        after = self.penstock.events.end_offsets(PIPELINE)
        run = self.penstock.runs.create(PIPELINE, overrides=overrides, after=after, by="demo")
        with _bar() as bar:
            task = bar.add_task("train", total=None)
            for seen in self.penstock.runs.watch(run.run_id, timeout=300):
                run = seen
                if run.epochs:
                    last = run.epochs[-1]
                    note = (
                        f"epoch, loss {last.train_loss:.3f}, validation {last.metric}"
                        f" {last.validation_metric:.3f}"
                    )
                    bar.update(task, description=note, completed=last.number, total=run.epochs_planned)
        if run.state != trainer.Run.STATE_COMPLETED:
            raise Unexpected(f"run {run.run_id} did not complete: {run.failure} {run.remedy}")
        for name, curve in _curves(run).items():
            console.print(
                f"{name:<15} {curve[0]:.3f} {_sparkline(curve)} {curve[-1]:.3f} over {len(curve)} epochs"
            )

        def decided() -> registry.Version | None:
            try:
                version = self.penstock.models.get(f"{PIPELINE}@{run.digest}")
            except PenstockError:
                return None
            return (
                version
                if version.state in (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)
                else None
            )

        version = _until(decided, within=120, what="the audit and the registry's decision")
        verdict = self.penstock.audits.get(version.digest)
        console.print(f"version {version_name(PIPELINE, version.digest)}, signed by key {version.keyid[:12]}")
        console.print(gates(verdict))
        return run, version, verdict

    def served(self, version: registry.Version) -> None:
        def serving() -> bool:
            return any(s.digest == version.digest for s in self.penstock.predictions.serving().pipelines)

        _until(serving, within=60, what="the promoted version to be served")

    def report(self, version: registry.Version, name: str) -> Path:
        path = self.home / "reports" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.penstock.audits.report(version.digest))
        return path


def bring_up(compose: bool, *options: str, user: str = "publisher") -> ClientSettings:
    """The stack, ready, and how to reach it: in containers with further `options` of
    `docker compose up`, and Kafka as one of its users. Raises Unexpected or PenstockError with what to do.
    """
    console.print("[bold]stack[/bold]")
    if not compose:
        stack.up(ClientSettings().home, progress=show_program())
        return ClientSettings()
    try:
        subprocess.run(["docker", "compose", "up", "-d", "--wait", *options], cwd=ROOT, check=True)
        ports = {
            program: (
                subprocess.run(
                    ["docker", "compose", "port", program, port],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.strip()
            )
            for program, port in (("envoy", "9080"), ("kafka", "9092"))
        }
    except FileNotFoundError as error:
        raise Unexpected("there is no `docker` here; `make demo` runs without it") from error
    except subprocess.CalledProcessError as error:
        raise Unexpected(
            "the containers did not become ready. Did `make images` run? See: docker compose ps, docker"
            " compose logs"
        ) from error
    # A home of its own: one of an embedded stack would lead the client there.
    return ClientSettings(
        home=ROOT / ".penstock-compose",
        endpoint=ports["envoy"],
        kafka=KafkaSettings(
            bootstrap_servers=ports["kafka"],
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism=SCRAM,
            sasl_username=user,
            sasl_password_file=ROOT / "deploy" / "compose" / "secrets" / f"kafka_{user}_password",
        ),
    )


def take_down(compose: bool, home: Path) -> None:
    if compose:
        subprocess.run(["docker", "compose", "down"], cwd=ROOT, check=True)
    else:
        stack.down(home)
    console.print("the stack is down")


def main() -> int:
    compose = os.environ.get("STACK") == "compose"
    started = time.monotonic()
    try:
        settings = bring_up(compose)
    except (Unexpected, PenstockError) as error:
        console.print(Text(f"\nthe demo did not begin: {error}", style="bold red"))
        return 1
    with Penstock(settings) as penstock:
        demo = Demo(penstock)
        demo.seconds["stack up"] = time.monotonic() - started
        try:
            walk(demo, compose=compose)
        except (Unexpected, PenstockError) as error:
            console.print(Text(f"\nthe demo failed: {error}", style="bold red"))
            see = "docker compose ps, docker compose logs SERVICE. Stop with: docker compose down"
            console.print(
                "See:"
                f" {see if compose else 'penstock status, penstock logs SERVICE. Stop with: penstock down'}"
            )
            return 1
    if "--down" in sys.argv:
        take_down(compose, settings.home)
    return 0


def walk(demo: Demo, *, compose: bool) -> None:
    penstock = demo.penstock
    with demo.stage("apply: the gate on fairness is set before anything is known"):
        text = (HERE / "pipeline.yaml").read_text()
        applied = penstock.pipelines.apply(text, file="pipeline.yaml", by="demo")
        console.print(
            f"pipeline {applied.pipeline}, number {applied.number}: equalized-odds difference by sex at most"
            " 0.10, at its upper bound"
        )

    with demo.stage("publish: all records, and among them what goes wrong in life"):
        events = people()
        bad, expected = spoiled(events)
        before = penstock.events.counts(PIPELINE, SOURCE)
        demo.publish(events, bad)
        counts = demo.ingested(before.events + len(events) + len(bad))
        if before.events == 0:
            check_counts(counts, len(events), expected)
        show_counts(counts)

    with demo.stage("first run: as accurate as it can be"):
        first_run, first, first_audit = demo.train()
        if first.state != registry.Version.STATE_REFUSED:
            raise Unexpected("the audit let the unconstrained model pass; it was expected to refuse it")
        console.print(Text("refused: " + "; ".join(first.because), style="red"))

    with demo.stage("second run: the same pipeline with trainer.fairness, strength 0.3"):
        penstock.pipelines.apply(
            (HERE / "pipeline-fair.yaml").read_text(), file="pipeline-fair.yaml", by="demo"
        )
        second_run, second, second_audit = demo.train()
        if second.state != registry.Version.STATE_PROMOTED:
            raise Unexpected(f"the constrained model was not promoted: {'; '.join(second.because)}")
        console.print(Text(f"promoted: generation {second.generation}", style="green"))
        demo.served(second)

    with demo.stage("predictions: four ways, one answer"):
        prediction, said = predict(demo, events[100])

    with demo.stage("lineage: from that prediction back to its events"):
        _until(lambda: _recorded(penstock, prediction), within=20, what="the prediction's record")
        lineage = penstock.lineage.trace(prediction)
        console.print("\n".join(steps(lineage)), markup=False)

    reports = [demo.report(first, "refused"), demo.report(second, "promoted")]
    trials = (first_run, first, first_audit), (second_run, second, second_audit)
    summary(demo, counts, *trials, said, lineage, reports, compose=compose)


def check_counts(counts: ingest.GetCountsResponse, records: int, expected: dict[str, int]) -> None:
    """On a fresh stack every number is known beforehand."""
    rejects = {reason: count for reason, count in expected.items() if reason != "duplicate"}
    if (counts.records, counts.duplicates, dict(counts.rejects)) != (records, expected["duplicate"], rejects):
        raise Unexpected(
            f"expected {records} records, {expected['duplicate']} duplicates, rejects {rejects}; got {counts}"
        )


def show_counts(counts: ingest.GetCountsResponse) -> None:
    rejects = ", ".join(
        f"{count} {reason}" for reason, count in sorted(counts.rejects.items(), key=lambda item: -item[1])
    )
    console.print(
        f"{counts.events} events: {counts.records} records, {counts.duplicates} duplicates,"
        f" {sum(counts.rejects.values())} rejects"
    )
    console.print(f"rejects: {rejects}")


def predict(demo: Demo, event: Event) -> tuple[str, list[str]]:
    """Asks about one person by entity, by fields, with a plain tritonclient and over HTTP. Returns the
    first one's id, and what to say of all.
    """
    penstock = demo.penstock
    pipeline = penstock.pipelines.spec(PIPELINE)
    by_entity = penstock.predictions.by_entity(PIPELINE, str(event["person_id"]))
    by_fields = penstock.predictions.by_fields(PIPELINE, asking.model_fields(pipeline, event))

    numbers, strings = asking.tensors(pipeline, [event])
    inputs = asking.inputs(numbers, strings)
    with triton.InferenceServerClient(penstock.settings.endpoint) as client:
        by_triton = float(client.infer(PIPELINE, inputs).as_numpy("probabilities")[0, 1])
        latencies = [_milliseconds(lambda: client.infer(PIPELINE, inputs)) for _ in range(LATENCY_CALLS)]
    by_http, _ = asking.over_http(penstock.settings.endpoint, PIPELINE, numbers, strings)

    answers = {
        "by entity": by_entity.probabilities["true"],
        "by fields": by_fields.probabilities["true"],
        "tritonclient": by_triton,
        "HTTP": float(by_http[0, 1]),
    }
    said = [
        f"{way:<13} {event['person_id']} earns more than 50,000 dollars with probability {p:.6f}"
        for way, p in answers.items()
    ]
    if max(answers.values()) - min(answers.values()) > 1e-6:
        raise Unexpected(f"the four ways disagree: {answers}")
    p50, p99 = statistics.median(latencies), statistics.quantiles(latencies, n=100)[98]
    said.append(f"{LATENCY_CALLS} calls through the door, each recorded: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    console.print("\n".join(said))
    return by_entity.prediction, said


def summary(
    demo: Demo,
    counts: ingest.GetCountsResponse,
    first: tuple[trainer.Run, registry.Version, audit.Audit],
    second: tuple[trainer.Run, registry.Version, audit.Audit],
    predictions: list[str],
    lineage: Lineage,
    reports: list[Path],
    *,
    compose: bool,
) -> None:
    console.print("\n[bold]summary[/bold]")
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("", "first run", "with fairness 0.3"):
        drawn.add_column(column)
    drawn.add_row("version", *(version_name(PIPELINE, version.digest) for _, version, _ in (first, second)))
    drawn.add_row(
        "signed by",
        *(f"model {version.keyid[:12]}, verdict {found.keyid[:12]}" for _, version, found in (first, second)),
    )
    for before, after in zip(first[2].gates, second[2].gates, strict=True):
        sign = "≥" if before.bound == "at_least" else "≤"
        rule = f"{words(before.metric)}{f' by {before.by}' if before.by else ''} {sign} {before.limit:g}"
        drawn.add_row(rule, _gate(before), _gate(after))
    drawn.add_row("epochs", *(str(len(run.epochs)) for run, _, _ in (first, second)))
    for name in _curves(first[0]):
        drawn.add_row(name, *(_sparkline(_curves(run)[name]) for run, _, _ in (first, second)))
    drawn.add_row(
        "outcome",
        Text("refused", style="red"),
        Text(f"promoted, generation {second[1].generation}", style="green"),
    )
    console.print(drawn)
    console.print(f"served: {second[1].digest}\n")
    show_counts(counts)
    console.print("\n" + "\n".join(predictions))
    console.print("\nlineage of the first")
    console.print("\n".join(steps(lineage)), markup=False)
    console.print()
    stages = ", ".join(f"{name.partition(':')[0]} {seconds:.0f} s" for name, seconds in demo.seconds.items())
    console.print(f"seconds: {stages}; together {sum(demo.seconds.values()):.0f} s")
    console.print("reports: " + ", ".join(str(path) for path in reports))
    bin_ = _in_reach(Path(sys.executable).parent / "penstock")
    where = f"PENSTOCK_ENDPOINT={demo.penstock.settings.endpoint} " if compose else ""
    console.print("\ntry next:")
    if compose:
        console.print("  set -a; . deploy/compose/publisher.env; set +a")
    console.print(f"  {where}{bin_} status")
    console.print(f"  {where}{bin_} rejects {PIPELINE}")
    console.print(f"  {where}{bin_} models {PIPELINE}")
    console.print(f"  {where}{bin_} predict {PIPELINE} --entity p00042")
    console.print(f"  {where}{bin_} verify {version_name(PIPELINE, second[1].digest)}")
    console.print(f"stop with: {'docker compose down' if compose else f'{bin_} down'}")


def _in_reach(path: Path) -> Path:
    """As one types it from here."""
    path, here = Path(os.path.normpath(path.absolute())), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _gate(gate: audit.Gate) -> Text:
    measured = f"{gate.value.estimate:.3f} [{gate.value.lower:.3f}, {gate.value.upper:.3f}] {gate.verdict}"
    return Text(measured, style={"pass": "green", "fail": "red"}.get(gate.verdict, "yellow"))


def _recorded(penstock: Penstock, prediction: str) -> bool:
    try:
        return bool(penstock.lineage.prediction(prediction))
    except PenstockError:
        return False


def _until(look: Callable[[], T | None], *, within: float, what: str) -> T:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise Unexpected(f"waited {within:.0f} s for {what}")


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _curves(run: trainer.Run) -> dict[str, list[float]]:
    return {
        "training loss": [e.train_loss for e in run.epochs],
        "validation loss": [e.validation_loss for e in run.epochs],
    }


def _sparkline(values: list[float]) -> str:
    low, high = min(values), max(values)
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) / (high - low or 1) * 7)] for value in values)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


if __name__ == "__main__":
    sys.exit(main())
