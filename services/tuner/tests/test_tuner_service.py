"""The whole service as a process: Kafka in and out, gRPC, the driver and its trials, and what happens
when each is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from confluent_kafka import Consumer

from penstock.contracts.events import (
    Event,
    TrainingRunRequested,
    TuningStudyCompleted,
    TuningTrialEnded,
    decode,
)
from penstock.contracts.topics import SHARED
from penstock.runtime.kafka.admin import ensure_topics
from penstock.testing.broker import free_ports
from penstock.testing.loans import Loans
from penstock.testing.wait import until
from penstock.tuner.v1 import tuner_pb2 as pb
from penstock.tuner.v1.tuner_pb2_grpc import TunerServiceStub

pytestmark = pytest.mark.kafka

ENDED = (pb.Study.STATE_COMPLETED, pb.Study.STATE_FAILED, pb.Study.STATE_CANCELED)
DRIVER, TRIAL = "penstock_tuner.job", "penstock_tuner.pool.child"
WITHIN_S = 120.0
LEARNING_RATE = {"low": 1e-2, "high": 1e-1, "log": True}
NETWORKS = {
    "model": {"mlp": {"dropout": {"low": 0.0, "high": 0.5}}},
    "trainer": {"optimizer": {"adamw": {"learning_rate": LEARNING_RATE}}},
}
TREES = {"model": {"boosted_trees": {"num_leaves": {"low": 4, "high": 32}}}}  # loaded in a second
GONE_WITHIN_S = 10.0  # processes of a study that was canceled, or whose service was killed


class Tuner:
    def __init__(self, home: Path, environment: dict[str, str], port: int, kafka: Any, prefix: str) -> None:
        self._environment, self._kafka, self._prefix = environment, kafka, prefix
        self.home = home
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = TunerServiceStub(self.channel)
        self.begin()

    def begin(self) -> None:
        with (self.home / "tuner.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock_tuner"],
                env=os.environ | self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        grpc.channel_ready_future(self.channel).result(60)

    def create(self, **wish: Any) -> str:
        return self.stub.CreateStudy(
            pb.CreateStudyRequest(pipeline="loans", requested_by="ann", **wish)
        ).study_id

    def study(self, study_id: str) -> pb.Study:
        return self.stub.GetStudy(pb.GetStudyRequest(study_id=study_id))

    def ended(self, study_id: str) -> pb.Study:
        def look() -> pb.Study | None:
            study = self.study(study_id)
            return study if study.state in ENDED else None

        found = until(look, within=WITHIN_S, what=f"study {study_id} has ended")
        assert found is not None
        return found

    def tried(self, study_id: str, count: int) -> None:
        until(lambda: self.study(study_id).trials_ended >= count, within=WITHIN_S, what=f"{count} trials")

    def below(self) -> list[psutil.Process]:
        """All processes that the service has started, and theirs."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def running(self, module: str) -> list[psutil.Process]:
        """Copies of a fork server that has loaded this module: a study's driver, or its trials."""
        found = []
        for process in self.below():
            with suppress(psutil.Error):
                if module in process.cmdline() and module in process.parent().cmdline():
                    found.append(process)
        return found

    def events(self, topic: str, until_type: type[Event], count: int = 1) -> list[Event]:
        """All of the topic, as soon as it holds `count` of that type. One that Kafka holds twice, after a
        kill, is the same by its id.
        """
        settings = self._kafka.settings(self._prefix)
        consumer = Consumer(settings.client(group_id=uuid.uuid4().hex, auto_offset_reset="earliest"))
        consumer.subscribe([f"{self._prefix}{topic}"])
        found: dict[bytes, Event] = {}

        def look() -> bool:
            for message in consumer.consume(100, timeout=0.2):
                if message.error() is None:
                    headers = dict(message.headers() or [])
                    if event := decode(headers["ce_type"].decode(), message.value()):
                        found[headers["ce_id"]] = event
            return sum(isinstance(event, until_type) for event in found.values()) >= count

        try:
            until(look, what=f"{until_type.__name__} on the topic")
        finally:
            consumer.close()
        return list(found.values())


def section(space: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The file's section `tuner`."""
    return {"space": space, "evaluate": {"folds": 1}, "at_once": 2, **more}


@contextmanager
def running(loans: Loans, kafka: Any, **more: str) -> Iterator[Tuner]:
    prefix = f"tuner-{uuid.uuid4().hex[:8]}."
    (port,) = free_ports(1)
    home = loans.folder / "home"
    environment = {
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_ARTIFACTS": loans.artifacts.root,
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": prefix,
        "PENSTOCK_PEERS": json.dumps(loans.peers | {"tuner": f"127.0.0.1:{port}"}),
        "PENSTOCK_TUNER__PORT": str(port),
        "DO_NOT_TRACK": "1",
        **more,
    }
    loans.start_registry()
    loans.start_feature_store()
    # The trainer's, which is not here.
    ensure_topics(kafka.settings(prefix), [topic for topic in SHARED if topic.name == "training-runs.v1"])
    tuner = Tuner(home, environment, port, kafka, prefix)
    try:
        yield tuner
    except BaseException:
        print((home / "tuner.log").read_text()[-6000:])
        raise
    finally:
        tuner.channel.close()
        tuner.process.terminate()
        tuner.process.wait(30)


@pytest.fixture
def start(loans: Loans, kafka: Any) -> Any:
    @contextmanager
    def started(space: dict[str, Any] = NETWORKS, **more: str) -> Iterator[Tuner]:
        loans.spec["tuner"] = section(space)
        with running(loans, kafka, **more) as tuner:
            yield tuner

    return started


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loans]:
    """The peers of `tuner`."""
    folder = tmp_path_factory.mktemp("lender")
    loans = Loans(folder, f"file://{folder}/artifacts")
    yield loans
    loans.close()


