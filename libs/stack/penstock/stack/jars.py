"""Kafka's jars: exactly those of `deploy/kafka/jgo.lock.toml`, each checked against its SHA-256.

`python -m penstock.stack.jars` renews the lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.contracts.errors import Tampered, Unavailable
from penstock.stack.places import Places

DOWNLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Jar:
    group: str
    artifact: str
    version: str
    sha256: str
    size: int  # bytes

    @property
    def file(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(lock: Path) -> tuple[Jar, ...]:
    """Reads the locked jars, in class-path order."""
    return tuple(
        Jar(entry["groupId"], entry["artifactId"], entry["version"], entry["sha256"], entry["size"])
        for entry in tomllib.loads(lock.read_text(encoding="utf-8"))["dependencies"]
    )


def class_path(places: Places) -> str:
    """Class path for `java -cp`. The JVM's AOT cache holds for this very text."""
    return ":".join(str(places.kafka / "jars" / jar.file) for jar in read_lock(places.kafka_lock))


def missing(places: Places) -> tuple[Jar, ...]:
    """Lists the locked jars that are not installed, by name and size; `fetch` checked the digests
    of the others.
    """
    folder = places.kafka / "jars"
    present = {(path.name, path.stat().st_size) for path in folder.glob("*.jar")}
    return tuple(jar for jar in read_lock(places.kafka_lock) if (jar.file, jar.size) not in present)


def fetch(places: Places) -> Iterator[Jar]:
    """Installs what is missing, from a Maven repository on this machine or the network; yields each
    jar when it is there.

    Raises Tampered when what arrived is not what was locked, Unavailable when nothing arrived.
    """
    folder = places.kafka / "jars"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=places.kafka, prefix="maven-") as scratch,
        ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool,
    ):
        for jar, found in pool.map(lambda jar: (jar, _obtain(jar, Path(scratch))), missing(places)):
            beside = folder / f"{jar.file}.new"
            shutil.copyfile(found, beside)
            os.replace(beside, folder / jar.file)
            yield jar


def _obtain(jar: Jar, scratch: Path) -> Path:
    from jgo.constants import default_maven_repo
    from jgo.maven import MavenContext

    local = default_maven_repo() / jar.group.replace(".", "/") / jar.artifact / jar.version / jar.file
    if local.is_file() and _sha256(local) == jar.sha256:
        return local
    context = MavenContext(repo_cache=scratch, timeout=60)
    try:
        found = Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())
    except Exception as error:  # requests' and jgo's own, both untyped
        raise Unavailable(
            f"{jar} did not arrive: {error}", remedy="Check the network and run `make setup` again"
        ) from error
    if (digest := _sha256(found)) != jar.sha256:
        raise Tampered(
            f"{jar} has SHA-256 {digest}, locked is {jar.sha256}",
            where=str(jar),
            remedy="Do not use it; tell us",
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(spec: Path) -> tuple[Jar, ...]:
    """Resolves `jgo.toml` anew over the network: the root jars first, then what they need."""
    import jgo

    wanted = tomllib.loads(spec.read_text(encoding="utf-8"))["dependencies"]
    artifacts: Sequence[Any] = jgo.resolve("+".join(wanted["coordinates"]))
    paths = [Path(artifact.resolve()) for artifact in artifacts]
    return tuple(
        Jar(one.groupId, one.artifactId, one.version, _sha256(path), path.stat().st_size)
        for one, path in zip(artifacts, paths, strict=True)
    )


def write_lock(lock: Path, jars: Sequence[Jar]) -> None:
    entries = [
        f"""\
[[dependencies]]
groupId = "{jar.group}"
artifactId = "{jar.artifact}"
version = "{jar.version}"
packaging = "jar"
sha256 = "{jar.sha256}"
size = {jar.size}
"""
        for jar in jars
    ]
    header = "# Written by `make lock` from jgo.toml."
    lock.write_text("\n".join([f"{header}\n", *entries]), encoding="utf-8")


def main() -> None:
    places = Places.find()
    jars = resolve(places.kafka_lock.with_name("jgo.toml"))
    write_lock(places.kafka_lock, jars)
    print(f"{places.kafka_lock}: {len(jars)} jars, {sum(jar.size for jar in jars) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
