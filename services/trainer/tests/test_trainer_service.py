"""The whole service as a process: Kafka in and out, gRPC, the child process that trains, and what
happens when it is killed.
"""

from __future__ import annotations

import json
import os
import posixpath
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from confluent_kafka import Consumer
from onnx import TensorProto, helper

from penstock.contracts.digests import digest_of
from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, Invalid, Tampered, TooLarge
from penstock.contracts.events import Event, TrainingRunCompleted, TrainingRunRequested, decode
from penstock.packages.archive import unpack
from penstock.packages.facts import verify_fact
from penstock.packages.format import Package, open_package
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing.broker import free_ports
from penstock.testing.loans import Loans
from penstock.testing.processes import job_of
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as pb
from penstock.trainer.v1.trainer_pb2_grpc import TrainerServiceStub
from penstock_trainer.receiving import receive, received

pytestmark = pytest.mark.kafka

ENDED = (pb.Run.STATE_COMPLETED, pb.Run.STATE_FAILED, pb.Run.STATE_CANCELED)
WITHIN_S = 120.0


class Trainer:
    def __init__(
        self, process: subprocess.Popen[bytes], port: int, home: Path, kafka: Any, prefix: str
    ) -> None:
        self.process = process
        self.home = home
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = TrainerServiceStub(self.channel)
        self._kafka = kafka
        self._prefix = prefix

    def last_words(self) -> str:
        return (self.home / "trainer.log").read_text()[-4000:]

    def create(self, **wish: Any) -> str:
        overrides = json.dumps(wish.pop("overrides", {}))
        return self.stub.CreateRun(
            pb.CreateRunRequest(pipeline="loans", overrides_json=overrides, requested_by="test", **wish)
        ).run_id

    def run(self, run_id: str) -> pb.Run:
        return self.stub.GetRun(pb.GetRunRequest(run_id=run_id))

    def ended(self, run_id: str) -> pb.Run:
        def look() -> pb.Run | None:
            run = self.run(run_id)
            return run if run.state in ENDED else None

        found = until(look, within=WITHIN_S, what=f"run {run_id} has ended")
        assert found is not None
        return found

    def child(self) -> psutil.Process | None:
        return job_of(self.process.pid, "penstock_trainer.job")

    def waiting(self) -> dict[str, str]:
        answer = status_pb2_grpc.StatusServiceStub(self.channel).GetStatus(status_pb2.GetStatusRequest())
        return {wait.thing: wait.why for wait in answer.services[0].waiting}

    def events(self, until_type: type[Event], count: int = 1, of: str | None = None) -> list[Event]:
        """All of training-runs.v1, or those of one run, as soon as there are `count` of that type."""
        consumer = Consumer(
            self._kafka.settings(self._prefix).client(group_id=uuid.uuid4().hex, auto_offset_reset="earliest")
        )
        consumer.subscribe([f"{self._prefix}training-runs.v1"])
        found: list[Event] = []

        def look() -> bool:
            for message in consumer.consume(100, timeout=0.2):
                if message.error() is None:
                    kind = dict(message.headers() or [])["ce_type"].decode()
                    event = decode(kind, message.value())
                    found.extend([event] if event and of in (None, event.key) else [])
            return sum(isinstance(event, until_type) for event in found) >= count

        try:
            until(look, what=f"{until_type.__name__} on the topic")
        finally:
            consumer.close()
        return found

    def package(self, artifacts: Artifacts, event: TrainingRunCompleted, to: Path) -> Package:
        unpack(artifacts.fetch(event.package, to.with_suffix(".tar")), to)
        return open_package(to, event.digest)


@contextmanager
def running(loans: Any, kafka: Any) -> Iterator[Trainer]:
    home = loans.folder / "home"
    prefix = f"trainer-{uuid.uuid4().hex[:8]}."
    (port,) = free_ports(1)
    environment = {
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_ARTIFACTS": loans.artifacts.root,
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": prefix,
        "PENSTOCK_PEERS": json.dumps(loans.peers),
        "PENSTOCK_TRAINER__PORT": str(port),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    home.mkdir(exist_ok=True)
    with (home / "trainer.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock_trainer"],
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    trainer = Trainer(process, port, home, kafka, prefix)
    try:
        grpc.channel_ready_future(trainer.channel).result(60)
        until(lambda: not trainer.waiting(), what="the trainer is ready")
        yield trainer
    except BaseException:
        print(trainer.last_words())
        raise
    finally:
        trainer.channel.close()
        process.terminate()
        process.wait(30)


@pytest.fixture
def start(loans: Any, kafka: Any) -> Any:
    return partial(running, loans, kafka)


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loans]:
    """The peers of `trainer`."""
    folder = tmp_path_factory.mktemp("lender")
    loans = Loans(folder, f"file://{folder}/artifacts")
    loans.start_registry()
    loans.start_feature_store()
    yield loans
    loans.close()


