"""Numbers from the sample: what one column says of the target by itself, and what a plain model reaches.
Needs scikit-learn, the client's `init` extra.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.client.declared import text_of
from penstock.client.guess.decide import Baseline, Guess
from penstock.client.guess.fields import Field
from penstock.client.guess.names import afterwards
from penstock.client.guess.outcomes import names_a_censoring, names_a_duration
from penstock.client.guess.table import Column

_ROWS = 5_000
NEARLY_ALONE = 0.98
"""Score of one column from which it is taken for the answer itself."""
_AFTERWARDS_FROM = 0.8
_FOLDS = 5
AUDIT = 0.3
"""Share of the rows that the audit gets by default."""
_FEWEST = 50
_FEWEST_TOLD = 20  # rows with another value than the most frequent one
_MEASURES = {"binary": "auroc", "multiclass": "accuracy", "regression": "r2"}
_GUESSING = {"binary": 0.5, "regression": 0.0}
_SHOWN = {"binary": "AUROC", "multiclass": "accuracy", "regression": "R²"}
_SCORERS = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}

Array = np.ndarray[Any, np.dtype[Any]]


def leaks(guess: Guess) -> dict[str, str]:
    """Reasons, by field, why a column cannot have been known beforehand: each with its figure."""
    picked, labels = _labelled(guess)
    target, measure = guess.target.field, _SHOWN[guess.target.task]
    folds, found = _splits(guess, picked, labels), {}
    duration = guess.target.task == "regression" and names_a_duration(target.column.name)
    for one in guess.inputs():
        column = one.column
        if _is_twin(column, target.column):
            found[one.name] = f"a twin of `{target.name}`: each value of one goes with one of the other"
            continue
        if guess.target.task == "multiclass" and (share := _function_of(column, target.column)):
            found[one.name] = f"a function of `{target.name}`, which tells it in {share:.1%} of the rows"
            continue
        if duration and one.of_two and names_a_censoring(column.name):
            cut = f"says if `{target.name}` ended or was cut off, known only afterwards"
            found[one.name] = f"{cut}; a regression takes what was cut off for whole"
            continue
        if one.type == "text" or len(labels) < _FEWEST or not folds:
            continue
        score = _alone(_inputs(one, picked), labels, guess.target.task, folds, number=one.type == "number")
        word = afterwards(column.name)
        if guess.target.task == "multiclass" and not _beats_the_most_frequent(score, labels):
            continue
        if score >= NEARLY_ALONE:
            found[one.name] = f"predicts `{target.name}` nearly alone: {measure} {score:.3f}"
        elif word and score >= _AFTERWARDS_FROM:
            found[one.name] = f"`{word}` is known only afterwards, it seems: alone {measure} {score:.3f}"
    return found


def _beats_the_most_frequent(accuracy: float, labels: Array) -> bool:
    """Tells whether it makes less than half the mistakes of who always says the most frequent class."""
    return 1 - accuracy < (1 - _most_frequent(labels)) / 2


def _most_frequent(labels: Array) -> float:
    """Share of the most frequent class."""
    return float(np.bincount(labels).max()) / len(labels)


def baseline(guess: Guess) -> Baseline | None:
    """None where there are too few rows, or no input. Of several classes those are left out that have
    fewer rows than there are folds.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    picked, labels = _labelled(guess)
    inputs = guess.inputs()
    task = guess.target.task
    if task == "multiclass":
        enough = np.bincount(labels)[labels] >= _FOLDS
        picked = [row for row, kept in zip(picked, enough, strict=True) if kept]
        labels = np.unique(labels[enough], return_inverse=True)[1]
    rarest = len(labels) if task == "regression" else np.bincount(labels).min(initial=len(labels))
    if not inputs or len(labels) < _FEWEST or rarest < _FOLDS:
        return None
    table = np.empty((len(picked), len(inputs)), dtype=object)
    for place, one in enumerate(inputs):
        table[:, place] = _inputs(one, picked)
    model = Ridge() if task == "regression" else LogisticRegression(max_iter=300)
    groups = _groups(guess, picked)
    folds = _folds(_FOLDS, task, grouped=groups is not None)
    with warnings.catch_warnings(), threadpool_limits(1):  # more threads take longer for so little
        warnings.simplefilter("ignore")
        scores = cross_val_score(
            make_pipeline(_treatment(inputs), model),
            table,
            labels,
            groups=groups,
            cv=folds,
            scoring=_SCORERS[task],
        )
    scores = scores[np.isfinite(scores)]  # a fold of few people may lack a class
    if len(scores) < 2:
        return None
    name = "ridge regression" if task == "regression" else "logistic regression"
    mean = float(scores.mean())
    error = error_of_audit(mean, float(scores.std(ddof=1)), labels, round(guess.table.rows * AUDIT), task)
    guessing = _most_frequent(labels) if task == "multiclass" else _GUESSING[task]
    return Baseline(_MEASURES[task], mean, error, len(labels), name, guessing)


def error_of_audit(mean: float, deviation: float, labels: Array, rows: int, task: str) -> float:
    """Standard error of a measure on so many rows: of AUROC as Hanley and McNeil (1982) have it, of an
    accuracy the binomial one; of R² by the folds.
    """
    if task == "regression":
        return float(deviation * np.sqrt(len(labels) / _FOLDS / max(1, rows)))
    if task == "multiclass":
        return float(np.sqrt(mean * (1 - mean) / max(1, rows)))
    shares = np.sort(np.bincount(labels)) / len(labels)
    one, other = np.maximum(1, shares * rows)  # the rarer class is taken for the positive one
    first, second = mean / (2 - mean), 2 * mean**2 / (1 + mean)
    spread = mean * (1 - mean) + (one - 1) * (first - mean**2) + (other - 1) * (second - mean**2)
    return float(np.sqrt(max(0.0, spread) / (one * other)))


