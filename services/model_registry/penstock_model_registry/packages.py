"""Packages in the artifact store: taken in, signed once, verified again before they are promoted or
handed out. Blocking.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.contracts.digests import digits_of
from penstock.contracts.errors import Invalid
from penstock.contracts.events import Artifact, ModelVersion, TrainingRunCompleted
from penstock.contracts.pipeline import Pipeline
from penstock.packages import archive, signing
from penstock.packages.format import Package, open_package
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts

CHUNK_BYTES = 256 * 1024


class Packages:
    def __init__(self, artifacts: Artifacts, keys: Keys) -> None:
        self._artifacts = artifacts
        self._keys = keys

    def take_in(self, run: TrainingRunCompleted, applied: Pipeline) -> tuple[Artifact, str]:
        """Verifies the package that a run hands in and signs it; returns the signature and its key's
        id.

        Raises Tampered or Invalid for a package that must not be registered, NotFound where it is
        gone, Unavailable without the store.
        """
        with self._unpacked(run.package, run.digest) as package:
            package.check()
            _fits(package, run, applied)
            signer = self._keys.signer("registry")
            signature = package.directory.parent / archive.MODEL_SIGNATURE
            signing.sign_package(package.directory, signature, signer)
            content = signature.read_bytes()
        # Signing again gives other bytes; under a name of their own they cannot replace those that
        # were registered.
        name = f"signatures/{digits_of(run.digest)}/{hashlib.sha256(content).hexdigest()[:16]}.sig"
        return self._artifacts.put_bytes(name, content), signer.keyid

    def verify(self, version: ModelVersion) -> str:
        """Fetches the package again and verifies every hash and the signature; returns the digest
        found. Raises as `take_in`.
        """
        with self._verified(version) as (package, _):
            return package.digest

    def stream(self, version: ModelVersion) -> Generator[bytes, None, None]:
        """The verified package with `model.sig` beside it, as a tar in chunks."""
        with self._verified(version) as (package, signature):
            tar = package.directory.parent / "signed.tar"
            archive.pack_signed(package.directory, signature, tar)
            with tar.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

    @contextmanager
    def _verified(self, version: ModelVersion) -> Iterator[tuple[Package, Path]]:
        with self._unpacked(version.package, version.digest) as package:
            signature = self._artifacts.fetch(
                version.signature, package.directory.parent / archive.MODEL_SIGNATURE
            )
            signing.verify_package(
                package.directory, signature, self._keys.trust(), version.digest, version.keyid
            )
            yield package, signature

    @contextmanager
    def _unpacked(self, artifact: Artifact, digest: str) -> Iterator[Package]:
        with tempfile.TemporaryDirectory(prefix="penstock-registry-") as scratch:
            tar = self._artifacts.fetch(artifact, Path(scratch, "package.tar"))
            directory = Path(scratch, archive.PACKAGE_FOLDER)
            archive.unpack(tar, directory)
            yield open_package(directory, digest)


def _fits(package: Package, run: TrainingRunCompleted, applied: Pipeline) -> None:
    """The package is of this run, and asks for what the pipeline asks: a run's overrides must not
    soften the audit.
    """
    if package.pipeline.pipeline != run.pipeline:
        raise Invalid(
            f"the package is of pipeline {package.pipeline.pipeline!r}, the run of {run.pipeline!r}"
        )
    if package.training_set.fingerprint != run.training_set.fingerprint:
        raise Invalid("the package was trained on another training set than the run says")
    for section in ("entities", "sources", "targets", "audit"):
        if getattr(package.pipeline, section) != getattr(applied, section):
            raise Invalid(
                f"the package's pipeline has another `{section}` than pipeline number {run.pipeline_number}"
            )
