"""Graphs of packages, loaded to be asked. One that was made elsewhere is somebody's program: it runs
in a process of its own (`python -m penstock_ethics_audit.graphs`), which can open no file and has
bounds of memory and time.

Model, rows and answers go through pipes, as arrays without pickles.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid, Refused
from penstock.packages.confined import confine, wants_too_much
from penstock.packages.format import Package
from penstock.runtime.forking import tie_to
from penstock.runtime.jobs.policy import how_it_died

ANSWER_S = 60.0  # longest time for an answer, of a few thousand rows at most
ALL_S = 3600.0  # of a processor, for all answers together
MESSAGE_BYTES = 1 << 30
REMEDY = "Import a graph that answers all rows alike"

Array = NDArray[Any]


class Graph(Protocol):
    """ONNX Runtime's session, or what stands for one."""

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> Sequence[Array]:
        """Raises whatever ONNX Runtime raises; Refused where a bound is broken."""


@contextlib.contextmanager
def opened(package: Package) -> Iterator[Graph]:
    """Loads the package's model. Raises Invalid where it does not load, Refused where one that was made
    elsewhere breaks a bound.
    """
    if package.origin is None:
        yield load(package.model)
    else:
        with ConfinedGraph(package.model.read_bytes(), ANSWER_S) as graph:
            yield graph


def load(model: Path) -> Graph:
    """A session in this process. Raises Invalid."""
    with _loading():
        found: Graph = _session(str(model))
        return found


class ConfinedGraph:
    """A graph in a confined process, which ends with the context or with the first bound that it breaks."""

    def __init__(self, model: bytes, seconds: float) -> None:
        """`seconds` for an answer."""
        self._model = np.frombuffer(model, np.uint8)
        self._seconds = seconds

    def __enter__(self) -> ConfinedGraph:
        command = [sys.executable, "-m", "penstock_ethics_audit.graphs", str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert self._process.stdout
            self._process.stdout.readline()  # its libraries are loaded: what is waited for now is the graph
            with _loading():
                self._ask({"model": self._model})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> Sequence[Array]:
        found = self._ask(
            {name: _of_texts(values) if values.dtype == object else values for name, values in feed.items()}
        )
        return [found[name] for name in names]

    def _ask(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        assert self._process.stdin
        assert self._process.stdout
        late, began = threading.Timer(self._seconds, self._process.kill), time.monotonic()
        late.start()
        try:
            _write(self._process.stdin, arrays)
            found = _read(self._process.stdout)
        except Exception as error:  # whatever a process that died half-way left
            if time.monotonic() - began >= self._seconds:
                said = f"does not answer within {self._seconds:g} s"
            else:
                self._process.kill()
                said = f"ends the process that runs it, which {how_it_died(self._process.wait())}"
            raise _refused(said) from error
        finally:
            late.cancel()
        if "refused" in found:
            raise _refused(_text(found["refused"]))
        if "failed" in found:
            raise RuntimeError(_text(found["failed"]))
        return found


def _refused(said: str) -> Refused:
    return Refused(f"the graph was made elsewhere, and {said}", where="model.onnx", remedy=REMEDY)


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # ONNX Runtime's own errors share no base
        raise Invalid(
            f"the packaged graph does not load: {error}", where="model.onnx", remedy="Train again"
        ) from error


def _session(model: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# -- messages: eight bytes of length, then arrays; texts as JSON ------------------------------------


def _write(to: IO[bytes], arrays: Mapping[str, Array]) -> None:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    to.write(len(packed.getbuffer()).to_bytes(8, "big"))
    to.write(packed.getbuffer())
    to.flush()


def _read(source: IO[bytes]) -> dict[str, Array]:
    length = int.from_bytes(source.read(8) or b"\xff" * 8, "big")
    data = source.read(length) if length <= MESSAGE_BYTES else b""
    if len(data) < length:
        raise EOFError
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


def _of_texts(values: Array | str) -> Array:
    said = values if isinstance(values, str) else values.tolist()
    return np.frombuffer(json.dumps(said).encode(), np.uint8)


def _text(found: Array) -> str:
    return str(json.loads(found.tobytes()))


# -- in the confined process -----------------------------------------------------------------------


def main() -> None:
    tie_to(int(sys.argv[1]))
    print(flush=True)
    arrays = _read(sys.stdin.buffer)
    confine(ALL_S)
    session: Any = None
    with contextlib.suppress(EOFError):
        while True:
            found: dict[str, Array] = {}
            try:
                if session is None:
                    session = _session(arrays["model"].tobytes())
                else:
                    found = _answers(session, arrays)
            except Exception as error:
                said = "wants more memory than it may have" if wants_too_much(error) else str(error)[:1000]
                found = {"refused" if wants_too_much(error) else "failed": _of_texts(said)}
            _write(sys.stdout.buffer, found)
            arrays = _read(sys.stdin.buffer)


def _answers(session: Any, feed: dict[str, Array]) -> dict[str, Array]:
    if "strings" in feed:
        feed["strings"] = np.array(json.loads(feed["strings"].tobytes()), dtype=object)
    outputs = [one.name for one in session.get_outputs()]
    found = zip(outputs, session.run(outputs, feed), strict=True)
    return {name: values.astype(str) if values.dtype == object else values for name, values in found}


if __name__ == "__main__":
    main()