@pytest.fixture(scope="module")
def trainer(lender: Loans, kafka: Any) -> Iterator[Trainer]:
    """One for all tests that leave it and its peers as they were."""
    with running(lender, kafka) as trainer:
        yield trainer


TRACKED = """
SELECT count(*) FROM runs JOIN experiments USING (experiment_id)
WHERE runs.status = 'FINISHED' AND experiments.name = 'loans'
"""


def tracked(store: Path) -> int:
    """Finished runs of the pipeline in MLflow's store, read beside it: a client that came before the
    trainer would make the tables itself, and takes seconds to load.
    """
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return int(connection.execute(TRACKED).fetchone()[0])
    except sqlite3.OperationalError:  # no file, or no tables yet
        return 0


@pytest.mark.usefixtures("artifacts_root")
def test_a_killed_child_goes_on_and_gives_the_same_model(loans: Any, start: Any, tmp_path: Path) -> None:
    loans.start_registry()
    loans.start_feature_store()
    with start() as trainer:
        loans.spec["trainer"] |= {"epochs": 10, "batch_size": 2}  # some seconds
        killed = trainer.create()
        until(lambda: len(trainer.run(killed).epochs) >= 2, within=WITHIN_S, what="two epochs")
        trainer.child().kill()
        run = trainer.ended(killed)
        assert run.state == pb.Run.STATE_COMPLETED, run.failure
        assert run.attempts == 2
        assert [epoch.number for epoch in run.epochs] == list(range(1, 11))
        assert all(epoch.pace.workers == 1 and epoch.pace.step_s > 0 for epoch in run.epochs)
        assert run.pace == run.epochs[-1].pace
        assert "of the time" in run.pace.bottleneck
        whole = trainer.ended(trainer.create())
        assert whole.attempts == 1
        events = trainer.events(TrainingRunCompleted, 2)
        completed = {event.run_id: event for event in events if isinstance(event, TrainingRunCompleted)}
        one, other = (
            trainer.package(loans.artifacts, completed[run_id], tmp_path / run_id)
            for run_id in (killed, whole.run_id)
        )
        assert one.manifest.files["model.onnx"] == other.manifest.files["model.onnx"]  # bit for bit
        told = [type(event).__name__ for event in events if getattr(event, "run_id", None) == killed]
        assert told == [
            "TrainingRunRequested",
            "TrainingRunStarted",
            *["TrainingRunProgressed"] * 10,
            "TrainingRunCompleted",
        ]
        assert one.digest == completed[killed].digest == run.digest
        cost, whole_cost = completed[killed].cost, completed[whole.run_id].cost
        assert cost is not None
        assert whole_cost is not None
        assert cost.processor_s == run.cost.processor_s
        assert cost.bytes_read > whole_cost.bytes_read, "the attempt that was killed is in it"
        assert "torch" not in Path(f"/proc/{trainer.process.pid}/maps").read_text()  # only the job's process
        assert list((trainer.home / "trainer" / "runs").glob("*")) == []

        store = trainer.home / "mlflow" / "mlflow.db"
        until(lambda: tracked(store) == 2, within=WITHIN_S, what="MLflow's store holds both runs")


