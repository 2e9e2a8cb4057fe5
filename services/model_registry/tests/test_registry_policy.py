"""Error rates of the default comparison, by simulation: two models that answer the same rows, alike
but for noise of their own, compared as the registry compares them.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from penstock.contracts.pipeline import Promotion
from penstock.measures.scores import Floats, Scores
from penstock.packages.evidence import Verdict
from penstock.testing.packages import NOW
from penstock_model_registry.comparison import Scored, best_of, compare
from penstock_model_registry.promotion import BEST_SHARE, Drop, Evidence, Promoted, weigh

AUROC = 0.8
SHARED = 0.9  # correlation of two models' noise
POLICY = Promotion()
SIZES = {300: 400, 3_000: 300, 30_000: 60}  # audits by rows
CONFIDENCE, RESAMPLES = 0.95, 200
EVIDENCE = Evidence(
    Verdict(
        pipeline="loans",
        digest="sha256:0",
        at=NOW,
        audit_id="A1",
        verdict="pass",
        gates=(),
        result_digest="sha256:0",
    )
)


class World:
    """Rows with noise that all models share."""

    def __init__(self, rows: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.truth = self.generator.integers(0, 2, rows).astype(float)
        self.noise = self.generator.normal(size=rows)

    def model(self, auroc: float) -> Scored:
        own = self.generator.normal(size=len(self.truth))
        noise = np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * own
        positive: Floats = norm.cdf(np.sqrt(2) * norm.ppf(auroc) * self.truth + noise)
        rows = np.array([f"{row:06d}" for row in range(len(positive))], np.bytes_)
        said = np.stack([1 - positive, positive], axis=1)
        units = np.arange(len(positive))
        return Scored(rows, Scores("binary", self.truth, units, probabilities=said))


def dropped(champion: Scored, challenger: Scored) -> Drop:
    return compare(champion, challenger, "auroc", confidence=CONFIDENCE, resamples=RESAMPLES)


def passes(drop: Drop) -> bool:
    return drop.interval.upper <= drop.margin(POLICY, by_data=True)


def margin(rows: int) -> float:
    """The usual margin of so many rows."""
    world = World(rows, 0)
    return float(np.mean([dropped(world.model(AUROC), world.model(AUROC)).margin(POLICY, by_data=True)]))


def shares(rows: int, audits: int) -> tuple[float, float]:
    """Equal models that are refused, and those worse by twice the margin that pass."""
    refused = passed = 0
    asked = margin(rows)
    for seed in range(audits):
        world = World(rows, 1 + seed)
        champion = world.model(AUROC)
        refused += not passes(dropped(champion, world.model(AUROC)))
        passed += passes(dropped(champion, world.model(AUROC - 2 * asked)))
    return refused / audits, passed / audits


def test_equal_models_pass_and_clearly_worse_ones_do_not() -> None:
    refused, passed = shares(300, 30)
    assert (refused <= 0.25, passed) == (True, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", SIZES)
def test_error_rates_of_the_default_policy(rows: int) -> None:
    refused, passed = shares(rows, SIZES[rows])
    print(f"{rows} rows: margin {margin(rows):.4f}, equal refused {refused:.3f}, worse passed {passed:.3f}")
    assert refused <= 0.10 + 2 * np.sqrt(0.1 * 0.9 / SIZES[rows])
    assert passed <= 0.05


def retrained(seed: int, worse: float) -> tuple[int, int]:
    """How many of twenty challengers pass, each truly `worse` than the champion, on the same 2,000 rows;
    and how many of the last ten, which meet a longer history.
    """
    world, quality, passed = World(2_000, seed), AUROC, []
    champion, stood = world.model(quality), list[Scored]()
    for _ in range(20):
        challenger = world.model(quality - worse)
        drop = dropped(champion, challenger)
        lead = BEST_SHARE * drop.margin(POLICY, by_data=True)
        best = best_of(stood, challenger, "auroc", lead)
        against = dropped(best, challenger) if best else None
        decision = weigh(EVIDENCE, (), drop, POLICY, generation=2, best=against, by_data=True)
        passed.append(isinstance(decision, Promoted))
        if passed[-1]:
            stood.append(champion)
            quality, champion = quality - worse, challenger
    return sum(passed), sum(passed[10:])


@pytest.mark.slow
def test_twenty_retrainings_lose_at_most_one_margin() -> None:
    """Each worse than the champion by half the margin."""
    asked = margin(2_000)
    lost = [retrained(50 + seed, asked / 2)[0] / 2 for seed in range(60)]
    print(f"lost in margins: mean {np.mean(lost):.2f}, most {np.max(lost):.2f}")
    assert max(lost) <= 1


@pytest.mark.slow
def test_a_long_history_locks_no_equal_model_out() -> None:
    passed = np.array([retrained(200 + seed, 0.0) for seed in range(40)])
    refused, late = 1 - passed.mean(axis=0) / (20, 10)
    print(f"equal refused: {refused:.3f} of twenty retrainings, {late:.3f} of the last ten")
    assert max(refused, late) <= 0.10


def test_the_best_is_the_oldest_until_another_leads_by_enough() -> None:
    world = World(1_000, 3)
    first, luckier, better, mine = (world.model(auroc) for auroc in (0.8, 0.805, 0.9, 0.8))
    assert best_of([], mine, "auroc", 0.02) is None
    assert best_of([first, luckier], mine, "auroc", 0.05) is first
    assert best_of([first, better, luckier], mine, "auroc", 0.05) is better
    elsewhere = Scored(np.char.add(b"x", first.rows), first.scores)
    assert best_of([elsewhere], mine, "auroc", 0.05) is None, "it shares no row"
