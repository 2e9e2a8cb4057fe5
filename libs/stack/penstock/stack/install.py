"""Installs the parts of the embedded stack: `python -m penstock.stack.install`. Says first which
and how large they are; is quick when they are all there.

Kafka's jars as locked, each checked by its digest; Triton's environment as locked; and the JVM's
cache that makes Kafka start in a second.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts.errors import PenstockError
from penstock.stack import fitness, jars, ports
from penstock.stack.kafka import GUARDED, Broker, topics
from penstock.stack.places import Places

# Megabytes of the wheels of deploy/triton.lock, and of the environment that is made of them.
TRITON_MB = 75
TRITON_DISK_MB = 310

_BROKER_WITHIN_S = 120.0  # a second's work; the machine may have much else to do


@dataclass(frozen=True)
class Part:
    """Part that is to be installed."""

    what: str
    size: str
    install: Callable[[Places], None]
    without: str = ""
    """State of the stack without it, where it can do without."""


def missing(places: Places) -> list[Part]:
    """Lists the parts that are not there yet, in the order in which they must be installed."""
    parts = []
    if absent := jars.missing(places):
        size = f"{sum(jar.size for jar in absent) / 1e6:.0f} MB to download"
        parts.append(Part(f"Apache Kafka: {len(absent)} jars", size, _fetch_jars))
    if not _says(_triton_stamp(places), _digest(places.triton_lock)):
        size = f"{TRITON_MB} MB to download, {TRITON_DISK_MB} MB on disk"
        parts.append(Part("Triton and its own Python environment", size, _build_triton))
    if not ((places.kafka / "kafka.aot").is_file() and _says(_aot_stamp(places), _aot_identity(places))):
        parts.append(
            Part(
                "a start-up cache for Kafka",
                "about 60 MB, written here in some 8 s on an idle machine",
                _record_aot,
                without="Kafka starts some seconds later; the next `make setup` tries again",
            )
        )
    return parts


def install(say: Callable[[str], None] = print) -> None:
    """Installs what is missing. Raises Conflict on an unfit machine, Unavailable without a network,
    Tampered for a wrong digest.
    """
    fitness.check()
    places = Places.find()
    parts = missing(places)
    if not parts:
        return
    say("The embedded stack still needs:")
    for part in parts:
        say(f"  {part.what}: {part.size}")
    for part in parts:
        began = time.monotonic()
        try:
            part.install(places)
        except PenstockError as error:
            if not part.without:
                raise
            say(f"  {part.what}: not made, {error.message}. {part.without}")
        else:
            say(f"  {part.what}: done in {time.monotonic() - began:.0f} s")


def _fetch_jars(places: Places) -> None:
    total = len(jars.missing(places))
    for done, jar in enumerate(jars.fetch(places), 1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r  {done}/{total} {jar.artifact[:40]:40}" + ("\n" if done == total else ""))


def _triton_stamp(places: Places) -> Path:
    return places.triton_venv / ".installed"


def _build_triton(places: Places) -> None:
    """Makes Triton's environment from scratch: a half-built one is never mended."""
    venv = places.triton_venv
    shutil.rmtree(venv, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    uv = Path(sys.executable).with_name("uv")
    # Compiled now: each model's stub imports NumPy anew.
    checked = ["--no-deps", "--require-hashes"]
    flags = ["--quiet", *checked, "--compile-bytecode", "--python", str(venv / "bin" / "python")]
    command = [str(uv) if uv.is_file() else "uv", "pip", "install"]
    _run([*command, *flags, "-r", str(places.triton_lock)])
    _triton_stamp(places).write_text(_digest(places.triton_lock))


def _aot_stamp(places: Places) -> Path:
    return places.kafka / "kafka.aot.for"


def _aot_identity(places: Places) -> str:
    """Identity of the cache: it holds for one JVM, one class path and one set of flags, and has the
    classes that one configuration needs.
    """
    flags = "\0".join(Broker(Path("/nowhere"), 1, 2, places=places).java())
    return hashlib.sha256(f"{flags}{_digest(places.kafka_lock)}{GUARDED}".encode()).hexdigest()


def _record_aot(places: Places) -> None:
    """Starts and stops a broker that nobody uses, so that the JVM writes down what it loads."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-kafka-") as home,
        tempfile.TemporaryDirectory(prefix="aot-", dir=places.kafka) as beside,
    ):
        chosen = ports.choose({"kafka": 19592, "controller": 19593, "services": 19594})
        broker = Broker(
            Path(home), chosen["kafka"], chosen["controller"], services=chosen["services"], places=places
        )
        broker.prepare()
        new = Path(beside) / "kafka.aot"
        with (Path(home) / "broker.log").open("wb") as log:
            process = subprocess.Popen(broker.command(record_aot=new), stdout=log, stderr=subprocess.STDOUT)
            try:
                _until_answering(broker, process)
            finally:
                _end(process)
        if not new.is_file():
            raise PenstockError("the JVM wrote none", remedy="Run `make setup` again")
        new.replace(places.kafka / "kafka.aot")
    _aot_stamp(places).write_text(_aot_identity(places))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Has the broker stop, which is when the JVM writes the cache."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_BROKER_WITHIN_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise PenstockError(f"the broker did not stop within {_BROKER_WITHIN_S:.0f} s") from error


def _until_answering(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _BROKER_WITHIN_S
    while topics(broker.address, within_s=1.0) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise PenstockError("the broker did not start", remedy="Run `make setup` again")


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1000:]
        raise PenstockError(f"`{' '.join(command[:4])} …` failed: {said}", remedy="Run `make setup` again")


if __name__ == "__main__":
    try:
        install()
    except PenstockError as error:
        sys.exit(str(error))
