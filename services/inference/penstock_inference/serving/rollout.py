"""Rollout of model versions on Triton: tried under a name of its own, switched to, put back,
removed.

A new version is loaded beside the old one and must answer the package's probe rows before the old
one goes: each request is answered by one of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from penstock.contracts.errors import TREATMENTS, PenstockError, Refused, Unavailable
from penstock.serving.model import Model
from penstock.serving.probes import batches, difference
from penstock_inference.serving.reconcile import CANDIDATE
from penstock_inference.serving.repository import Device, ModelRepository, model_config
from penstock_inference.serving.triton import Triton


class Rollout:
    """Rollout on one Triton, through the model repository that it reads. Methods raise Unavailable
    while Triton is away.
    """

    def __init__(self, triton: Triton, repository: ModelRepository, device: Device = "cpu") -> None:
        self.triton = triton
        self._repository = repository
        self._device = device

    async def answers(self, model: Model) -> bool:
        """Tells whether one real inference gives the expected answer: ModelReady stays true when the
        model's process was killed. Raises what Triton says against it.
        """
        row = next(batches(model.package.profile.probes, 1))
        answers = await self.triton.infer(model.pipeline, model.generation, row.numbers, row.strings)
        return difference(row, answers, model.package.profile.probes.tolerance) is None

    async def try_candidate(self, model: Model) -> None:
        """Loads the version under a name that nobody knows, and probes it. Raises Refused."""
        name = f"{model.pipeline}{CANDIDATE}{secrets.token_hex(8)}"
        await asyncio.to_thread(self._place, name, model, (model.generation,))
        try:
            await self._load_new(name, model)
        except PenstockError:
            with contextlib.suppress(PenstockError):  # the first says what is wrong
                await self.drop(name)
            raise
        await self.drop(name)

    async def add(self, old: Model | None, new: Model) -> None:
        """Loads `new` beside `old`, and probes it; from then on it answers. On failure `old` goes
        on alone. Raises Refused.
        """
        pipeline = new.pipeline
        # Triton knows one configuration a model: versions that are called differently cannot be
        # loaded together.
        together = old is not None and self._config(pipeline, old) == self._config(pipeline, new)
        versions = (old.generation, new.generation) if old and together else (new.generation,)
        if old and old.generation not in self._repository.versions(pipeline):
            await asyncio.to_thread(self._place, pipeline, old, versions)
        await asyncio.to_thread(self._place, pipeline, new, versions)
        try:
            await self._load_new(pipeline, new)
        except PenstockError:
            await (self.keep_only(old) if old else self.drop(pipeline))
            raise

    async def keep_only(self, model: Model) -> set[int]:
        """Unloads and removes every other generation; what is in flight on them is answered first.
        Returns them.
        """
        pipeline, generation = model.pipeline, model.generation
        await asyncio.to_thread(
            self._repository.configure, pipeline, self._config(pipeline, model, generation)
        )
        await self.triton.load(pipeline)
        others = self._repository.versions(pipeline) - {generation}
        await asyncio.to_thread(self._repository.remove_versions, pipeline, others)
        return others

    async def restore(self, model: Model) -> None:
        """Writes the verified bytes again, loads and probes them: nothing that lay on the disk
        meanwhile is trusted.
        """
        await asyncio.to_thread(self._place, model.pipeline, model, (model.generation,))
        await self.triton.load(model.pipeline)
        await self._probe(model.pipeline, model)

    async def heal(self, model: Model) -> None:
        """Repairs a model whose process was killed; to load it again alone would not."""
        await self.triton.unload(model.pipeline)
        await self.restore(model)

    async def drop(self, name: str) -> None:
        """Unloads and removes a model."""
        await self.triton.unload(name)
        await asyncio.to_thread(self._repository.remove, name)

    def remove_candidates(self) -> None:
        """Removes from the disk what a crash of this service left there. Blocks."""
        for name in self._repository.names():
            if CANDIDATE in name:
                self._repository.remove(name)

    async def _load_new(self, name: str, model: Model) -> None:
        # Any error but Triton's absence refuses the version.
        try:
            await self.triton.load(name)
        except Unavailable:
            raise
        except PenstockError as error:
            raise Refused(f"Triton does not load it: {error.message}") from error
        await self._probe(name, model)

    async def _probe(self, name: str, model: Model) -> None:
        # All probe rows are asked for: an answer that is not the package's refuses the version.
        probes = model.package.profile.probes
        for rows in batches(probes, model.package.pipeline.serving.batch.max_size):
            try:
                answers = await self.triton.infer(name, model.generation, rows.numbers, rows.strings)
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    raise
                raise Refused(f"it does not answer the probe rows: {error.message}") from error
            if wrong := difference(rows, answers, probes.tolerance):
                raise Refused(f"it does not answer as its package says: {wrong}")

    def _place(self, name: str, model: Model, versions: tuple[int, ...]) -> None:
        self._repository.place(name, model.generation, model.package.read("model.onnx"))
        self._repository.configure(name, self._config(name, model, *versions))

    def _config(self, name: str, model: Model, *versions: int) -> str:
        return model_config(
            name, model.package.signature, model.package.pipeline.serving.batch, versions, self._device
        )
