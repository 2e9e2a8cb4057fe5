"""The report: one HTML file for the person who has to judge the model. Verdict first, then reasons,
pictures, tables, provenance.

Nothing in it is loaded from anywhere and nothing runs in it; it reads on paper, on screen in light
and dark, and aloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import jinja2

from penstock.contracts.events import Cost, GateResult, Interval
from penstock.contracts.measures import MEASURES, Measure, Task
from penstock.contracts.verdicts import NOT_JUDGED, worded
from penstock.contracts.versions import version_name
from penstock.measures.fairness import RATES
from penstock.measures.groups import called
from penstock.measures.parity import rows_needed
from penstock.packages.evidence import may_be_waived, not_passed
from penstock_ethics_audit.audit import Findings, GroupingFindings
from penstock_ethics_audit.report import curves, explanations, figures
from penstock_ethics_audit.report.concerns import concerns, merged, unfinished, unstated
from penstock_ethics_audit.report.decisions import confusions, decided
from penstock_ethics_audit.report.drawing import Picture, number
from penstock_ethics_audit.report.notes import BASELINES
from penstock_ethics_audit.result import Result

TITLES = {name: rate.title for name, rate in RATES.items() if rate.title}
HEADLINES = {
    "pass": "Passed",
    "fail": "Did not pass",
    "inconclusive": "Inconclusive",
    NOT_JUDGED: "Not judged",
}
MAX_CLASSES_DRAWN = 6


@dataclass(frozen=True)
class GateRow:
    result: GateResult
    name: str
    picture: Picture | None
    hint: str

    @property
    def reason(self) -> str:
        """The reason as a sentence; a field's name keeps its first letter as it is."""
        said = self.result.reason
        return f"{said if ' = ' in said.split(',')[0] else said[0].upper() + said[1:]}."


