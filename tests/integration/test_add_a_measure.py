"""A measure is one entry in the table and one function: on a copy, what `libs/measures/README.md` adds
is a gate of the pipeline file, stands in an audit's findings and in the words of its report.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing.checkout import ROOT, change, copied_members, environment, run_tests

COPIED = ("libs/contracts", "libs/measures", "services/ethics_audit")
TABLE = "libs/contracts/penstock/contracts/measures.py"
BLOCK = re.compile(r"```python\n# (?P<path>libs/\S+\.py).*\n(?P<text>[\s\S]*?)```")
MEASURES_TESTS = [f"libs/measures/tests/test_measures_{name}.py" for name in ("fairness", "band", "parity")]
OF_TWO_RATES = {
    TABLE: """
Measure(
    "equalized_odds_ratio",
    "Equalized odds ratio",
    "the smallest ratio of two groups' true or of their false positive rates; 1 is parity",
    CLASSES,
    higher_is_better=True,
    range=(0, 1),
    undefined=_EMPTY_CELL,
    between_groups=True,
    gate=TWO_CLASSES,
    several_classes=_WORST_CLASS,
)
""",
    "libs/measures/penstock/measures/fairness.py": """
@contrast
def equalized_odds_ratio(of: Rates) -> Floats:
    return np.concatenate([ratios(of.true_positive), ratios(of.false_positive)], axis=1)
""",
}
OF_A_NEW_RATE = {
    TABLE: """
Measure(
    "abstention_difference",
    "Abstention difference",
    "the largest difference between two groups' shares of rows without a decision; 0 is parity",
    CLASSES,
    higher_is_better=False,
    range=(0, 1),
    undefined="never",
    between_groups=True,
    gate=TWO_CLASSES,
    several_classes=_WORST_CLASS,
)
""",
    "libs/measures/penstock/measures/fairness.py": """
@contrast
def abstention_difference(of: Rates) -> Floats:
    return differences(of.undecided)
""",
}
OVER_ROWS = {
    TABLE: """
Measure(
    "balanced_accuracy",
    "Balanced accuracy",
    "the mean share of each class that was decided rightly",
    CLASSES,
    higher_is_better=True,
    range=(0, 1),
    undefined="a class has no row",
    gate=CLASSES,
)
""",
    "libs/measures/penstock/measures/performance.py": """
@formula
def balanced_accuracy(scores: Scores) -> Meter:
    labels, chosen = scores.labels, scores.chosen
    of_class = [Summed(((labels == c) & (chosen == c), labels == c), ratio) for c in (0, 1)]
    return lambda weights: np.mean([recall(weights) for recall in of_class], axis=0)
""",
}

AUDIT = """
import sys
from pathlib import Path

import numpy as np

from penstock.contracts.export import measures_reference
from penstock.contracts.load import BadPipeline, read
from penstock.measures.scores import Scores
from penstock.packages.parts import Curves
from penstock.packages.keys import Keys
from penstock.testing.lending import NOW, PIPELINE_TEXT
from penstock.testing.packages import version
from penstock_ethics_audit.audit import audit
from penstock.measures.groups import divide
from penstock_ethics_audit.report.page import render
from penstock_ethics_audit.report.pictures import pictures
from penstock_ethics_audit.result import Result, software

GATES = '''gates:
    - {metric: predictive_equality_difference, by: sex, at_most: 0.1}
    - {metric: equalized_odds_ratio, by: sex, at_least: 0.8}
    - {metric: balanced_accuracy, at_least: 0.9}
'''
text = PIPELINE_TEXT.partition("gates:")[0] + GATES
try:
    read(text.replace("equality_difference", "equality_diference"))
    raise SystemExit("a misspelt name was taken")
except BadPipeline as refused:
    assert "did you mean `predictive_equality_difference`?" in str(refused), refused

row = np.arange(2000)
group, truth = row % 2, row // 2 % 2
wrong = (truth == 0) & (row // 4 % 10 < np.where(group == 1, 5, 1))  # half of the one group's, a tenth
chosen = np.where(wrong, 1, truth)
p = np.where(chosen == 1, 0.9, 0.1)
said = np.stack([1 - p, p], axis=1)
scores = Scores("binary", truth.astype(float), row, ("no", "yes"), said, chosen)
grouping = divide("sex", np.where(group == 1, "f", "m").tolist())
found = audit(scores, [grouping], read(text).audit, 1)

(compared,) = found.groupings
difference = compared.disparities["predictive_equality_difference"]
assert abs(difference.estimate - 0.4) < 1e-12 and difference.lower < 0.4 < difference.upper, difference
ratio = compared.disparities["equalized_odds_ratio"]
assert abs(ratio.estimate - 0.2) < 1e-12 and ratio.lower < 0.2 < ratio.upper < 0.3, ratio
abstained = compared.disparities["abstention_difference"]
assert (abstained.estimate, abstained.lower) == (0, 0) and abstained.upper < 0.05, abstained
assert abs(found.performance["balanced_accuracy"].estimate - 0.85) < 1e-12, found.performance
assert compared.groups[0].performance["balanced_accuracy"] is not None
assert [gate.verdict for gate in found.gates] == ["fail", "fail", "fail"], found.gates

keys = Keys(Path(sys.argv[1]))
keys.ensure()
digest = "sha256:" + "0" * 64
report = render(
    Result(
        audit_id="1",
        pipeline="loans",
        digest=digest,
        version=version(digest, keys),
        started_at=NOW,
        findings=found,
        pictures=pictures(scores, [grouping], found),
        training=Curves(metric="auroc", points=()),
        software=software(),
    )
).replace("&#39;", "'")
for words in (
    "3 of 3 gates failed: Predictive equality difference by sex, Equalized odds ratio by sex, Balanced",
    "The largest difference between two groups' false positive rates; 0 is parity; undefined where a group",
    "Abstention rate",
    "The mean share of each class that was decided rightly",
):
    assert words in report, words
assert "| `predictive_equality_difference` |" in measures_reference()
"""


@pytest.mark.process
def test_a_measure_is_one_entry_and_one_function(tmp_path: Path) -> None:
    copied_members(tmp_path, COPIED)
    page = (ROOT / "libs" / "measures" / "README.md").read_text()
    between_groups = {found["path"]: found["text"] for found in BLOCK.finditer(page)}
    assert len(between_groups) == 2, "one entry and one function"
    assert change(page, tmp_path) == {"libs/measures/penstock/measures/fairness.py"}
    for blocks in (between_groups, OF_TWO_RATES, OF_A_NEW_RATE, OVER_ROWS):
        for path, text in blocks.items():
            add(tmp_path / path, text)
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, tmp_path / "keys"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, said = run_tests(tmp_path, *MEASURES_TESTS)
    assert code == 0, said


def add(file: Path, text: str) -> None:
    """An entry at the end of the table, a function at the end of its module."""
    now = file.read_text()
    if file.name == "measures.py":
        head, end, tail = now.partition("    )\n}\n")
        file.write_text(f"{head}{text.rstrip()},\n{end}{tail}")
    else:
        file.write_text(f"{now}\n{text}")