def _groups(guess: Guess, rows: list[int]) -> Array | None:
    """Entity of each row, where one has several: the audit's rows are of others than those
    that train, so a fold's must be, too.
    """
    if guess.entity is None or guess.entity.unique:
        return None
    return np.array([text_of(guess.entity.values[row]) for row in rows])


def _folds(count: int, task: str, *, grouped: bool) -> Any:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if task == "regression":
        by = GroupKFold if grouped else KFold
    else:
        by = StratifiedGroupKFold if grouped else StratifiedKFold
    return by(count, shuffle=True, random_state=0)


def _labelled(guess: Guess) -> tuple[list[int], Array]:
    """Rows of the sample that have a label, at most _ROWS, evenly; and their labels."""
    values = guess.target.field.column.values
    rows = [row for row, value in enumerate(values) if value is not None]
    rows = rows[:: max(1, -(-len(rows) // _ROWS))]
    if guess.target.task == "regression":
        return rows, np.array([float(text_of(values[row])) for row in rows])
    texts = [text_of(values[row]) for row in rows]
    return rows, np.unique(texts, return_inverse=True)[1]


def _is_twin(column: Column, target: Column) -> bool:
    """Tells whether two columns hold the same under other names; at least two values, seen often."""
    pairs = {
        (text_of(one), text_of(other))
        for one, other in zip(column.values, target.values, strict=True)
        if one is not None and other is not None
    }
    values, labels = {one for one, _ in pairs}, {other for _, other in pairs}
    full = len(column.present) >= 0.9 * len(column.values)
    return full and len(pairs) == len(values) == len(labels) > 1 and len(values) <= len(column.present) / 5


def _function_of(column: Column, target: Column) -> float:
    """Share of the rows in which the class alone tells the column's value, as an `approved` beside a
    `decision`; 0 where it makes more than a tenth of the mistakes of who always says the most frequent
    value, or that is nearly every row's.
    """
    pairs = Counter(
        (text_of(other), text_of(one))
        for one, other in zip(column.values, target.values, strict=True)
        if one is not None and other is not None
    )
    told: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for (label, value), count in pairs.items():
        told[label] = max(told[label], count)
        values[value] += count
    rows = values.total()
    others = rows - max(values.values(), default=0)
    if rows < 0.9 * len(column.values) or others < _FEWEST_TOLD:
        return 0.0
    return told.total() / rows if rows - told.total() <= others / 10 else 0.0


def _splits(guess: Guess, rows: list[int], labels: Array) -> list[tuple[Array, Array]]:
    """Rows to learn from and rows to ask, by fold; none where a fold would lack a class, or rows."""
    groups, task = _groups(guess, rows), guess.target.task
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(_folds(3, task, grouped=groups is not None).split(labels, labels, groups))
        except ValueError:  # fewer rows of each class than folds
            return []


def _alone(
    column: Array, labels: Array, task: str, folds: list[tuple[Array, Array]], *, number: bool
) -> float:
    """Score of a small tree on this column, out of fold."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
    from sklearn.preprocessing import TargetEncoder
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    leaf = {"max_leaf_nodes": 128, "min_samples_leaf": max(3, len(labels) // 500), "random_state": 0}
    tree = DecisionTreeRegressor(**leaf) if task == "regression" else DecisionTreeClassifier(**leaf)
    column = column.reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if number:
            column = column.astype(np.float64)
        else:
            kind = {"binary": "binary", "multiclass": "multiclass", "regression": "continuous"}[task]
            column = TargetEncoder(target_type=kind, random_state=0).fit_transform(column, labels)
    said = np.empty(len(labels))
    for learned, asked in folds:
        tree.fit(column[learned], labels[learned])
        if task == "binary":  # probability of class 1, also of a fold that learned from one class
            said[asked] = tree.predict_proba(column[asked]) @ tree.classes_
        else:
            said[asked] = tree.predict(column[asked])
    if task == "binary":
        return float(roc_auc_score(labels, said))
    if task == "multiclass":
        return float(accuracy_score(labels, said))
    return max(float(r2_score(labels, said)), _linear(column[:, 0], labels))


def _linear(column: Array, labels: Array) -> float:
    """Square of the correlation: a tree cannot follow a copy to its rare high values."""
    known = np.isfinite(column)
    if known.sum() < 0.9 * len(column) or np.ptp(column[known]) == 0:
        return 0.0
    return float(np.corrcoef(column[known], labels[known])[0, 1] ** 2)


def _inputs(one: Field, rows: list[int]) -> Array:
    values = one.column.values
    if one.type == "number":
        numbers = [np.nan if values[row] is None else float(text_of(values[row])) for row in rows]
        return np.array(numbers, dtype=object)
    texts = ["" if values[row] is None else text_of(values[row]) for row in rows]
    return np.array(texts, dtype=object)


def _treatment(inputs: Sequence[Field]) -> Any:
    """A transformer of a table with a column for each input: numbers together, categories together."""
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    places: dict[str, list[int]] = {"number": [], "text": [], "category": []}
    for place, one in enumerate(inputs):
        places[one.type if one.type in places else "category"].append(place)
    numbers = make_pipeline(
        FunctionTransformer(_as_numbers),
        SimpleImputer(strategy="median", add_indicator=True),
        StandardScaler(),
    )
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=50)
    return make_column_transformer(
        (numbers, places["number"]),
        (categories, places["category"]),
        *((TfidfVectorizer(max_features=3000), place) for place in places["text"]),
    )


def _as_numbers(values: Array) -> Array:
    return values.astype(np.float64)
