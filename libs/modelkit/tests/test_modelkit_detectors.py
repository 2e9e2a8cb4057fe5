"""Simple detectors and the calibration, held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from penstock.modelkit.calibration import platt
from penstock.modelkit.detectors import isolation_forest, mahalanobis

RANDOM = np.random.default_rng(7)
NORMAL = RANDOM.normal(size=(600, 4)) @ RANDOM.normal(size=(4, 4))
ROWS = np.concatenate([NORMAL[:200], RANDOM.normal(0, 4, (60, 4))])
ANOMALY = np.arange(len(ROWS)) >= 200


def test_mahalanobis_is_the_distance_in_units_of_the_covariance() -> None:
    theirs = EmpiricalCovariance().fit(NORMAL).mahalanobis(ROWS) * (len(NORMAL) - 1) / len(NORMAL)
    assert mahalanobis(NORMAL)(ROWS) == pytest.approx(theirs)


def test_a_column_that_others_determine_changes_no_order() -> None:
    doubled, rows = (np.concatenate([part, part[:, :1]], axis=1) for part in (NORMAL, ROWS))
    assert mahalanobis(doubled)(rows) == pytest.approx(mahalanobis(NORMAL)(ROWS), rel=1e-6)
    assert np.isfinite(mahalanobis(np.ones((30, 2)))(np.ones((3, 2)))).all()


def test_an_isolation_forest_finds_what_scikit_learns_finds() -> None:
    ours = isolation_forest(NORMAL, seed=3)(ROWS)
    theirs = -IsolationForest(random_state=3).fit(NORMAL).score_samples(ROWS)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    assert roc_auc_score(ANOMALY, ours) == pytest.approx(roc_auc_score(ANOMALY, theirs), abs=0.02)
    assert (ours == isolation_forest(NORMAL, seed=3)(ROWS)).all()
    assert np.isfinite(isolation_forest(np.ones((30, 2)), seed=1)(ROWS[:, :2])).all()


def test_platt_is_a_logistic_regression_with_smoothed_targets() -> None:
    scores, labels = mahalanobis(NORMAL)(ROWS), ANOMALY.astype(int)
    found = platt(scores, labels)
    target = np.where(ANOMALY, 61 / 62, 1 / 202)
    twice = np.concatenate([scores, scores])[:, None]
    weights = np.concatenate([target, 1 - target])
    truth = np.repeat([1, 0], len(scores))
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(twice, truth, weights)
    assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
    assert found.intercept == pytest.approx(theirs.intercept_[0], rel=1e-3)


def test_a_perfect_separation_ends_with_a_finite_slope() -> None:
    found = platt(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert 0 < found.slope < 50
    assert platt(np.array([3.0, 2.0, 1.0, 0.0]), np.array([0, 0, 1, 1])).slope < 0