@pytest.fixture(scope="module")
def tuner(lender: Loans, kafka: Any) -> Iterator[Tuner]:
    """One for all tests that kill nothing of it, each with a file of its own."""
    with running(lender, kafka) as tuner:
        yield tuner


def test_a_study_ends_in_a_run_on_its_training_set_or_keeps_the_files_values(loans: Any, start: Any) -> None:
    loans.spec["trainer"] |= {"optimizer": {"type": "adamw", "learning_rate": 1e-6}}  # learns nothing
    loans.without_audit = True
    with start() as tuner:
        study_id = tuner.create(trials=4, idempotency_key="k")
        assert tuner.create(trials=4, idempotency_key="k") == study_id
        own = tuner.create(trials=1)  # at the same time
        found = tuner.ended(study_id)
        assert found.state == pb.Study.STATE_COMPLETED, found.failure
        assert [trial.number for trial in found.trials] == [0, 1, 2, 3]
        best = found.trials[found.best]
        assert found.best > 0
        assert best.values[0] < found.trials[0].values[0]
        kept = tuner.ended(own)
        assert (kept.state, kept.conclusion) == (pb.Study.STATE_COMPLETED, "no better than yours: keep it")
        told = tuner.events("tuning-studies.v1", TuningStudyCompleted, 2)
        assert [type(event).__name__ for event in told if event.key == study_id] == [
            "TuningStudyRequested",
            "TuningStudyStarted",
            *["TuningTrialEnded"] * 4,
            "TuningStudyCompleted",
        ]
        (requested,) = tuner.events("training-runs.v1", TrainingRunRequested)
        assert isinstance(requested, TrainingRunRequested)
        assert requested.run_id == found.run_id
        assert requested.training_set_id == study_id
        assert {request.id for request in loans.asked} == {study_id, own}
        assert requested.overrides == json.loads(best.overrides_json)
        assert requested.study is not None
        assert (requested.study.trial, requested.study.weights) == (found.best, best.weights)
        assert (requested.study.looks, requested.study.rule) == (found.looks, found.rule)
        changes = [*tuner.stub.WatchStudy(pb.WatchStudyRequest(study_id=study_id, changes_only=True))]
        assert [len(change.trials) for change in changes] == [4], "the first answer is whole"
        later = tuner.create(trials=1, continues=study_id)
        assert tuner.ended(later).state == pb.Study.STATE_COMPLETED
        completed = tuner.events("tuning-studies.v1", TuningStudyCompleted, 3)[-1]
        assert isinstance(completed, TuningStudyCompleted)
        assert (completed.study_id, completed.trials, completed.looks) == (later, 1, 4), "3 of them before"
        maps = Path(f"/proc/{tuner.process.pid}/maps").read_text()
        assert "torch" not in maps, "only the job's processes load it"
        assert list((tuner.home / "tuner" / "studies").glob("*")) == []


def test_the_last_trial_averages_the_best_and_may_be_chosen_as_any(lender: Loans, tuner: Tuner) -> None:
    averaged = section(TREES, ensemble={"members": 2, "latency": "1s"})
    lender.spec |= {"model": {"type": "boosted_trees"}, "trainer": {"epochs": 20}, "tuner": averaged}
    found = tuner.ended(tuner.create(trials=3))
    assert found.state == pb.Study.STATE_COMPLETED, found.failure
    assert (found.trials_planned, found.trials_ended) == (4, 4)
    last = found.trials[3]
    assert (last.state, last.family) == (pb.Trial.STATE_COMPLETE, "ensemble"), last.failure
    ranked = sorted(found.trials[:3], key=lambda trial: (trial.values[0], trial.number))
    assert json.loads(last.choices_json) == {"ensemble": [trial.number for trial in ranked[:2]]}
    assert len(json.loads(last.overrides_json)["model"]["trainers"]) == 2
    assert last.metrics["members"] in (1, 2)
    assert len(last.losses) == len(found.trials[0].losses)
    assert found.best == min(found.trials, key=lambda trial: (trial.values[0], trial.number)).number


