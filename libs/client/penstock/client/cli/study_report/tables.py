"""Tables of a study: its trials, the best of each family, what mattered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from penstock.client.cli.leaderboard import name_of, ranked, values_of
from penstock.client.cli.output import state_of
from penstock.client.cli.study_report.html import Html, element
from penstock.contracts.measures import words
from penstock.tuner.v1 import tuner_pb2 as tuner


def leaderboard(found: tuner.Study) -> Html:
    """Trials, the best first, each with its values in a line below: they are long, and a column for them
    would lie beyond the window's edge.
    """
    measures = _measures(found)
    columns, rows = ["trial", *_columns(found, measures)], []
    for trial in ranked(found):
        state = "" if trial.state == tuner.Trial.STATE_COMPLETE else state_of(trial)
        under = " · ".join(filter(None, (name_of(found, trial), state, trial.family)))
        said = trial.failure or values_of(trial) or "as in the file"
        rows.append([_named(f"{trial.number}", under), *_figures(found, trial, measures)])
        rows.append([element("td", said, class_="words", colspan=len(columns))])
    return _table(columns, rows)


def families(found: tuner.Study) -> Html:
    """The best trial of each family, side by side; nothing where no trial has values."""
    measures, count = _measures(found), Counter(trial.family for trial in found.trials)
    best: dict[str, tuner.Trial] = {}
    for trial in ranked(found):
        if trial.values:
            best.setdefault(trial.family, trial)
    rows = [
        [
            _named(family, f"trial {trial.number}, best of {count[family]}"),
            *_figures(found, trial, measures),
        ]
        for family, trial in best.items()
    ]
    return _table(["family", *_columns(found, measures)], rows)


def importance(found: tuner.Study) -> Html:
    """A bar a parameter; nothing where the tuner gave no shares."""
    most = max(found.importance.values(), default=0) or 1
    rows = [
        [
            element("th", name, scope="row"),
            element(
                "td", element("div", class_="bar", style=f"width: {100 * share / most:.1f}%"), class_="bars"
            ),
            element("td", f"{share:.0%}"),
        ]
        for name, share in sorted(found.importance.items(), key=lambda one: -one[1])
    ]
    return _table(["parameter", "", "share"], rows)


def _measures(found: tuner.Study) -> list[str]:
    """Keys of the trials' metrics that are shown; of the differences between groups those that the
    study asks for, and equalized odds.
    """
    keys = sorted({key for trial in found.trials for key in trial.metrics if "." in key})
    wanted = [key for key in keys if key in found.tuner_json or key.startswith("equalized_odds_difference.")]
    return ["train_loss", "validation_loss", *wanted, "latency_us"]


def _columns(found: tuner.Study, measures: Sequence[str]) -> Iterator[str]:
    yield from found.objectives
    for key in measures:
        measure, _, field = key.partition(".")
        yield f"{words(measure)} by {field}" if field else key.replace("_us", ", µs").replace("_", " ")
    yield "seconds"


def _figures(found: tuner.Study, trial: tuner.Trial, measures: Sequence[str]) -> Iterator[Html]:
    metrics = (trial.metrics.get(key) for key in measures)
    for value in (*(trial.values or [None] * len(found.objectives)), *metrics, trial.seconds or None):
        yield element("td", "–" if value is None else f"{value:.4g}")


def _named(name: str, under: str) -> Html:
    return element("th", name, element("span", under, class_="under"), scope="row")


def _table(columns: Iterable[str], rows: Sequence[Sequence[Html]]) -> Html:
    """Nothing without rows."""
    if not rows:
        return Html()
    names = (element("th", column, scope="col", class_="figure") for column in columns)
    head = element("thead", element("tr", *names))
    body = element("tbody", *(element("tr", *row) for row in rows))
    return element("div", element("table", head, body, class_="numbers"), class_="scroll")
