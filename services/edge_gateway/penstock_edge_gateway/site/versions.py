"""Versions on the site's disk: of each pipeline the one that serves, the last good one, and the one
that is tried next; and which was refused.

One JSON file a pipeline, replaced by rename, so that a power cut leaves the old or the new state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from penstock.contracts.errors import Tampered
from penstock.contracts.events import ModelVersionPromoted
from penstock.packages.evidence import Known
from penstock_edge_gateway.private_file import write_private


class Refusal(BaseModel):
    """Promotion that is not served here, and why."""

    model_config = ConfigDict(frozen=True)

    digest: str
    generation: int
    reason: str
    pipeline_number: int = 0  # of the file that it was made by; 0: an earlier release refused it


class Kept(BaseModel):
    """State of one pipeline at this site."""

    model_config = ConfigDict(frozen=True)

    serving: ModelVersionPromoted | None = None
    last_good: ModelVersionPromoted | None = None  # served before; takes over where `serving` fails
    newest: Known | None = None  # highest generation that was admitted: no older one is any more
    refused: Refusal | None = None  # newest that is not served, and why
    proven: int = 0  # generation whose trial ended well

    def admitted(self, promotion: ModelVersionPromoted) -> Self:
        """State once the promotion was verified: no older one is admitted any more."""
        newest = Known(promotion.generation, promotion.version.digest)
        return self.model_copy(update={"newest": newest})

    def serves(self, promotion: ModelVersionPromoted) -> Self:
        """State once `promotion` serves; what served is the last good one."""
        before = self.serving if self.serving != promotion else self.last_good
        return self.model_copy(update={"serving": promotion, "last_good": before, "refused": None})

    def refuses(self, promotion: ModelVersionPromoted, reason: str) -> Self:
        version = promotion.version
        refused = Refusal(
            digest=version.digest,
            generation=promotion.generation,
            reason=reason,
            pipeline_number=version.pipeline_number,
        )
        return self.model_copy(update={"refused": refused})

    def proves(self, generation: int) -> Self:
        """State once the trial of what serves has ended well."""
        return self.model_copy(update={"proven": generation})

    def taken_back(self, reason: str) -> Self:
        """State once the version that served is refused, and the last good one serves instead."""
        assert self.serving is not None
        update = {"serving": self.last_good, "last_good": None}
        return self.refuses(self.serving, reason).model_copy(update=update)

    def loses(self, promotion: ModelVersionPromoted, reason: str) -> Self:
        """State once a version that is kept may not serve any more."""
        if promotion == self.serving:
            return self.taken_back(reason)
        return self.model_copy(update={"last_good": None})

    @property
    def settled(self) -> int:
        """Highest generation that was admitted or refused."""
        return max((one.generation for one in (self.newest, self.refused) if one), default=0)

    @property
    def generations(self) -> set[int]:
        """Generations whose packages stay on the disk."""
        return {kept.generation for kept in (self.serving, self.last_good) if kept}


class Versions:
    """State of all pipelines, each in `<folder>/<pipeline>.json`. Methods block for the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def pipelines(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def of(self, pipeline: str) -> Kept:
        """State of a pipeline, an empty one where nothing is kept. Raises Tampered where the file
        cannot be read as one.
        """
        path = self._folder / f"{pipeline}.json"
        try:
            return Kept.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Kept()
        except ValueError as error:
            raise Tampered(f"this is no state of a pipeline: {error}", where=str(path)) from error

    def keep(self, pipeline: str, kept: Kept) -> None:
        """Durable when it returns."""
        write_private(self._folder / f"{pipeline}.json", kept.model_dump_json().encode())
