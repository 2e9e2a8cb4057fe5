"""The page: what came of the study, why, the plots, the tables. Nothing in it is loaded or runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import resources
from itertools import combinations

from penstock.client.cli.costs import words
from penstock.client.cli.leaderboard import head, progress, sentences, why
from penstock.client.cli.output import state_of, when
from penstock.client.cli.study_report import tables
from penstock.client.cli.study_report.front import front
from penstock.client.cli.study_report.gates import gate_limits
from penstock.client.cli.study_report.history import history
from penstock.client.cli.study_report.html import Html, element, joined
from penstock.client.cli.study_report.parallel import parallel
from penstock.contracts.pipeline import Gate
from penstock.tuner.v1 import tuner_pb2 as tuner

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
{title}
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def render(found: tuner.Study, gates: Sequence[Gate] = ()) -> str:
    """The report as HTML, of a study with its trials. `gates`: of the pipeline's audit."""
    style = resources.files(__package__).joinpath("report.css").read_text()
    title = element("title", f"{headline(found)}: tuning of {found.pipeline}")
    body = joined(_header(found), element("main", *_sections(found, gates)))
    return PAGE.format(title=title, style=style, body=body)


def headline(found: tuner.Study) -> str:
    if found.state == tuner.Study.STATE_COMPLETED:
        return f"Trial {found.best} was chosen" if found.best else "Your own values stay"
    return state_of(found).capitalize()


def facts(found: tuner.Study) -> Iterator[tuple[str, str]]:
    """Table of the study's wish and its cost."""
    section = json.loads(found.tuner_json or "{}")
    planned = f" of {_clock(found.time_planned_s)}" if found.time_planned_s else ""
    yield "Search", section.get("type", "tpe")
    yield "Rule", found.rule and f"the trial with {found.rule}"
    yield "Looks at validation rows", f"{found.looks}, for the choice" if found.looks else ""
    yield "Trials", progress(found)
    yield "Time", f"{_clock(found.time_spent_s)}{planned}"
    for name, value in section.get("budget", {}).items():
        if name in ("memory", "patience"):
            yield f"Budget: {name}", f"{value}"
    yield "Cost", words(found.cost) if found.HasField("cost") else ""


def _clock(seconds: float) -> str:
    """`0:01:30`."""
    return str(timedelta(seconds=round(seconds)))


def _header(found: tuner.Study) -> Html:
    said = [why(found)] if found.state == tuner.Study.STATE_FAILED else [*sentences(found)] or [head(found)]
    stated = [f"study {found.study_id}", state_of(found), f"pipeline file {found.pipeline_number}"]
    stated.append(f"requested {when(found.requested_at)} UTC by {found.requested_by or 'a program'}")
    end = (element("p", f"{text[:1].upper()}{text[1:]}.") for text in said)
    listed = (joined(element("dt", name), element("dd", fact)) for name, fact in facts(found) if fact)
    return element(
        "header",
        element("p", "Tuning study", class_="kind"),
        element("h1", found.pipeline),
        element("p", " · ".join(stated), class_="facts"),
        element("section", element("h2", headline(found)), *end, class_=f"end {state_of(found)}"),
        element("dl", *listed),
    )


def _sections(found: tuner.Study, gates: Sequence[Gate]) -> Iterator[Html]:
    if not found.trials:
        yield element("p", "No trial has begun.", class_="note")
        return
    objectives = range(len(found.objectives))
    limits = gate_limits(found, gates)
    fronts = (front(found, across, upwards, limits) for across, upwards in combinations(objectives, 2))
    names = sorted({trial.family for trial in found.trials})
    lines = ((name, parallel(found, name)) for name in names)
    drawn = [part for name, plot in lines if plot for part in (element("h3", name), plot)]
    yield from _section("History", *(history(found, index) for index in objectives))
    yield from _section("Pareto front", *fronts)
    yield from _section("Families side by side", tables.families(found))
    yield from _section("What mattered", tables.importance(found))
    yield from _section("What was chosen", *drawn)
    yield from _section("All trials", tables.leaderboard(found))


def _section(title: str, *parts: Html) -> Iterator[Html]:
    """A section, where there is something in it."""
    if any(parts):
        yield element("section", element("h2", title), *parts)
