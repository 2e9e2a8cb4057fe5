"""`model: {type: ensemble}`: several models, trained one after the other, whose answers are averaged.

R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes, *Ensemble Selection from Libraries of Models*
(ICML 2004).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Ensemble, Pipeline
from penstock.contracts.planning import planned
from penstock.modelkit.build import treated
from penstock.modelkit.family import Description, Epoch, Family, Prepared, Trained, family_of
from penstock.modelkit.features import Features, Inputs, Value, transform
from penstock.modelkit.graph import Array, Graph
from penstock.modelkit.metrics import loss
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import Rows

ROUNDS = 50  # a weight is a multiple of 1/50 or coarser


@dataclass(frozen=True)
class Member:
    """A trained model with its own treatment of the features, and its share of the answer."""

    name: str
    family: Family
    fitted: Preprocessing
    model: Trained
    weight: float = 0.0

    def predict(self, rows: Rows) -> Array:
        return self.model.predict(transform(self.fitted, rows, self.family.inputs))

    def compile(self, graph: Graph) -> str:
        inputs = self.family.inputs(Features(graph, self.fitted))
        answers = self.model.compile(graph, {name: value.name for name, value in inputs.items()})
        return graph.op("Mul", answers, graph.constant(self.weight, np.float32))


@dataclass(frozen=True)
class TrainedEnsemble:
    members: tuple[Member, ...]
    history: tuple[Epoch, ...]

    @property
    def used(self) -> list[Member]:
        return [member for member in self.members if member.weight]

    def predict(self, inputs: Inputs) -> Array:
        numbers, strings = (np.asarray(inputs[name]) if name in inputs else None for name in ("raw", "texts"))
        count = len(next(part for part in (numbers, strings) if part is not None))
        rows = Rows(
            np.empty((count, 0)) if numbers is None else numbers,
            np.empty((count, 0), dtype=object) if strings is None else strings,
            np.zeros(count),
            {},
        )
        found: Array = np.sum([member.weight * member.predict(rows) for member in self.used], axis=0)
        return found

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        return graph.op("Sum", *(member.compile(graph) for member in self.used))

    def digest(self) -> str:
        told = "".join(f"{member.weight!r} {member.model.digest()}\n" for member in self.members)
        return f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"

    def describe(self) -> Description:
        told = {member.name: member.model.describe() for member in self.used}
        shares = ", ".join(f"{member.weight:.0%} {told[member.name].kind}" for member in self.used)
        out = " and ".join(f"`{member.name}`" for member in self.members if not member.weight)
        words = tuple(told.values())
        return Description(
            kind=f"ensemble, the average of {shares}{f'; {out} would not have helped' if out else ''}",
            training="; ".join(each.training for each in words),
            library=" and ".join(dict.fromkeys(each.library for each in words)),
            limits=tuple(dict.fromkeys(limit for each in words for limit in each.limits)),
            pictures=tuple(picture for each in words for picture in each.pictures),
        )


class EnsembleFamily:
    spec = Ensemble

    def inputs(self, features: Features) -> dict[str, Value]:
        """Raw values: each member treats them as it would alone."""
        return features.untreated()

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> TrainedEnsemble:
        """`checkpoint` is a folder here, with a file a member: one that is trained is read from it."""
        training, validation = (part.rows.sampled() for part in (prepared.train, prepared.validation))
        plans = [planned(each, len(training)).pipeline for each in pipeline.members()]
        epochs = sum(plan.trainer.epochs for plan in plans)
        history: list[Epoch] = []
        members = []
        for number, plan in enumerate(plans):
            last = history[-1] if history else None

            def tell(epoch: Epoch, last: Epoch | None = last) -> None:
                before, elapsed = (last.number, last.elapsed_s) if last else (0, 0.0)
                history.append(
                    replace(
                        epoch,
                        number=before + epoch.number,
                        epochs=epochs,
                        elapsed_s=elapsed + epoch.elapsed_s,
                    )
                )
                on_epoch(history[-1])

            own = treated(plan, prepared.signature, training, validation)
            family = family_of(plan.model)
            kept = checkpoint / str(number) if checkpoint else None
            model = family.fit(plan, own, checkpoint=kept, on_epoch=tell)
            members.append(Member(plan.model.type, family, own.preprocessing, model))
        answers = [member.predict(validation) for member in members]
        weights = select(answers, validation, pipeline.target.type)
        weighed = (replace(one, weight=weight) for one, weight in zip(members, weights, strict=True))
        return TrainedEnsemble(tuple(weighed), tuple(history))


def select(answers: Sequence[Array], rows: Rows, task: Task) -> list[float]:
    """Weights, of which some may be 0, that make the average of these answers good.

    Greedy selection with replacement: the member that lowers the loss of these rows most is added,
    again and again; of all averages on the way the best is kept, of equal ones the first.
    """
    counts, total = np.zeros(len(answers)), np.zeros_like(answers[0])
    best, lowest = counts, np.inf
    for taken in range(1, ROUNDS + 1):
        losses = [loss(task, rows.labels, (total + one) / taken, rows.weights) for one in answers]
        chosen = int(np.argmin(losses))
        counts = counts + np.eye(len(answers))[chosen]
        total = total + answers[chosen]
        if losses[chosen] < lowest:
            best, lowest = counts, losses[chosen]
    weights: list[float] = (best / best.sum()).tolist()
    return weights


FAMILY: Family = EnsembleFamily()