def test_a_run_waits_for_its_peers_and_can_be_canceled(
    lender: Loans, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender.stop_feature_store()
    first, second = trainer.create(idempotency_key="k"), trainer.create()
    assert trainer.create(idempotency_key="k") == first
    until(
        lambda: "feature_store" in trainer.waiting(),
        within=WITHIN_S,
        what="it says that it waits for the feature store",
    )
    assert first in trainer.waiting()["feature_store"]
    assert trainer.run(first).state == pb.Run.STATE_PREPARING
    lender.start_feature_store()
    run = trainer.ended(first)
    assert run.state == pb.Run.STATE_COMPLETED, run.failure
    assert trainer.waiting() == {}
    assert {(request.id, request.pipeline_number) for request in lender.asked} >= {(first, 3)}
    trainer.ended(second)

    monkeypatch.setitem(lender.spec["trainer"], "epochs", 10_000)
    long = trainer.create()
    watched = trainer.stub.WatchRun(pb.WatchRunRequest(run_id=long))
    states = []
    for seen in watched:
        states.append(seen.state)
        if len(seen.epochs) >= 1 and pb.Run.STATE_CANCELED not in states:
            with suppress(grpc.RpcError):
                trainer.stub.CancelRun(pb.CancelRunRequest(run_id=long, canceled_by="ben"))
    assert states[0] in (pb.Run.STATE_REQUESTED, pb.Run.STATE_PREPARING)
    assert states[-1] == pb.Run.STATE_CANCELED
    until(lambda: trainer.child() is None, what="the child is gone")


def test_what_cannot_be_trained_fails_with_a_sentence(
    lender: Loans, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call, status in (
        (
            lambda: trainer.create(overrides={"trainer.epoch": 5}),
            "trainer.epoch: no key `epoch`; did you mean `epochs`?",
        ),
        (
            lambda: trainer.stub.CreateRun(pb.CreateRunRequest(pipeline="lones")),
            "no pipeline `lones`. There is loans",
        ),
        (lambda: trainer.run("01X"), "no run `01X`. List runs with `penstock runs`"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert str(error_of_call(caught.value)) == status
    refusal = Conflict(
        "12 labelled rows, at least 50 are needed", where="loans", remedy="Publish more labelled events"
    )
    with monkeypatch.context() as refusing:
        refusing.setattr(lender, "error", refusal)
        run = trainer.ended(trainer.create())
    assert run.state == pb.Run.STATE_FAILED
    assert "12 labelled rows, at least 50 are needed" in run.failure
    assert run.remedy == "Publish more labelled events"
    monkeypatch.setattr(lender, "training_set", partial(lender.training_set, one_class=True))
    run = trainer.ended(trainer.create())
    assert "the training split has one class only: `false` in all 400 rows" in run.failure
    assert run.remedy == "Publish labels of the other class too, or check `positive`"
    assert run.attempts == 1
    assert len(trainer.events(TrainingRunRequested, 2)) >= 2


def brought() -> bytes:
    """A graph with one input a feature, as converters make them: `purpose` and a missing income count
    for nothing.
    """
    inputs = [
        helper.make_tensor_value_info("income", TensorProto.DOUBLE, ["N", 1]),
        helper.make_tensor_value_info("purpose", TensorProto.STRING, ["N", 1]),
    ]
    nodes = [
        helper.make_node("IsNaN", ["income"], ["missing"]),
        helper.make_node("Where", ["missing", "none", "income"], ["known"]),
        helper.make_node("Sigmoid", ["known"], ["p"]),
    ]
    constants = [helper.make_tensor("none", TensorProto.DOUBLE, [], [0.0])]
    outputs = [helper.make_tensor_value_info("p", TensorProto.DOUBLE, ["N", 1])]
    graph = helper.make_graph(nodes, "brought", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def test_a_model_made_elsewhere_becomes_a_package(lender: Loans, trainer: Trainer, tmp_path: Path) -> None:
    """One run for a good graph, one for a file that is none: it fails alone."""
    content = brought()

    def send(name: str, *chunks: bytes) -> pb.Run:
        first = pb.ImportModelRequest(pipeline="loans", name=name, imported_by="Ada")
        rest = (pb.ImportModelRequest(chunk=chunk) for chunk in chunks)
        return trainer.ended(trainer.stub.ImportModel(iter([first, *rest])).run_id)

    bad = send("notes.txt", b"not a graph")
    assert bad.state == pb.Run.STATE_FAILED
    assert bad.failure == "this is no ONNX model, or only a part of one"
    assert "Export the model" in bad.remedy
    run = send("/home/ada/theirs.onnx", content[:100], content[100:])
    assert run.state == pb.Run.STATE_COMPLETED, run.failure
    assert (run.imported_from, run.imported_digest) == ("theirs.onnx", digest_of(content))
    told = trainer.events(TrainingRunCompleted, of=run.run_id)
    (completed,) = (event for event in told if isinstance(event, TrainingRunCompleted))
    assert completed.imported is not None
    assert completed.imported.by == "Ada"
    verify_fact(completed, Keys(trainer.home / "keys").trust())
    package = trainer.package(lender.artifacts, completed, tmp_path / "package")
    assert package.origin is not None
    assert package.origin.original_digest == digest_of(content)
    assert package.metrics["auroc"] > 0.9
    assert package.curves.points == ()
    for line in (
        "Imported by Ada from `theirs.onnx`, original digest",
        "not known whether it was trained on the audit rows",
    ):
        assert line in package.model_card
    with pytest.raises(grpc.RpcError) as refused:
        trainer.stub.ImportModel(iter([pb.ImportModelRequest(pipeline="loans")]))
    error = error_of_call(refused.value)
    assert isinstance(error, Invalid)
    assert (error.message, error.where) == ("the file is empty", "chunk")


async def test_a_file_beyond_the_bound_is_not_stored(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100

    artifacts = Artifacts(f"file://{tmp_path}")
    with pytest.raises(TooLarge, match="more than 250 bytes"):
        await receive(chunks(), "loans", artifacts, most=250)
    assert [*tmp_path.rglob("*.onnx")] == []
    stored = await receive(chunks(), "loans", artifacts, most=300)
    assert received(stored, "loans", artifacts) == b"x" * 300


@pytest.mark.parametrize("place", ["elsewhere", "imports/loans/../../elsewhere", "imports/other/graph.onnx"])
async def test_a_wish_names_no_file_but_one_that_was_sent(place: str, tmp_path: Path) -> None:
    """Nobody signs a wish: what it names is read by the trainer."""
    artifacts = Artifacts(f"file://{tmp_path}")
    stored = artifacts.put_bytes(posixpath.normpath(place), b"x")
    named = stored.model_copy(update={"uri": artifacts.uri(place)})
    with pytest.raises(Tampered, match="no file that was sent for an import"):
        received(named, "loans", artifacts)
