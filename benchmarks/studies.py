"""Costs of a study for a person who waits for it: `python benchmarks/studies.py`, on a stack of its own.

All of credit-risk. Until the first report: from the request of a study to the first of its trials'
epochs that the tuner tells of, the third of sixty. To the verdict: a study of the default space,
two trials at once, then its run and the audit of that, or the end where the file's own values are
the best. Memory: the most that the tuner's processes held meanwhile (PSS), above what they held
before. `--ray`: on a Ray that is started here, until the first report alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import quality
from idle import descendants, own_stack, pss

from penstock.client import ClientSettings, Penstock
from penstock.client.studies import ENDED
from penstock.stack.stack import Stack
from penstock.testing.journey import Journey
from penstock.testing.threads import beside
from penstock.testing.wait import until
from penstock.tuner.v1 import tuner_pb2 as tuner

NAME = "credit-risk"
LOOKS = "tuner: {at_once: 2, pruner: {type: median, rungs: 19, trials: 1000}}\n"
"""A pruner that looks at every twentieth of a trial's epochs, and stops none."""
MOST_S = 900.0
MUST = {"first_s": 15, "first_on_ray_s": 35, "verdict_s": 360, "memory": 1.5e9}


@dataclass
class Memory:
    """The most that a process and all below it held, above what they held at first; bytes."""

    most: int = 0

    @contextmanager
    def of(self, pid: int) -> Iterator[None]:
        def held() -> int:
            return sum(map(pss, (pid, *descendants(pid))))

        def look(over: threading.Event) -> None:
            while not over.wait(0.5):
                self.most = max(self.most, held() - before)

        before = held()
        with beside(look):
            yield


def with_looks(text: str) -> str:
    """The file with a pruner that looks early."""
    return text + LOOKS


def publish(client: Penstock, changed: Callable[[str], str] = with_looks) -> None:
    """Applies the example's file as changed, and publishes its events."""
    text = (quality.EXAMPLES / NAME / "pipeline.yaml").read_text()
    client.pipelines.apply(changed(text), by="benchmark")
    applications, outcomes = quality.module(NAME).loans()
    journey = Journey(client)
    for source, table in (("applications", applications), ("outcomes", outcomes)):
        rows = [
            {key: value for key, value in row.items() if value is not None}
            for row in json.loads(table.to_json(orient="records"))
        ]
        journey.publish(NAME, source, rows)


def first_report(client: Penstock, study_id: str, began: float) -> float:
    """Seconds until a trial has told of an epoch; blocks for as long."""
    for found in client.studies.watch(study_id, timeout=MOST_S):
        if any(trial.rungs or trial.ended_at.seconds for trial in found.trials):
            return time.monotonic() - began
    raise SystemExit(f"study {study_id} ended without a trial: {found.failure}")


def measured(stack: Stack, trials: int, *, ray: bool) -> dict[str, float]:
    settings = ClientSettings(home=stack.home, endpoint=stack.endpoint, kafka=stack.kafka)
    pid = next(one.pid for one in stack.status() if one.program == "tuner")
    assert pid is not None
    memory = Memory()
    with Penstock(settings) as client:
        publish(client)
        with memory.of(pid):
            began = time.monotonic()
            begun = client.studies.create(
                NAME, trials=1 if ray else trials, after=client.events.end_offsets(NAME), by="benchmark"
            )
            first_s = first_report(client, begun.study_id, began)
            if ray:
                return {"first_on_ray_s": first_s}
            found = until(lambda: _ended(client, begun.study_id), within=MOST_S, what="the study has ended")
            assert found is not None
            searched_s = time.monotonic() - began
        if found.run_id:
            until(
                lambda: found.run_id in {run.run_id for run in client.runs.list(NAME)}, what="its run begins"
            )
            journey = Journey(client)
            journey.decided(NAME, journey.ended(found.run_id).digest)
        return {
            "first_s": first_s,
            "searched_s": searched_s,
            "verdict_s": time.monotonic() - began,
            "memory": memory.most,
            "trials": trials,
            "stayed": not found.run_id,
        }


def _ended(client: Penstock, study_id: str) -> tuner.Study | None:
    found = client.studies.get(study_id)
    if found.state not in ENDED:
        return None
    assert found.state == tuner.Study.STATE_COMPLETED, found.failure
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.ray:
        os.environ["PENSTOCK_TUNER__RAY"] = "local"
    with own_stack() as (stack, _):
        found = measured(stack, chosen.trials, ray=chosen.ray)
    missed = [name for name, most in MUST.items() if found.get(name, 0) > most]
    print(json.dumps({**found, "missed": missed}))
    sys.exit(0 if chosen.json or not missed else 1)


if __name__ == "__main__":
    main()
