"""Runs and studies on the Ray cluster of a compose stack."""

from __future__ import annotations

from census import TUNER, Served, pipeline_text

from penstock.client.studies import ENDED
from penstock.contracts.errors import PenstockError
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.compose import ComposeUnderTest
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

WITHIN_S = 300.0
ROWS = 2_000
GATES = "[{metric: auroc, at_least: 0.6, on_fail: block}]"
TWO_TRAINERS = """
services:
  trainer: {deploy: {replicas: 2}, environment: {PENSTOCK_TRAINER__REPLICA: hostname}}
"""


def survives_a_node(served: Served, stack: ComposeUnderTest) -> None:
    """A run on both nodes goes on with those workers that are left when one dies, and its version is
    audited and promoted.
    """
    name, epochs = "spread", 200
    run_id = begun(served, name, workers=3, epochs=epochs)
    until(lambda: len(epochs_of(served, run_id)) >= 2, within=WITHIN_S, what="two epochs are told")
    with stack.dead("ray-worker", 1):
        told = len(epochs_of(served, run_id))
        assert told < epochs
        run = served.journey.ended(run_id)
        assert run.state == trainer.Run.STATE_COMPLETED, f"{run.failure} {run.remedy}"
    assert epochs_of(served, run_id) == list(range(1, epochs + 1))
    assert "3 were asked for, and there was room for 2" in run.pace.because, run.pace
    promoted(served, name, run)


def is_shared(served: Served, stack: ComposeUnderTest) -> None:
    """Two trainers and the tuner use it at the same time."""
    names = ("shared-1", "shared-2")
    runs = {name: begun(served, name, workers=2, epochs=60, more=TUNER) for name in names}
    study = served.client.studies.create(
        names[0], after=served.client.events.end_offsets(names[0]), by="test"
    )
    until(
        lambda: all("penstock_trainer.job" in stack.processes("trainer", number) for number in range(2)),
        within=WITHIN_S,
        what="both trainers train",
    )
    for name, run_id in runs.items():
        run = served.journey.ended(run_id)
        assert run.state == trainer.Run.STATE_COMPLETED, f"{run.failure} {run.remedy}"
        assert run.pace.workers == 2
        promoted(served, name, run)

    def ended() -> tuner.Study | None:
        found = served.client.studies.get(study.study_id)
        return found if found.state in ENDED else None

    found = until(ended, within=WITHIN_S, despite=PenstockError, what="the study has ended")
    assert found is not None
    assert found.state == tuner.Study.STATE_COMPLETED, found.failure
    assert [trial.state for trial in found.trials] == [tuner.Trial.STATE_COMPLETE] * 3


def begun(served: Served, name: str, *, workers: int, epochs: int, more: str = "") -> str:
    """Id of a run that was asked for, with all of its epochs."""
    text = pipeline_text(name, gates=GATES, compare="none", epochs=epochs)
    seeded = "baselines: false}"
    assert seeded in text
    text = text.replace(seeded, f"baselines: false, workers: {workers}}}")
    served.client.pipelines.apply(text + more, by="test")
    served.journey.publish(name, "people", served.events[:ROWS])
    after = served.client.events.end_offsets(name)
    all_of_them = {"trainer.early_stopping": None}
    return served.client.runs.create(name, after=after, by="test", overrides=all_of_them).run_id


def epochs_of(served: Served, run_id: str) -> list[int]:
    return [epoch.number for epoch in served.client.runs.get(run_id).epochs]


def promoted(served: Served, name: str, run: trainer.Run) -> None:
    version = served.journey.decided(name, run.digest)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    assert version.verdict == "pass"
    assert not version.not_judged
