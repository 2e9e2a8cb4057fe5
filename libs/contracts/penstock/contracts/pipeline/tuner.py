"""`tuner`: how `penstock tune` looks for better values. A search, a pruner or a rule that chooses is a
class, and its place in its union.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from penstock.contracts.formula import parse
from penstock.contracts.pipeline.base import Duration, FieldName, Memory, Model
from penstock.contracts.pipeline.variants import OneOf


def _formula(text: str) -> str:
    parse(text)
    return text


FormulaText = Annotated[str, AfterValidator(_formula)]

DEFAULT_TIME = timedelta(minutes=10)


class Budget(Model):
    """A study ends with the first of these that is spent; running trials are let finish."""

    trials: int | None = Field(default=None, ge=1, le=10_000)
    """Trials, the one with the file's own values among them."""
    time: Duration | None = None
    """The whole study's, preparation included; ten minutes where `trials` is left out, too. No trial has
    a time of its own: it ends where its model stops improving, or is ended when it says nothing for
    ten minutes.
    """
    memory: Memory | None = None
    """The most that a trial may take, as in `2GB`: over it the trial fails, and no other."""
    patience: int | None = Field(default=None, ge=1)
    """Ended trials in a row none of which is better than the best before them."""

    @property
    def longest(self) -> timedelta | None:
        """Time that the study may take; None where trials alone end it."""
        return self.time or (DEFAULT_TIME if self.trials is None else None)


class Evaluate(Model):
    folds: int | None = Field(default=None, ge=1, le=20)
    """Parts that the train and validation rows are cut into by entity: a trial is measured on each in
    turn. 1 takes the two splits as they are; by default 1, below 20,000 rows 5. Not with
    `split.by: time`.
    """


class NoPruner(Model):
    """Trains every trial to its end."""

    type: Literal["none"] = "none"


class Asha(Model):
    """Stops a trial that at a rung is not among the best of those that came so far (Li et al. 2020).
    A trial keeps the length that it was planned with: rungs are shares of that.
    """

    type: Literal["asha"]
    reduction: int = Field(default=3, ge=2, le=10)
    """Trials of which one goes on; each rung is as many times as far as the one before."""
    rungs: int = Field(default=2, ge=1, le=5)
    """The last one is at the `reduction`-th part of the planned epochs."""


class MedianStopping(Model):
    """Stops a trial that at a rung is worse than half of the others were there (Golovin et al. 2017)."""

    type: Literal["median"]
    rungs: int = Field(default=9, ge=1, le=19)
    """Equal distances of them over the planned epochs."""
    trials: int = Field(default=5, ge=1)
    """Others that must have come as far before one is stopped."""


Pruner = Annotated[NoPruner | Asha | MedianStopping, OneOf(alone=True)]
"""`penstock_tuner.search.pruners` has a file for each."""


class Limits(Model):
    """The trial that is best in one objective among those that keep the limits of others."""

    type: Literal["limits"] = "limits"
    minimize: FieldName
    """Name of the objective."""
    at_most: dict[FieldName, float] = Field(default_factory=dict)
    """Names of other objectives, each with the most that it may be."""


class Knee(Model):
    """The trial nearest to the best of all objectives at once, each scaled from the front's best to its
    worst.
    """

    type: Literal["knee"]


Choose = Annotated[Limits | Knee, OneOf()]


class TrialEnsemble(Model):
    """Trial after the budget's: the average of the best trials' models. It is taken where it is
    better than each of them.
    """

    members: int = Field(default=8, ge=2, le=16)
    """The most trials that are averaged. How much each counts is chosen greedily on the validation rows."""
    latency: Duration | None = None
    """The most that a row may take: `5ms`. It takes about as long as in all members together."""

    @property
    def most_us(self) -> float:
        """Microseconds that a row may take."""
        return math.inf if self.latency is None else self.latency / timedelta(microseconds=1)


class Search(Model):
    budget: Budget = Budget()
    evaluate: Evaluate = Evaluate()
    at_once: int | None = Field(default=None, ge=1, le=256)
    """Trials that run at the same time; by default one for each processor core, in a container as many as
    its memory has room for.
    """
    seed: int = Field(default=7, ge=0, lt=2**31)
    """Seed of the search. Trials are seeded by `training.seed`."""
    space: dict[str, JsonValue] = Field(default_factory=dict)
    """Values to try, in the file's own sections `model`, `trainer` and `features`: a list of values, or
    `{low, high}`, with `log: true` by orders of magnitude; a value alone stays. A section that comes in
    types holds them by name, `model: {mlp: {dropout: {low: 0, high: 0.5}}, linear: {}}`; so they are
    chosen, too. Without `model` the file's own family is searched. Default: `boosted_trees`, `mlp`,
    `linear` and the file's own family, with ranges that suit them.
    """


class OneObjective(Search):
    """A search that can minimise one formula."""

    minimize: FormulaText = "train_loss + 50 * validation_loss"
    """Formula over losses and measures; the losses are plain: without weights, penalty and dropout.
    Measures are those of the validation rows, between groups `equalized_odds_difference.sex`; there is
    `latency_us`, and `processor_s` of the training.
    """
    pruner: Pruner = NoPruner()
    ensemble: TrialEnsemble | None = Field(default=None, exclude_if=lambda said: said is None)
    """An ensemble of the trials may be taken, too."""


class Objectives(Search):
    """A search that can minimise several formulas side by side."""

    objectives: Annotated[dict[FieldName, FormulaText], Field(max_length=4)] = Field(default_factory=dict)
    """Names to formulas like that of `minimize`, each to be as small as possible:
    `{quality: 1 - auroc, fairness: equalized_odds_difference.sex}`.
    """
    choose: Choose = Knee(type="knee")
    """Trial of the front that is taken: of those trials to which none is better in all objectives."""


class Tpe(OneObjective, Objectives):
    """Bayesian: tries next what is likelier among good trials than among others (tree-structured Parzen
    estimator, Bergstra et al. 2011), by Optuna.
    """

    type: Literal["tpe"] = "tpe"


class RandomSearch(OneObjective, Objectives):
    """Draws each trial from the whole space, whatever the others were."""

    type: Literal["random"]


class Genetic(Objectives):
    """Crosses and mutates the best trials, for several objectives (NSGA-II, Deb et al. 2002)."""

    type: Literal["genetic"]
    population: int = Field(default=16, ge=4, le=1000)
    """Trials that parents are taken from; as many are drawn at random first."""


class Evolution(OneObjective):
    """Mutates the best of a few of the newest trials, for one objective (aging evolution, Real et al.
    2019).
    """

    type: Literal["evolution"]
    population: int = Field(default=8, ge=2, le=1000)
    """Newest trials that one may descend from; as many are drawn at random first."""
    sample: int = Field(default=3, ge=1)
    """Trials of these that are drawn; the best of them is mutated."""


Tuner = Annotated[Tpe | RandomSearch | Genetic | Evolution, OneOf()]
"""`penstock_tuner.search` has a file for each."""


def formulas(tuner: Search) -> dict[str, str]:
    """Objectives by name, each to be minimised; the formula of `minimize` goes by that name."""
    objectives = tuner.objectives if isinstance(tuner, Objectives) else {}
    if objectives or not isinstance(tuner, OneObjective):
        return dict(objectives)
    return {"minimize": tuner.minimize}
