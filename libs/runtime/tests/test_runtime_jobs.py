"""Durable jobs: what was asked for is done once, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text, update

from penstock.contracts.errors import Kind, Unavailable
from penstock.contracts.events import Cost
from penstock.runtime.jobs import fork_server
from penstock.runtime.jobs.policy import Policy
from penstock.runtime.jobs.process import Child
from penstock.runtime.jobs.worker import Callbacks, Jobs, OnResult
from penstock.runtime.marked import lives
from penstock.runtime.store import Effect, Store
from penstock.runtime.tables import JobRow
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until_async as until

pytestmark = pytest.mark.process

# What a job does is in its payload: a list of steps. `mark` appends to a file, so that a test sees
# every start and every step.
JOB = """
    import importlib.util, os, signal, subprocess, sys, time
    from pathlib import Path
    from penstock.contracts.errors import Invalid, Unavailable
    from penstock.runtime.child import job_main

    def run(job):
        marks = Path(job.payload["marks"])
        def mark(text):
            with marks.open("a") as out:
                out.write(text + "\\n")
        mark(f"start {job.attempt}")
        for step, *arguments in job.payload["steps"]:
            if step == "progress":
                job.progress({"n": arguments[0]})
            elif step == "wait":
                mark(f"pid {os.getpid()}")
                while not Path(arguments[0]).exists():
                    time.sleep(0.01)  # polls; the test ends it
            elif step == "die":
                if job.attempt <= arguments[0]:
                    print("last words", file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGKILL)
            elif step == "exit":
                os._exit(3)
            elif step == "unavailable":
                if job.attempt <= arguments[0]:
                    raise Unavailable("the store is away")
            elif step == "invalid":
                raise Invalid(
                    "one class only", where="targets.default", remedy="Publish events of both classes"
                )
            elif step == "odd":
                raise Invalid("a\\0b", where="n" * 3_000_000, remedy="r" * 3_000_000)
            elif step == "bug":
                {}["missing"]
            elif step == "print":
                print("noise on standard output", flush=True)
            elif step == "grandchild":
                child = subprocess.Popen(["sleep", "60"])
                mark(f"grandchild {child.pid}")
            elif step == "clean":
                try:
                    mark(f"pid {os.getpid()}")
                    time.sleep(60)  # until it is killed
                finally:
                    mark("cleaned")
            elif step == "trace":
                from opentelemetry import trace
                return {"trace": format(trace.get_current_span().get_span_context().trace_id, "032x")}
            elif step == "work":
                began = time.process_time()
                ballast = b"x" * (64 << 20)
                while time.process_time() - began < 0.3:
                    pass
                del ballast
                code = "import time\\nwhile time.process_time() < 0.3: pass"
                subprocess.run([sys.executable, "-S", "-c", code], check=True)
                Path(arguments[0]).read_bytes()
            elif step == "uses":
                known = [module in sys.modules for module in arguments]
                for module in arguments:
                    importlib.import_module(module)
                return {"loaded": known, "pid": os.getpid(), "server": os.getppid()}
            elif step == "finds":
                return {"found": [importlib.util.find_spec(module) is not None for module in arguments]}
            elif step == "surroundings":
                held = {os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in range(3, 64)
                        if os.path.islink(f"/proc/self/fd/{fd}")}
                leads = os.getpgid(0) == os.getpid()
                return {"stdin": sys.stdin.read(), "leads": leads, "holds": sorted(held)}
            elif step == "settings":
                return {"settings": job.settings}
        return {"attempt": job.attempt, "big": "x" * job.payload.get("big", 0)}

    while "JOB_WAITS" in os.environ and not Path(os.environ["JOB_WAITS"]).exists():
        time.sleep(0.01)  # polls; the test ends it
    if __name__ == "__main__":
        job_main(run, settings=lambda: "made")
"""


class Heard:
    """The service's side: what its callbacks were told."""

    def __init__(self) -> None:
        self.progress: list[int] = []
        self.results: list[dict[str, Any]] = []
        self.failures: list[tuple[Kind, str, str]] = []

    def on_progress(self, job_id: str, message: dict[str, Any], effect: Effect) -> None:
        self.progress.append(message["n"])

    def on_result(self, job_id: str, result: dict[str, Any], effect: Effect) -> None:
        self.results.append(result)

    def on_failure(self, job_id: str, kind: Kind, message: str, remedy: str, effect: Effect) -> None:
        self.failures.append((kind, message, remedy))


