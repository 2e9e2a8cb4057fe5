"""Each failure is caused for real, at a seeded moment. Nothing lost, nothing doubled, ready again
by itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import psutil
import pytest
from census import Event, Served, pipeline_text, poor_text
from load import all_recorded_once, all_records_once, predicting, publishing, record_ids

from penstock.stack.stack import down, up
from penstock.testing.processes import below, job_of
from penstock.testing.stack import UP_WITHIN_S, StackUnderTest
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

pytestmark = pytest.mark.stack("failures")

SEED = 20_261_123
PACE = 100  # predictions a second where the load lasts: without pause it takes a core
EPOCHS = 100  # some seconds of training, so that a kill after the first ones is in the midst of it


def seeded(test: str, low: float, high: float) -> float:
    """A moment in seconds, another for each test, the same in each run."""
    return random.Random(f"{SEED}/{test}").uniform(low, high)


def test_killing_ingest_in_mid_transaction_loses_and_doubles_nothing(
    served: Served, stack: StackUnderTest
) -> None:
    name = apply(served, "killed-ingest")
    events = served.events[:4000]
    publisher = threading.Thread(target=lambda: trickle(served, name, events, seconds=3.0))
    publisher.start()
    until(lambda: served.journey.events(name, "people") > 0, what="ingest reads")
    time.sleep(seeded("ingest", 0.2, 1.5))  # the moment of the kill
    stack.kill("ingest")
    publisher.join(60)
    stack.ready("ingest")
    until(lambda: served.journey.events(name, "people") >= len(events), what="ingest has read all")
    counts = served.client.events.counts(name, "people")
    assert (counts.events, counts.records, counts.duplicates) == (len(events), len(events), 0)
    assert record_ids(served, name) == Counter(str(event["event_id"]) for event in events)


def test_killing_the_training_process_in_mid_epoch_goes_on_from_its_checkpoint(
    served: Served, stack: StackUnderTest
) -> None:
    name = apply(served, "killed-training", epochs=EPOCHS)
    served.journey.publish(name, "people", served.events[:3000])
    run = served.client.runs.create(
        name,
        after=served.client.events.end_offsets(name),
        by="test",
        overrides={"trainer.early_stopping": None},
    )
    until(lambda: len(served.client.runs.get(run.run_id).epochs) >= 2, within=120, what="two epochs are done")
    job(stack).kill()
    ended = served.journey.ended(run.run_id)
    assert ended.state == trainer.Run.STATE_COMPLETED, ended.failure
    assert ended.attempts == 2
    assert [epoch.number for epoch in ended.epochs] == list(range(1, EPOCHS + 1))


def test_killing_the_trainer_itself_goes_on_too(served: Served, stack: StackUnderTest) -> None:
    name = apply(served, "killed-trainer", epochs=EPOCHS)
    served.journey.publish(name, "people", served.events[:3000])
    run = served.client.runs.create(
        name,
        after=served.client.events.end_offsets(name),
        by="test",
        overrides={"trainer.early_stopping": None},
    )
    until(lambda: len(served.client.runs.get(run.run_id).epochs) >= 1, within=120, what="an epoch is done")
    child = job(stack)
    stack.kill("trainer")
    until(lambda: not child.is_running(), what="the child ends with its service")
    stack.ready("trainer")
    ended = served.journey.ended(run.run_id)
    assert ended.state == trainer.Run.STATE_COMPLETED, ended.failure
    numbers = [epoch.number for epoch in ended.epochs]
    assert numbers == list(range(1, len(numbers) + 1))


def test_killing_envoy_under_load_loses_no_answered_prediction(served: Served, stack: StackUnderTest) -> None:
    with predicting(served) as load:
        load.grows()
        time.sleep(seeded("envoy", 0.0, 1.0))  # the moment of the kill
        stack.kill("envoy")
        stack.ready("envoy")
        load.grows()
    all_recorded_once(served, load)


def test_killing_triton_brings_the_same_version_back(served: Served, stack: StackUnderTest) -> None:
    with predicting(served) as load:
        load.grows()
        stack.kill("triton")
        stack.ready("triton", "inference")
        load.grows()
    assert [s.digest for s in served.client.predictions.serving().pipelines if s.pipeline == "census"] == [
        served.version.digest
    ]
    all_recorded_once(served, load)


def test_killing_tritons_stub_is_noticed_and_mended(served: Served, stack: StackUnderTest) -> None:
    with predicting(served) as load:
        load.grows()
        stubs = below(stack.pid("triton"), "triton_python_backend_stub")
        assert stubs
        for stub in stubs:
            stub.kill()
        until(lambda: load.failed, what="a prediction fails without the stubs")
        load.grows()
    all_recorded_once(served, load)


def test_kafka_away_for_ten_seconds_holds_up_and_loses_nothing(served: Served, stack: StackUnderTest) -> None:
    name = apply(served, "kafka-away")
    events = served.events[:3000]
    served.journey.publish(name, "people", events[:1000])
    with predicting(served, per_second=PACE) as load:
        with stack.without("kafka"):
            stack.waits("trainer", "kafka")
            answered = len(load.answered)
            time.sleep(10)  # how long it is away is the test
            assert len(load.answered) > answered, "serving does not need Kafka"
        served.journey.publish(name, "people", events[1000:])
        load.grows()
    stack.ready()
    assert record_ids(served, name) == Counter(str(event["event_id"]) for event in events)
    all_recorded_once(served, load)


def test_a_study_goes_on_to_its_end_while_kafka_is_away(served: Served, stack: StackUnderTest) -> None:
    name, client = "kafka-away-study", served.client
    client.pipelines.apply(poor_text(name), by="test")
    served.journey.publish(name, "people", served.events[:1500])
    begun = client.studies.create(name, after=client.events.end_offsets(name), by="test")
    until(lambda: client.studies.get(begun.study_id).trials, within=120, what="a trial has begun")
    with stack.without("kafka"):
        until(
            lambda: client.studies.get(begun.study_id).state == tuner.Study.STATE_COMPLETED,
            within=120,
            what="the study ends without Kafka",
        )
    found = client.studies.get(begun.study_id)
    assert found.best > 0
    until(
        lambda: found.run_id in {run.run_id for run in client.runs.list(name)},
        what="the trainer hears of the run when Kafka is back",
    )
    assert served.journey.ended(found.run_id).state == trainer.Run.STATE_COMPLETED


def test_everything_stopped_under_load_comes_back_as_it_was(served: Served, stack: StackUnderTest) -> None:
    name = apply(served, "all-stopped")
    with (
        predicting(served, per_second=PACE) as load,
        publishing(served, name, per_second=1000) as published,
    ):
        load.grows()
        published.grows()
        time.sleep(seeded("everything", 0.3, 1.5))  # the moment of the stop
        down(stack.home)
        up(stack.home, within=UP_WITHIN_S)
        published.grows()
        load.grows()
    all_records_once(served, name, published)
    served.journey.until_served("census", served.version.digest)
    all_recorded_once(served, load)


# -- helpers ---------------------------------------------------------------------------------------


def apply(served: Served, name: str, epochs: int = 2) -> str:
    text = pipeline_text(name, gates="[]", epochs=epochs, compare="none")
    served.client.pipelines.apply(text, by="test")
    return name


def trickle(served: Served, pipeline: str, events: list[Event], *, seconds: float) -> None:
    """Publishes in twenty parts."""
    size = len(events) // 20
    for part in range(20):
        served.client.events.publish(pipeline, "people", events[part * size : (part + 1) * size])
        time.sleep(seconds / 20)  # the pace of publishing


def job(stack: StackUnderTest) -> psutil.Process:
    """The trainer's."""
    return until(lambda: job_of(stack.pid("trainer"), "penstock_trainer.job"), what="the trainer has a job")