def test_a_study_is_canceled_in_mid_trial_and_goes_on_later(
    lender: Loans, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"model": {"type": "boosted_trees"}, "trainer": {"epochs": 10_000}}
    lender.spec |= long | {"tuner": section(TREES)}
    study_id = tuner.create()
    until(lambda: tuner.running(TRIAL), within=WITHIN_S, what="a trial runs")
    with pytest.raises(grpc.RpcError, match="has not ended"):
        tuner.stub.ExtendStudy(pb.ExtendStudyRequest(study_id=study_id, trials=1))
    canceled = tuner.stub.CancelStudy(pb.CancelStudyRequest(study_id=study_id, canceled_by="ben"))
    assert (canceled.state, len(canceled.trials)) == (pb.Study.STATE_CANCELED, 0)
    until(lambda: not tuner.running(TRIAL), within=GONE_WITHIN_S, what="the trials are gone")
    until(lambda: not tuner.running(DRIVER), within=GONE_WITHIN_S, what="the driver is gone")
    lender.spec["trainer"] = {"epochs": 3}
    tuner.stub.ExtendStudy(pb.ExtendStudyRequest(study_id=study_id, trials=2))
    found = tuner.ended(study_id)
    assert found.state == pb.Study.STATE_COMPLETED, found.failure
    assert (found.trials_planned, found.trials_ended) == (2, 2)

    monkeypatch.setattr(lender, "one_class", True)
    failed = tuner.ended(tuner.create(trials=2))
    assert failed.state == pb.Study.STATE_FAILED
    assert failed.failure.startswith("tuner.space: none of 2 trials ended well; the last failure: ")
    assert [trial.state for trial in failed.trials] == [pb.Trial.STATE_FAILED] * 2
    assert all(trial.failure for trial in failed.trials)
    with pytest.raises(grpc.RpcError, match="no pipeline `lones`"):
        tuner.stub.CreateStudy(pb.CreateStudyRequest(pipeline="lones"))


def test_whatever_is_killed_only_running_trials_are_repeated(loans: Any, start: Any) -> None:
    loans.spec |= {"model": {"type": "boosted_trees"}, "trainer": {"epochs": 300}}  # a second or so a trial
    with start(TREES) as tuner:
        study_id = tuner.create(trials=6)
        until(lambda: tuner.running(TRIAL), within=WITHIN_S, what="a trial runs")[0].kill()
        tuner.tried(study_id, 2)
        before = {trial.number: trial for trial in tuner.study(study_id).trials if trial.ended_at.seconds}
        tuner.running(DRIVER)[0].kill()
        until(lambda: tuner.study(study_id).attempts == 2, within=WITHIN_S, what="a second driver")
        tuner.tried(study_id, len(before) + 1)
        children = tuner.below()
        tuner.process.kill()
        tuner.process.wait(10)
        _, alive = psutil.wait_procs(children, GONE_WITHIN_S)
        assert not alive, "no process outlives the service"
        tuner.begin()
        found = tuner.ended(study_id)
        assert found.state == pb.Study.STATE_COMPLETED, found.failure
        assert [trial.number for trial in found.trials] == list(range(6))
        failures = [trial.failure for trial in found.trials if trial.state == pb.Trial.STATE_FAILED]
        assert len(failures) == 1, "the killed trial's is its own end alone"
        assert "SIGKILL" in failures[0]
        for number, trial in before.items():
            assert found.trials[number] == trial, "what had ended is not repeated"
        told = tuner.events("tuning-studies.v1", TuningStudyCompleted)
        ended = [event.trial for event in told if isinstance(event, TuningTrialEnded)]
        assert sorted(ended) == list(range(6))


@pytest.mark.slow  # Ray takes ten seconds to start, and is started three times
def test_a_study_on_ray_goes_on_after_its_head_and_then_its_driver_are_killed(loans: Any, start: Any) -> None:
    pytest.importorskip("ray", reason="the tuner's extra `ray` is not installed")
    from penstock.runtime.marked import marked
    from penstock.runtime.ray_cluster import folder_of

    loans.spec |= {"model": {"type": "boosted_trees"}, "trainer": {"epochs": 600}}
    with start(TREES, PENSTOCK_TUNER__RAY="local") as tuner:
        folder = folder_of(tuner.home / "tuner")

        def heads(name: str) -> list[int]:
            return [pid for pid in marked(folder) if Path(f"/proc/{pid}/comm").read_text().strip() == name]

        study_id = tuner.create(trials=6)
        tuner.tried(study_id, 1)
        for head in until(lambda: heads("gcs_server"), what="Ray's head runs"):
            os.kill(head, signal.SIGKILL)
        tuner.tried(study_id, 3)
        tuner.running(DRIVER)[0].kill()
        until(lambda: tuner.study(study_id).attempts >= 2, within=WITHIN_S, what="another driver")
        found = tuner.ended(study_id)
        assert found.state == pb.Study.STATE_COMPLETED, found.failure
        assert [trial.state for trial in found.trials] == [pb.Trial.STATE_COMPLETE] * 6
        until(lambda: not [*marked(folder)], within=GONE_WITHIN_S, what="nothing of Ray is left")