@pytest.fixture
def store(tmp_path: Path, database: str) -> Iterator[Store]:
    (tmp_path / "steps_job.py").write_text(textwrap.dedent(JOB))
    opened = Store.open(database)
    yield opened
    opened.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def start(
    store: Store, heard: Heard, tmp_path: Path
) -> AsyncIterator[Callable[..., tuple[Jobs, asyncio.Task[None]]]]:
    running: list[asyncio.Task[None]] = []

    def begin(
        *, owner: str = "0", on_result: OnResult = heard.on_result, **policy: Any
    ) -> tuple[Jobs, asyncio.Task[None]]:
        child = Child("steps_job", environment={"PYTHONPATH": str(tmp_path)})
        callbacks = Callbacks(on_result, heard.on_failure, heard.on_progress)
        bounds = Policy(**({"backoff_s": 0.01} | policy))
        jobs = Jobs("steps", child, callbacks, store=store, owner=owner, policy=bounds)
        running.append(asyncio.create_task(jobs.run()))
        return jobs, running[-1]

    yield begin
    for task in running:
        await end(task)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def enqueue(
    store: Store, marks: Path, *steps: tuple[Any, ...], job: str = "1", kind: str = "steps", **payload: Any
) -> None:
    with in_a_thread(store.transaction()) as effect:
        effect.enqueue(kind, job, {"marks": str(marks), "steps": list(steps), **payload})


def row(store: Store, job: str = "1") -> JobRow:
    with in_a_thread(store.snapshot()) as session:
        return session.scalars(select(JobRow).where(JobRow.job_id == job)).one()


async def ended(store: Store, job: str = "1") -> JobRow:
    return await until(lambda: (found := row(store, job)).state in ("done", "failed", "canceled") and found)


def marked(marks: Path, word: str) -> list[str]:
    lines = marks.read_text().splitlines() if marks.exists() else []
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]


