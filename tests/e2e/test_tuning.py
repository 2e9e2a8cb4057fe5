"""docs/tuning.md as a reader follows it: from events to a promoted version with its study in the
lineage, and into the file.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from census import ROOT, Served, poor_text, run_penstock
from ruamel.yaml import YAML

from penstock.client.studies import ENDED
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

NAME = "census-tuned"
ROWS = 1_500
COMMANDS = "".join(re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "tuning.md").read_text(), re.DOTALL))


def trials_in_mlflow(home: Path) -> int:
    """Finished runs of the pipeline below another one, read beside MLflow, whose import takes seconds."""
    query = (
        "SELECT count(*) FROM tags JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id)"
        " WHERE key = 'mlflow.parentRunId' AND status = 'FINISHED' AND experiments.name = ?"
    )
    with closing(sqlite3.connect(f"file:{home / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True)) as store:
        return int(store.execute(query, [NAME]).fetchone()[0])


def test_a_better_model_is_found_promoted_and_kept(
    served: Served, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(poor_text(NAME))
    assert "census-tuned: no pipeline" in run_penstock(stack, "tune", NAME).stderr
    assert run_penstock(stack, "apply", str(file)).returncode == 0
    assert "nothing to train on" in run_penstock(stack, "tune", NAME).stderr
    served.journey.publish(NAME, "people", served.events[:ROWS])

    page = tmp_path / "study.html"
    names, said = {"PIPELINE": NAME, "FILE": str(file), "PAGE": str(page)}, {}
    for command in COMMANDS.splitlines():
        words = [names.get(word, word) for word in command.split()[1:]]
        done = run_penstock(stack, *words)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[" ".join(words[:2])] = done.stdout
        (study,) = served.client.studies.list(NAME)
        names["STUDY"] = study.study_id
        if words[0] == "tune":
            run = served.client.runs.get(study.run_id)
            assert 0 < study.best < 3
    assert f"study {study.study_id} of {NAME}, completed: 4 of 4 trials" in said["study show"]
    assert re.search("<h2>Trial [12] was chosen</h2>.*better than your own values", page.read_text())
    assert "better than your own values" in said[f"tune {NAME}"]
    assert "promoted: generation 1\nserved" in said[f"tune {NAME}"]

    told = run_penstock(stack, "trace", run.digest).stdout
    assert f"of study {study.study_id}, chosen by the least train_loss + 50 * validation_loss" in told
    chosen = YAML(typ="safe").load(file.read_text())["model"]
    assert chosen["hidden"] == [16]
    assert "# Three trials, on one split." in file.read_text()
    until(lambda: trials_in_mlflow(stack.home) == 4, what="MLflow has the study's trials below its run")
    left = json.loads(run_penstock(stack, "tune", NAME, "--trials", "1", "--detach", "--json").stdout)
    assert not left.get("conclusion")
    until(lambda: served.client.studies.get(left["study_id"]).state in ENDED, what="it ends on its own")
    own = served.client.studies.get(left["study_id"])
    assert (own.best, own.conclusion) == (0, "no better than yours: keep it")
