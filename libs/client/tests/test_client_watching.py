"""`penstock runs --watch` against a real gRPC server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from typer.testing import CliRunner

from penstock.client.audits import Audits
from penstock.client.cli import watching
from penstock.client.cli.following import until_ended
from penstock.client.cli.main import app
from penstock.client.cli.watching import pace, speed
from penstock.client.connection import Connection
from penstock.client.runs import ENDED, Runs
from penstock.contracts.errors import DeadlineExceeded, PenstockError, Unavailable
from penstock.ethics_audit.v1 import ethics_audit_pb2, ethics_audit_pb2_grpc
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.trainer.v1 import trainer_pb2_grpc

PACE = trainer.Pace(
    workers=2, because="as measured", rows_per_s=41_000.4, step_s=0.0023, bottleneck="waits for data"
)
SPEED = "41,000 rows/s, 2.30 ms a step, waits for data"


def run(state: int, epochs: int = 0, **fields: object) -> trainer.Run:
    told = {"train_loss": 0.5, "validation_loss": 0.4, "validation_metric": 0.9, "metric": "auroc"}
    of_each = [trainer.Epoch(number=number + 1, pace=PACE, **told) for number in range(epochs)]
    newest = PACE if epochs else None
    return trainer.Run(
        run_id="01R",
        pipeline="loans",
        state=state,
        epochs=of_each,
        epochs_planned=3,
        pace=newest,
        **fields,
    )


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    states: tuple[trainer.Run, ...] = ()

    def ListRuns(
        self, request: trainer.ListRunsRequest, context: grpc.ServicerContext
    ) -> trainer.ListRunsResponse:
        return trainer.ListRunsResponse(runs=self.states[:1])

    def WatchRun(
        self, request: trainer.WatchRunRequest, context: grpc.ServicerContext
    ) -> Iterator[trainer.Run]:
        yield from self.states


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    server, servicer = grpc.server(ThreadPoolExecutor(2)), Trainer()
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("PENSTOCK_ENDPOINT", f"127.0.0.1:{port}")
    monkeypatch.setattr(watching, "waiting_for", lambda penstock: "; ingest waits for kafka")
    yield servicer
    server.stop(None)


def test_each_epoch_is_a_line_with_what_holds_it_up(served: Trainer) -> None:
    """Epochs that came between two looks are told as well, each once."""
    training = trainer.Run.STATE_TRAINING
    ended = run(trainer.Run.STATE_COMPLETED, 3, digest="sha256:0123456789abcdef")
    served.states = (run(trainer.Run.STATE_PREPARING), run(training, 1), run(training, 3), ended)
    done = CliRunner().invoke(app, ["runs", "loans", "--watch"])
    epochs = [f"epoch {number}/3  loss 0.500, validation 0.400, auroc 0.900  {SPEED}" for number in (1, 2, 3)]
    said = done.output.splitlines()
    assert said == [
        "run 01R of loans: preparing; ingest waits for kafka",
        "run 01R of loans: training",
        *epochs,
        f"completed: version 01234567; 2 workers (as measured), {SPEED}",
    ]
    assert done.exit_code == 0
    told = json.loads(CliRunner().invoke(app, ["runs", "loans", "--watch", "--json"]).output)
    assert told["epochs"][-1]["pace"]["step_s"] == 0.0023


def test_a_run_that_fails_ends_with_its_sentence(served: Trainer) -> None:
    served.states = (run(trainer.Run.STATE_FAILED, 1, failure="one class only", remedy="Publish more"),)
    done = CliRunner().invoke(app, ["runs", "--watch"])
    assert done.exit_code == 1
    assert "run 01R failed: one class only. Publish more" in done.output


def test_without_a_run_it_says_how_to_begin_one(served: Trainer) -> None:
    done = CliRunner().invoke(app, ["runs", "--watch"])
    assert (done.exit_code, done.output) == (0, "none yet: penstock train PIPELINE\n")


def test_the_pace_of_a_run_is_words() -> None:
    assert pace(PACE) == f"2 workers (as measured), {SPEED}"
    assert pace(trainer.Pace(workers=2, because="as measured")) == "", "not timed yet"
    slow = trainer.Pace(rows_per_s=3, step_s=1.5, bottleneck="computes 99% of the time")
    assert speed(slow) == "3 rows/s, 1,500 ms a step, computes 99% of the time"
    fast = trainer.Pace(rows_per_s=9e5, gpu_share=0.83, gpu_bytes=2_340_000_000, bottleneck="computes")
    assert speed(fast) == "900,000 rows/s, GPU at work 83%, 2.3 GB, computes"
    slow.step_s = 0
    assert speed(slow) == "3 rows/s, computes 99% of the time", "as a release before told it"


def test_who_waits_over_an_outage_is_told_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Unavailable("the platform at 127.0.0.1:1 does not answer (closed)")
    late = DeadlineExceeded("trainer.WatchRun did not answer in time")
    looks: list[list[trainer.Run | PenstockError]] = [
        [run(trainer.Run.STATE_TRAINING), away],  # it breaks in the middle, and may be back at once
        [away],
        [away],
        [late],
        [run(trainer.Run.STATE_TRAINING), late],
        [late],
        [run(trainer.Run.STATE_COMPLETED)],
    ]

    def watch(_: str, *, timeout: float) -> Iterator[trainer.Run]:
        for one in looks.pop(0):
            if isinstance(one, PenstockError):
                raise one
            yield one

    monkeypatch.setattr("penstock.client.cli.following.time.sleep", lambda _: None)
    states = [one.state for one in until_ended(watch, "01R", ENDED)]
    assert states == [*[trainer.Run.STATE_TRAINING] * 2, trainer.Run.STATE_COMPLETED]
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.count("01R goes on once it is back") == 2
    assert "the platform at 127.0.0.1:1 does not answer (closed); waits for it" in told
    assert "trainer.WatchRun did not answer in time; waits" in told


class Away(trainer_pb2_grpc.TrainerServiceServicer):
    def WatchRun(
        self, request: trainer.WatchRunRequest, context: grpc.ServicerContext
    ) -> Iterator[trainer.Run]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        yield run(trainer.Run.STATE_COMPLETED)


class NoReport(ethics_audit_pb2_grpc.EthicsAuditServiceServicer):
    def FetchReport(
        self, request: ethics_audit_pb2.FetchReportRequest, context: grpc.ServicerContext
    ) -> Iterator[ethics_audit_pb2.FetchReportResponse]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        yield ethics_audit_pb2.FetchReportResponse()


class Restarting(ethics_audit_pb2_grpc.EthicsAuditServiceServicer):
    """Refuses `refused` times, and once `broken` more gives half of a report."""

    refused, broken = 0, False

    def FetchReport(
        self, request: ethics_audit_pb2.FetchReportRequest, context: grpc.ServicerContext
    ) -> Iterator[ethics_audit_pb2.FetchReportResponse]:
        self.refused -= 1
        if self.refused >= 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        yield ethics_audit_pb2.FetchReportResponse(chunk=b"half")
        if self.broken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "upstream went")
        yield ethics_audit_pb2.FetchReportResponse(chunk=b" and half")


@pytest.mark.process
def test_a_report_is_fetched_over_a_restart_and_is_never_half_of_one() -> None:
    server, servicer = grpc.server(ThreadPoolExecutor(2)), Restarting()
    ethics_audit_pb2_grpc.add_EthicsAuditServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    audits = Audits(Connection(f"127.0.0.1:{port}"))
    try:
        servicer.refused = 4
        assert audits.report("3f9c") == b"half and half"
        servicer.refused = 5
        with pytest.raises(Unavailable, match="no healthy upstream"):
            audits.report("3f9c")
        servicer.refused, servicer.broken = 0, True
        with pytest.raises(Unavailable, match="upstream went"):
            audits.report("3f9c")
    finally:
        server.stop(None)


@pytest.mark.process
def test_a_stream_ends_that_a_door_refused_which_went_away_then() -> None:
    """A stream with a retry policy of gRPC's own never ended, whatever its deadline."""
    told: list[str] = []
    server = grpc.server(ThreadPoolExecutor(8))
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(Away(), server)
    ethics_audit_pb2_grpc.add_EthicsAuditServiceServicer_to_server(NoReport(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def look() -> None:
        with suppress(PenstockError):
            list(Runs(Connection(f"127.0.0.1:{port}")).watch("01R", timeout=5))
        told.append("ended")

    def fetch() -> None:
        with suppress(PenstockError):
            Audits(Connection(f"127.0.0.1:{port}")).report("3f9c")
        told.append("ended")

    looks = [threading.Thread(target=target, daemon=True) for target in [look, fetch] * 8]
    for one in looks:
        one.start()
        time.sleep(0.1)  # so that some are between two tries when it goes
    server.stop(0)
    until(lambda: len(told) == len(looks), within=30, what="each look has ended")
