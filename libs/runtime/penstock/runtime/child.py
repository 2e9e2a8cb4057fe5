"""The child's side of a job: `python -m penstock.runtime.child <module> <parent's pid>` runs a
module that calls `job_main(run)`, which forks a process for each job.

Answers go as JSON lines into a pipe of their own, so a library that prints harms nothing: standard
output is standard error here. Little is imported before the process is tied to its parent's life,
and never what no job calls: pyarrow, LightGBM and MLflow load pandas and scikit-learn where they are
installed, a second of a processor and 80 MB.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from pydantic_core import to_jsonable_python

from penstock.contracts.errors import Kind, PenstockError, error_of
from penstock.runtime.forking import STOPPED, forked, tie_to
from penstock.runtime.loading import UNUSED, do_without
from penstock.runtime.spent import spent

# Characters of each text of an error, most of which a job reads in a file from outside: a service
# states it in an event, and Kafka takes no event of over 1 MiB.
LONGEST_TEXT = 2000
_TELLING = threading.Lock()


@dataclass(frozen=True)
class JobContext:
    """Argument of a job's function. `attempt` is 1 at the first start; above it, go on from the last
    checkpoint. `settings` are those that `job_main(run, settings=Settings)` made, else None.
    """

    id: str
    kind: str
    payload: Mapping[str, Any]
    attempt: int
    settings: Any
    _channel: IO[str] = field(repr=False)

    def progress(self, message: Mapping[str, Any]) -> None:
        """Tells the service, in order; models go as JSON too. Blocks while the service is slow.
        After a crash the next attempt may tell the same again.
        """
        _say(self._channel, {"progress": dict(message)})


def _say(channel: IO[str], line: Mapping[str, Any]) -> None:
    text = json.dumps(line, default=to_jsonable_python)
    with _TELLING:
        channel.write(text + "\n")
        channel.flush()


def job_main(
    run: Callable[[JobContext], Mapping[str, Any]], *, settings: Callable[[], Any] | None = None
) -> None:
    """The one call of a job's module. What `run` returns is the result, JSON for the service's `on_result`.

    A PenstockError arrives there with kind, message and remedy; any other exception as an internal
    error, its traceback in the log. SIGTERM raises SystemExit in `run`: clean up within a few
    seconds, the job goes back to the queue.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    request, messages = forked()
    gc.enable()
    before = frozenset(sys.modules)
    with os.fdopen(messages, "w") as channel:
        flush = _observe(request)
        try:
            about = (request["job_id"], request["kind"], request["payload"], request["attempt"])
            job = JobContext(*about, settings() if settings is not None else None, channel)
            _say(channel, {"result": dict(_traced(run, job, request)), **_spent(before)})
        except Exception as error:
            traceback.print_exc()
            _say(channel, {"error": error_said(error), **_spent(before)})
        finally:
            flush()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # what was loaded needs no taking down


def _spent(before: Collection[str]) -> dict[str, Any]:
    """The job's cost, and what it loaded: the jobs after it are forked with that. A package that is new
    brings its modules along; of one that was there, they are named.
    """
    packages = {module.partition(".")[0] for module in before}
    loaded = [
        module
        for module in sys.modules
        if module not in before and ("." not in module or module.partition(".")[0] in packages)
    ]
    try:
        return {"loaded": loaded, "cost": spent("self")}
    except OSError:  # a kernel without /proc
        return {"loaded": loaded}


def error_said(error: BaseException) -> dict[str, Any]:
    """The error as a child tells it: kind, message, where, remedy; internal for one that is not
    ours. What is longer than `LONGEST_TEXT` is cut.
    """
    if isinstance(error, PenstockError):
        kind, message, where, remedy = error.kind, error.message, error.where, error.remedy
    else:
        kind, message = Kind.INTERNAL, "".join(traceback.format_exception_only(error)).strip()
        where = remedy = None
    texts = {"message": message, "where": where, "remedy": remedy}
    return {"kind": kind.value} | {name: text and _cut(text) for name, text in texts.items()}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def error_heard(said: Mapping[str, Any]) -> PenstockError:
    """Makes the error again that `error_said` told."""
    return error_of(Kind(said["kind"]), said["message"], where=said["where"], remedy=said["remedy"])


def _observe(request: Mapping[str, Any]) -> Callable[[], object]:
    if request["traces"] is None:
        return lambda: None
    from penstock.runtime.logging import configure_logging
    from penstock.runtime.telemetry import configure_telemetry

    configure_logging(request["service"], request["log_level"])
    return configure_telemetry(request["service"], Path(request["traces"]))


def _traced(
    run: Callable[[JobContext], Mapping[str, Any]], job: JobContext, request: Mapping[str, Any]
) -> Mapping[str, Any]:
    if request["traces"] is None and request["traceparent"] is None:
        return run(job)
    import structlog

    from penstock.runtime.telemetry import context_of, span

    parent = context_of({"traceparent": request["traceparent"]} if request["traceparent"] else {})
    about: dict[str, str | int] = {"job.id": job.id, "job.attempt": job.attempt}
    with (
        span(f"job {job.kind}", parent, **about),
        structlog.contextvars.bound_contextvars(job=job.id, attempt=job.attempt),
    ):
        return run(job)


def _on_sigterm(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(STOPPED)


if __name__ == "__main__":
    module, parent = sys.argv[1], int(sys.argv[2])
    tie_to(parent)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.argv = [module]
    gc.disable()  # until it is a job's, as penstock.runtime.loading says
    do_without(UNUSED | {"pandas", "sklearn"})
    runpy.run_module(module, run_name="__main__", alter_sys=True)