def render(result: Result) -> str:
    """Renders the page as HTML."""
    found = result.findings
    said = worded(found.verdict, found.gates)
    return _template().render(
        result=result,
        found=found,
        short=version_name(result.pipeline, result.digest),
        verdict=said.replace(" ", "-"),
        headline=HEADLINES[said],
        summary=summary(found),
        consequence=consequence(found),
        concerns=[
            *merged(result),
            *unfinished(result),
            *concerns(found, result.target, result.threshold.favourable if result.threshold else ""),
        ],
        baselines=BASELINES,
        confused=confusions(result),
        decided=decided(result),
        gates=[
            GateRow(
                gate,
                _gate_name(gate),
                figures.gate(gate, f"{_gate_name(gate)} {index}"),
                _hint(gate) + _fair(found, gate),
            )
            for index, gate in enumerate(found.gates)
        ],
        overall=_curves(result, "", {"": found.performance.get("auroc")}),
        groupings=[(grouping, list(_grouping_pictures(result, grouping))) for grouping in found.groupings],
        explained=explanations.explained(result.importance, result.explanation),
        training=figures.training(result.training),
        names={name: measure.title for name, measure in MEASURES.items()},
        rates=TITLES,
        called=called,
        unstated=unstated,
        words=_words(found),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("penstock_ethics_audit.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "count": lambda count: f"{count:,}", "cost": _cost}
    return environment.get_template("report.html.j2")


def summary(found: Findings) -> str:
    """Says in sentences how many gates passed, failed or stayed undecided."""
    if not found.gates:
        return (
            "The pipeline file has no gates: nobody said what is good enough. What was measured stands below."
        )
    failed, undecided = (
        [_gate_name(gate) for gate in found.gates if gate.verdict == verdict]
        for verdict in ("fail", "inconclusive")
    )
    count = len(found.gates)
    if not failed and not undecided:
        who = f"All {count} gates passed, each" if count > 1 else "The gate passed,"
        return f"{who} by the bound that judges it."
    of = f"of {count} gates" if count > 1 else "gate"
    parts = [f"{len(failed)} {of} failed: {', '.join(failed)}."] if failed else []
    if undecided:
        again = "" if failed else f"{of} "
        parts.append(f"{len(undecided)} {again}could not be decided: {', '.join(undecided)}.")
    return " ".join(parts)


def consequence(found: Findings) -> str:
    """States the consequence for the model, and who may change it."""
    closed = not_passed(found.gates)
    if not found.gates:
        return "It may serve only where the pipeline file allows that: promotion: {without_gates: allowed}."
    if not closed:
        return "The model registry may promote this version, unless it is worse than the one that serves."
    if may_be_waived(found.gates):
        return (
            "This version may not serve unless a person waives the gates below. A waiver names who and why"
            " and is signed. The name is typed: it proves no identity."
        )
    blocking = list(dict.fromkeys(_gate_name(gate) for gate in closed if gate.on_fail == "block"))
    return (
        f"This version may not serve, and nobody can waive that: {' and '.join(blocking)} "
        f"{'is' if len(blocking) == 1 else 'are'} set to block. Change the model or its data and train again."
    )


def _gate_name(gate: GateResult) -> str:
    return MEASURES[gate.metric].title + (f" by {gate.by}" if gate.by else "")


def _hint(gate: GateResult) -> str:
    if gate.verdict == "pass":
        return ""
    if gate.value is None or "audit rows" in gate.reason:
        return "More labelled events in this cell, or a larger audit part, would let it be judged."
    if gate.verdict == "inconclusive":
        return "More audit rows would narrow the interval."
    if notion := MEASURES[gate.metric].penalty:
        return f"What may help: trainer.fairness {{notion: {notion}, by: {gate.by}}}."
    return "What may help: more or better features, more rows, another model."


def _fair(found: Findings, gate: GateResult) -> str:
    """Says what a perfectly fair model would show, and the rows that the gate asks for."""
    grouping = next((one for one in found.groupings if one.by == gate.by), None)
    fair = grouping.fair.get(gate.metric) if grouping else None
    if fair is None:
        return ""
    end = "upper" if gate.bound == "at_most" else "lower"
    said = f" A perfectly fair model would show an {end} bound of {fair.usual:.2f} here, by chance alone"
    if gate.bound == "at_least" or gate.limit <= 0 or fair.mostly <= gate.limit:
        return said.replace("an lower", "a lower") + "."
    needed = rows_needed(found.rows, fair.mostly, gate.limit)
    return f"{said}; this limit asks for about {needed:,} audit rows like these."


def _grouping_pictures(result: Result, grouping: GroupingFindings) -> Iterator[tuple[str, Picture]]:
    found = result.findings
    if not grouping.groups:
        return
    if found.task == "regression":
        yield "Errors, with intervals", figures.errors(grouping)
    labels = list(dict.fromkeys(rate.label for group in grouping.groups for rate in group.rates))
    for label in labels[:MAX_CLASSES_DRAWN]:
        given = called(result.target, label)
        yield f"Rates of being given {given}, with intervals", figures.rates(grouping, TITLES, label)
    areas = {group.group: group.performance.get("auroc") for group in grouping.groups if not group.thin}
    yield from _curves(result, grouping.by, areas)


def _curves(result: Result, by: str, areas: dict[str, Interval | None]) -> Iterator[tuple[str, Picture]]:
    found = result.findings
    if any(curve.x for curve in result.pictures.calibration[by]):
        title = "ROC and calibration" if found.task == "binary" else "Calibration"
        classifies = found.task != "regression"
        yield title, curves.curves(result.pictures, by, classifies=classifies, areas=areas)
    if spread := curves.distributions(result.pictures, by, _spread_label(found)):
        yield "What the model says", spread


def _spread_label(found: Findings) -> str:
    if found.task == "binary":
        return f"Probability of {found.classes[1]}"
    return "Confidence of the likeliest class" if found.task == "multiclass" else "Error (said - true)"


def _cost(cost: Cost) -> str:
    memory, read = (f"{count / 1e6:,.0f} MB" for count in (cost.peak_memory, cost.bytes_read))
    return (
        f"{cost.processor_s:,.1f} processor seconds, {cost.gpu_s:,.1f} GPU seconds, {memory} of memory at its"
        f" peak, {read} read"
    )


def _words(found: Findings) -> dict[str, str]:
    mentioned = {
        *found.performance,
        *(name for grouping in found.groupings for name in grouping.disparities),
    }
    return {m.title: _clause(m, found.task) for m in MEASURES.values() if m.name in mentioned}


def _clause(measure: Measure, task: Task) -> str:
    clauses = [measure.about]
    if measure.higher_is_better is False and not measure.between_groups:
        clauses.append("lower is better")
    if task == "multiclass" and measure.several_classes:
        clauses.append(measure.several_classes)
    return "; ".join([*clauses, f"undefined where {measure.undefined}"])