async def test_progress_and_result_arrive_in_order(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    start()
    enqueue(store, tmp_path / "marks", *[("progress", n) for n in range(20)], ("print",), big=300_000)
    assert (await ended(store)).state == "done"
    assert heard.progress == list(range(20))
    assert [(result["attempt"], len(result["big"])) for result in heard.results] == [(1, 300_000)]


async def test_a_large_payload_reaches_the_child(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("settings",), ballast="x" * 1_000_000)
    start()
    await ended(store)
    assert heard.results == [{"settings": "made"}]


async def test_a_crash_starts_it_again(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("die", 2))
    start(attempts=3)
    assert (await ended(store)).state == "done"
    assert marked(tmp_path / "marks", "start") == ["1", "2", "3"]
    assert heard.failures == []


async def test_too_many_crashes_fail_with_a_sentence(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("die", 9))
    start(attempts=2)
    found = await ended(store)
    assert (found.state, found.failure_kind, found.crashes) == ("failed", "internal", 2)
    assert heard.failures == [
        (
            Kind.INTERNAL,
            "its process died 2 times, the last time it was killed by SIGKILL",
            "SIGKILL often means that memory ran out",
        )
    ]


async def test_what_the_user_must_change_is_told_at_once(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("invalid",))
    start()
    await ended(store)
    assert heard.failures == [
        (Kind.INVALID, "targets.default: one class only", "Publish events of both classes")
    ]
    assert marked(tmp_path / "marks", "start") == ["1"]


async def test_a_message_that_no_database_or_event_takes_as_it_is_is_told_all_the_same(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("odd",))
    start()
    await ended(store)
    assert heard.failures == [(Kind.INVALID, f"{'n' * 2000}…: a\ufffdb", f"{'r' * 2000}…")]


async def test_a_bug_is_told_by_its_name(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("bug",))
    start()
    await ended(store)
    assert heard.failures == [(Kind.INTERNAL, "KeyError: 'missing'", "")]


@pytest.mark.parametrize("package", ["pandas", "sklearn"])
async def test_what_libraries_load_only_where_it_is_installed_no_job_loads(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path, package: str
) -> None:
    enqueue(store, tmp_path / "marks", ("uses", package))
    start()
    await ended(store)
    assert heard.failures == [(Kind.INTERNAL, f"ModuleNotFoundError: No module named '{package}'", "")]


async def test_a_library_that_asks_first_is_told_that_they_are_not_installed(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    """As torch does on a GPU and where it compiles."""
    enqueue(store, tmp_path / "marks", ("finds", "pandas", "sklearn", "numpy"))
    start()
    await ended(store)
    assert [result["found"] for result in heard.results] == [[False, False, True]]


async def test_what_may_pass_is_tried_again(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("unavailable", 2))
    start(attempts=1)
    found = await ended(store)
    assert (found.state, found.refusals, found.crashes) == ("done", 2, 0)
    assert heard.failures == []


async def test_a_job_costs_what_its_attempts_used_together(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    """Children's time too, and that of an attempt that was killed."""
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    told: list[Cost] = []

    def on_result(job_id: str, _result: dict[str, Any], effect: Effect) -> None:
        told.append(effect.spent("steps", job_id))

    jobs = {"once": ("unavailable", 0), "twice": ("die", 1), "refused": ("unavailable", 1)}
    for job, last in jobs.items():
        enqueue(store, tmp_path / "marks", ("work", str(tmp_path / "file")), last, job=job)
    start(on_result=on_result)
    for job in jobs:
        await ended(store, job)
    once, *twice = told
    assert 0.5 <= once.processor_s < 5
    assert once.peak_memory > 64 << 20
    assert 3_000_000 < once.bytes_read < 100_000_000
    assert once.gpu_s == 0
    for cost in twice:
        assert cost.processor_s >= 1.0
        assert cost.bytes_read > 6_000_000
        assert 64 << 20 < cost.peak_memory < 2 * once.peak_memory
    settled = row(store, "once").cost
    assert settled is not None
    assert settled.processor_s >= once.processor_s


async def test_a_failed_job_has_its_cost_too(store: Store, start: Callable[..., Any], tmp_path: Path) -> None:
    enqueue(store, tmp_path / "marks", ("invalid",))
    start()
    cost = (await ended(store)).cost
    assert cost is not None
    assert cost.processor_s > 0
    assert cost.peak_memory > 0


async def test_one_at_a_time_in_order(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    for n in range(3):
        enqueue(store, tmp_path / "marks", ("progress", n), job=str(n))
    start(parallel=1)
    await ended(store, "2")
    assert heard.progress == [0, 1, 2]


async def test_several_at_once_up_to_the_limit(
    store: Store, start: Callable[..., Any], tmp_path: Path
) -> None:
    for n in range(3):
        enqueue(store, tmp_path / "marks", ("wait", str(tmp_path / "go")), job=str(n))
    jobs, _ = start(parallel=2)
    await until(lambda: len(marked(tmp_path / "marks", "pid")) == 2)
    assert sorted(row(store, str(n)).state for n in range(3)) == ["queued", "running", "running"]
    (tmp_path / "go").touch()
    await ended(store, "2")
    await until(lambda: not jobs._running)


async def test_cancel_before_the_start(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("progress", 1))
    with in_a_thread(store.transaction()) as effect:
        assert effect.cancel("steps", "1")
        assert not effect.cancel("steps", "unknown")
    start()
    enqueue(store, tmp_path / "marks", ("progress", 2), job="2")
    await ended(store, "2")
    assert heard.progress == [2]
    assert row(store).state == "canceled"


async def test_cancel_kills_the_child_and_all_it_started(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    enqueue(store, marks, ("grandchild",), ("wait", str(tmp_path / "never")))
    jobs, _ = start()
    [child] = await until(lambda: marked(marks, "pid"))
    [grandchild] = marked(marks, "grandchild")
    with in_a_thread(store.transaction()) as effect:
        assert effect.cancel("steps", "1")
    with in_a_thread(store.transaction()) as effect:
        assert not effect.cancel("steps", "1")
    await until(lambda: not lives(int(child)) and not lives(int(grandchild)))
    await until(lambda: not jobs._running)
    assert row(store).state == "canceled"
    assert heard.results == []
    assert heard.failures == []


async def test_stopping_puts_the_job_back_without_using_up_an_attempt(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    enqueue(store, marks, ("clean",))
    _, task = start(attempts=1)
    [child] = await until(lambda: marked(marks, "pid"))
    await end(task)
    assert not lives(int(child))
    assert marked(marks, "cleaned") == [""]
    found = row(store)
    assert (found.state, found.owner, found.crashes, found.attempt) == ("queued", None, 0, 1)
    assert heard.failures == []


async def test_a_job_whose_result_is_stored_does_not_run_again(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("progress", 1))
    _, task = start()
    await ended(store)
    await end(task)
    start()
    enqueue(store, tmp_path / "marks", ("progress", 1))
    enqueue(store, tmp_path / "marks", ("progress", 2), job="2")
    await ended(store, "2")
    assert heard.progress == [1, 2]


async def test_a_dead_replicas_job_is_taken_when_its_lease_ends(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("progress", 1))
    with in_a_thread(store.transaction()) as effect:
        effect.session.execute(
            update(JobRow).values(
                state="running", owner="other", attempt=1, lease_until=store.clock() + timedelta(seconds=1)
            )
        )
    began = time.monotonic()
    start(owner="me")
    await until(lambda: row(store).state == "done")
    assert time.monotonic() - began >= 1.0
    assert heard.results[0]["attempt"] == 2


async def test_ones_own_job_is_taken_back_at_once(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("progress", 1))
    with in_a_thread(store.transaction()) as effect:
        effect.session.execute(
            update(JobRow).values(
                state="running", owner="me", attempt=1, lease_until=store.clock() + timedelta(hours=1)
            )
        )
    start(owner="me", attempts=1)
    assert (await ended(store)).state == "done"
    assert heard.results[0]["attempt"] == 2


async def test_a_lost_lease_ends_the_child(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    enqueue(store, marks, ("wait", str(tmp_path / "never")))
    start(owner="me", lease=timedelta(seconds=0.3))
    [child] = await until(lambda: marked(marks, "pid"))
    with in_a_thread(store.transaction()) as effect:
        effect.session.execute(
            update(JobRow).values(owner="other", lease_until=store.clock() + timedelta(hours=1))
        )
    await until(lambda: not lives(int(child)))
    assert row(store).owner == "other"


async def test_a_lease_is_kept_while_the_child_lives(
    store: Store, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("wait", str(tmp_path / "go")))
    start(owner="me", lease=timedelta(seconds=0.3))
    first = await until(lambda: row(store).lease_until)
    await until(lambda: row(store).lease_until > first + timedelta(seconds=0.5))
    (tmp_path / "go").touch()
    await ended(store)


async def test_a_result_that_cannot_be_stored_yet_is_stored_later(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    tries: list[str] = []

    def on_result(job_id: str, result: dict[str, Any], effect: Effect) -> None:
        tries.append(job_id)
        if len(tries) < 3:
            raise Unavailable("not yet")

    enqueue(store, tmp_path / "marks")
    start(on_result=on_result)
    assert (await ended(store)).state == "done"
    assert tries == ["1", "1", "1"]


async def test_what_the_disk_has_no_room_for_is_stored_when_it_has(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: no try of these is counted."""
    if store.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has a bound on its size to be set for a while")
    monkeypatch.setattr("penstock.runtime.jobs.queue.REFUSALS", 0)
    with in_a_thread(store.transaction()) as effect:
        effect.session.execute(text("CREATE TABLE results (content BLOB)"))
    tries: list[str] = []

    def on_result(job_id: str, result: dict[str, Any], effect: Effect) -> None:
        tries.append(job_id)
        pages = 1 if len(tries) < 3 else 1_000_000  # no fewer than it has
        effect.session.execute(text(f"PRAGMA max_page_count={pages}"))
        effect.session.execute(text("INSERT INTO results VALUES (zeroblob(1000000))"))

    enqueue(store, tmp_path / "marks", ("progress", 1))
    start(on_result=on_result)
    assert (await ended(store)).state == "done"
    assert tries == ["1", "1", "1"]


async def test_a_result_that_the_service_refuses_fails_the_job(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    def on_result(job_id: str, result: dict[str, Any], effect: Effect) -> None:
        raise LookupError("no such run")

    enqueue(store, tmp_path / "marks")
    start(on_result=on_result)
    assert (await ended(store)).state == "failed"
    assert heard.failures[0][:2] == (Kind.INTERNAL, "its result could not be stored: no such run")


async def test_the_trace_goes_on_in_the_child(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("trace",))
    with in_a_thread(store.transaction()) as effect:
        effect.session.execute(update(JobRow).values(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"))
    start()
    await ended(store)
    assert heard.results == [{"trace": "ab" * 16}]


# -- the process that jobs are forked from ---------------------------------------------------------


async def test_what_one_job_loaded_the_next_but_one_finds_loaded(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    """The second has the server load it; the server itself is there from the first on."""
    start()
    for n in range(3):
        enqueue(store, tmp_path / "marks", ("uses", "colorsys", "json.tool"), job=str(n))
    await ended(store, "2")
    assert [result["loaded"] for result in heard.results] == [[False] * 2, [True] * 2, [True] * 2]
    assert len({result["server"] for result in heard.results}) == 1
    assert len({result["pid"] for result in heard.results}) == 3


async def test_an_idle_server_ends_and_the_next_job_starts_another(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "IDLE_S", 0.2)
    start()
    enqueue(store, tmp_path / "marks", ("uses", "colorsys"), job="1")
    await ended(store, "1")
    await until(lambda: not lives(heard.results[0]["server"]))
    enqueue(store, tmp_path / "marks", ("uses", "colorsys"), job="2")
    await ended(store, "2")
    assert heard.results[0]["server"] != heard.results[1]["server"]


async def test_an_idle_end_spares_a_job_that_still_runs(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "IDLE_S", 0.0)
    enqueue(store, tmp_path / "marks", ("wait", str(tmp_path / "go")), job="long")
    enqueue(store, tmp_path / "marks", job="short")
    jobs, _ = start(parallel=2)
    await ended(store, "short")
    await until(lambda: len(jobs._running) == 1)
    (tmp_path / "go").touch()
    assert (await ended(store, "long")).crashes == 0


async def test_killing_the_server_kills_its_jobs_and_they_start_again(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    enqueue(store, marks, ("wait", str(tmp_path / "go")))
    start()
    [child] = await until(lambda: marked(marks, "pid"))
    server = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(server, signal.SIGKILL)
    await until(lambda: not lives(int(child)))
    (tmp_path / "go").touch()
    found = await ended(store)
    assert (found.state, found.crashes) == ("done", 1)


async def test_cancel_while_the_module_loads_keeps_the_job_from_running(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_WAITS", str(tmp_path / "loaded"))
    enqueue(store, tmp_path / "marks", ("wait", str(tmp_path / "never")))
    jobs, _ = start()
    await until(lambda: jobs._processes)
    with in_a_thread(store.transaction()) as effect:
        assert effect.cancel("steps", "1")
    await until(lambda: all(process._early for process in jobs._processes.values()))
    (tmp_path / "loaded").touch()
    await until(lambda: not jobs._running)
    assert (row(store).state, heard.results, heard.failures) == ("canceled", [], [])


async def test_a_job_leads_its_group_and_inherits_nothing_of_its_server(
    store: Store, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    enqueue(store, tmp_path / "marks", ("wait", str(tmp_path / "go")), job="other")
    enqueue(store, tmp_path / "marks", ("surroundings",))
    start(parallel=2)
    await ended(store)
    (tmp_path / "go").touch()
    assert heard.results == [{"stdin": "", "leads": True, "holds": ["pipe"]}]  # that of its messages


async def test_kinds_of_one_child_share_its_fork_server_and_the_last_ends_it(
    store: Store, heard: Heard, tmp_path: Path
) -> None:
    child = Child("steps_job", environment={"PYTHONPATH": str(tmp_path)})
    callbacks = Callbacks(heard.on_result, heard.on_failure)
    pids, tasks = {}, {}
    for kind in ("steps", "others"):
        enqueue(store, tmp_path / kind, ("wait", str(tmp_path / "go")), job=kind, kind=kind)
        tasks[kind] = asyncio.create_task(Jobs(kind, child, callbacks, store=store).run())
        [pids[kind]] = await until(lambda kind=kind: marked(tmp_path / kind, "pid"))  # type: ignore[misc]
    server, other = (psutil.Process(int(pid)).ppid() for pid in pids.values())
    assert server == other
    await end(tasks["others"])
    (tmp_path / "go").touch()
    assert (await ended(store, "steps")).state == "done"
    assert lives(server)
    await end(tasks["steps"])
    assert not lives(server)


SERVICE = """
    import asyncio, sys
    from penstock.runtime.jobs.process import Child
    from penstock.runtime.jobs.worker import Callbacks, Jobs
    from penstock.runtime.store import Store

    async def main(url, path):
        told = lambda *said: print("told", *said[:2], flush=True)
        child = Child("steps_job", environment={"PYTHONPATH": path})
        jobs = Jobs("steps", child, Callbacks(told, told), store=Store.open(url), owner="me")
        await jobs.run()

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_killing_the_service_kills_the_child_and_its_next_life_goes_on(
    store: Store, database: str, heard: Heard, start: Callable[..., Any], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    (tmp_path / "service.py").write_text(textwrap.dedent(SERVICE))
    enqueue(store, marks, ("wait", str(tmp_path / "go")))
    service = subprocess.Popen([sys.executable, tmp_path / "service.py", database, str(tmp_path)])  # noqa: ASYNC220
    try:
        [child] = await until(lambda: marked(marks, "pid"))
        os.kill(service.pid, signal.SIGKILL)
        await until(lambda: not lives(int(child)))
    finally:
        service.kill()
        service.wait()
    (tmp_path / "go").touch()
    start(owner="me", attempts=1)
    assert (await ended(store)).state == "done"
    assert [result["attempt"] for result in heard.results] == [2]
