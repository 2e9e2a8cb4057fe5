"""Admission of a promoted version: everything is verified here, where the model is loaded.

The promotion and its evidence are verified by the trust store, that the generation rises, the
package's bytes by their digest, and the OpenSSF signature over the package. A refusal is a
sentence, which `penstock status` shows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts.errors import PenstockError, Refused
from penstock.contracts.events import Artifact, ModelVersion, ModelVersionPromoted
from penstock.packages.archive import MODEL_SIGNATURE, PACKAGE_FOLDER, unpack
from penstock.packages.evidence import Known, admissible
from penstock.packages.format import Package, open_package
from penstock.packages.keys import Keys, Trust
from penstock.packages.signing import verify_package

Fetch = Callable[[ModelVersion, Path], tuple[Path, Path]]
"""Copies a version's package archive and its OpenSSF signature into a folder; returns both paths.
Blocks, and raises NotFound, Tampered, Unavailable.
"""

Verify = Callable[[Path, Path, Trust, str, str], None]
"""Verifies an OpenSSF signature as `verify_package` does."""


def from_artifacts(fetch: Callable[[Artifact, Path], Path]) -> Fetch:
    """Fetches what a version names from the artifact store: `from_artifacts(artifacts.fetch)`."""
    return lambda version, folder: (
        fetch(version.package, folder / "package.tar"),
        fetch(version.signature, folder / MODEL_SIGNATURE),
    )


@dataclass(frozen=True)
class Admission:
    """Verification of promoted versions, and the folder of the admitted ones,
    `<pipeline>/<generation>/package`. The trust store in the folder `keys` is read anew each time,
    so a rotation needs no restart.
    """

    fetch: Fetch
    keys: Path
    folder: Path
    verify: Verify = verify_package

    def admit(self, promotion: ModelVersionPromoted, known: Known | None) -> Package:
        """Fetches and verifies a package, and keeps it in `folder`. Blocks.

        Raises Refused or Tampered with what does not hold, Unavailable while the trust store or what
        `fetch` asks is away.
        """
        version = promotion.version
        trust = Keys(self.keys).trust()
        _refuse(admissible(promotion, trust, version.digest, known))  # before anything is fetched
        kept = self._place(promotion)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".incoming-") as name:
            scratch = Path(name)
            archive, signature = self.fetch(version, scratch)
            unpack(archive, scratch / PACKAGE_FOLDER)
            archive.unlink()
            self._verify(scratch / PACKAGE_FOLDER, signature, promotion, known).check()
            shutil.rmtree(kept, ignore_errors=True)
            os.rename(scratch, kept)
            scratch.mkdir()  # for the context manager to remove
        return open_package(kept / PACKAGE_FOLDER, version.digest)

    def reopen(self, promotion: ModelVersionPromoted) -> Package:
        """Verifies a package that was admitted before, as if it were new; fetches it again where it
        is gone or damaged. Blocks. Raises what `admit` raises.
        """
        kept = self._place(promotion)
        try:
            return self._verify(kept / PACKAGE_FOLDER, kept / MODEL_SIGNATURE, promotion, None)
        except PenstockError:
            return self.admit(promotion, None)

    def stored(self, promotion: ModelVersionPromoted) -> Package:
        """Opens a package that was admitted before, and fetches nothing. Its evidence is verified anew,
        its bytes by the digest in it; the OpenSSF signature is not: it says no more of them, and
        takes 0.4 s and 35 MB. Blocks. Raises Refused, Tampered where it is damaged or gone,
        Unavailable without a trust store.
        """
        trust = Keys(self.keys).trust()
        package = open_package(self._place(promotion) / PACKAGE_FOLDER, promotion.version.digest)
        self._check_evidence(package, promotion, trust, None)
        return package

    def keep_only(self, pipeline: str, generations: Collection[int]) -> None:
        """Removes the other admitted packages of a pipeline, and what a cut-off fetch left. Blocks."""
        kept = set(map(str, generations))
        for place in (self.folder / pipeline).glob("*"):
            if place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def forget(self, pipeline: str, generation: int) -> None:
        """Removes an admitted package. Blocks."""
        shutil.rmtree(self.folder / pipeline / str(generation), ignore_errors=True)

    def _verify(
        self, directory: Path, signature: Path, promotion: ModelVersionPromoted, known: Known | None
    ) -> Package:
        trust, version = Keys(self.keys).trust(), promotion.version
        package = open_package(directory, version.digest)
        self._check_evidence(package, promotion, trust, known)
        self.verify(directory, signature, trust, version.digest, version.keyid)
        return package

    @staticmethod
    def _check_evidence(
        package: Package, promotion: ModelVersionPromoted, trust: Trust, known: Known | None
    ) -> None:
        _refuse(admissible(promotion, trust, package.digest, known, package.pipeline))
        if (found := package.pipeline.pipeline) != (wanted := promotion.version.pipeline):
            raise Refused(f"the package is of pipeline {found!r}, promoted for {wanted!r}")

    def _place(self, promotion: ModelVersionPromoted) -> Path:
        return self.folder / promotion.version.pipeline / str(promotion.generation)


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise Refused("; ".join(reasons))
