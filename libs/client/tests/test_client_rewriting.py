"""A study's choice in the user's own file: what it does not change stays to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from penstock.client.rewriting import rewritten, with_stopped
from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.load import read

ROOT = Path(__file__).resolve().parents[3]
CREDIT_RISK = (ROOT / "examples" / "credit-risk" / "pipeline.yaml").read_text()
FLOWING = "model: {type: mlp, hidden: [32], dropout: 0.2}\n"
COMMENTED = """\
model:   # mine
  # the family
  type: mlp  # a net
  hidden: [32]
  dropout: 0.2  # a lot
  # end of model

# about the training
"""


def lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """Lines that only one of them has."""
    before, after = old.splitlines(), new.splitlines()
    return [line for line in before if line not in after], [line for line in after if line not in before]


def test_only_the_line_of_a_changed_key_changes() -> None:
    new = rewritten(CREDIT_RISK, {"trainer.batch_size": 64, "model.dropout": 0.1}, "pipeline.yaml")
    assert lines(CREDIT_RISK, new) == (
        [FLOWING.strip(), "  batch_size: 128"],
        ["model: {type: mlp, hidden: [32], dropout: 0.1}", "  batch_size: 64"],
    )


def test_comments_within_a_changed_section_stay() -> None:
    text = CREDIT_RISK.replace(FLOWING, COMMENTED)
    new = rewritten(text, {"model": {"type": "mlp", "hidden": [64, 32], "dropout": 0.1}}, "pipeline.yaml")
    assert lines(text, new) == (
        ["  hidden: [32]", "  dropout: 0.2  # a lot"],
        ["  hidden: [64, 32]", "  dropout: 0.1  # a lot"],
    )


def test_a_section_that_the_file_leaves_out_comes_at_its_end() -> None:
    text = CREDIT_RISK.replace(FLOWING, "").rstrip("\n")
    new = rewritten(text, {"model": {"type": "linear"}}, "pipeline.yaml")
    assert new == text + "\nmodel:\n  type: linear\n"


@pytest.mark.parametrize(
    "example", sorted(path.parent.name for path in ROOT.glob("examples/*/pipeline.yaml"))
)
def test_the_file_says_then_what_the_run_did(example: str) -> None:
    text = (ROOT / "examples" / example / "pipeline.yaml").read_text()
    overrides: dict[str, Any] = {"trainer.epochs": 17, "training.seed": 9}
    new = read(rewritten(text, overrides, example))
    assert (new.trainer.epochs, new.training.seed) == (17, 9)
    assert rewritten(text, {}, example) == text


def test_what_the_file_cannot_take_is_refused() -> None:
    with pytest.raises(Invalid, match=r"model\.drop"):
        rewritten(CREDIT_RISK, {"model.drop": 0.1}, "pipeline.yaml")


@pytest.mark.parametrize(
    "serving",
    ["", "serving: {record: required}\n", "serving:  # the door\n  record: required  # the law\n"],
)
def test_a_stop_is_one_key_and_resuming_takes_it_out_again(serving: str) -> None:
    text = CREDIT_RISK.replace("\nserving: {record: required}\n", "") + serving
    stopped = with_stopped(text, "wrong: 40 % of women's", "pipeline.yaml")
    assert read(stopped).serving.stopped == "wrong: 40 % of women's"
    assert read(with_stopped(stopped, "another", "pipeline.yaml")).serving.stopped == "another"
    assert with_stopped(stopped, None, "pipeline.yaml") == text
    assert with_stopped(text, None, "pipeline.yaml") == text


RECORDED = CREDIT_RISK.replace("\nserving: {record: required}\n", "")
FORMS = {
    "json": json.dumps(YAML(typ="safe").load(RECORDED)),
    "json, indented": json.dumps(YAML(typ="safe").load(RECORDED), indent=2),
    "json that serves": json.dumps(YAML(typ="safe").load(CREDIT_RISK)),
    "json that serves, indented": json.dumps(YAML(typ="safe").load(CREDIT_RISK), indent=2),
    "a quoted key": RECORDED + '"serving": {record: required}\n',
    "a quoted key, in lines": RECORDED + '"serving":\n  record: required\n',
    "an ended document": RECORDED + "...\n",
    "a begun and ended document": "---\n" + CREDIT_RISK + "...\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_without_lines_for_each_section_is_stopped_and_resumed_too(form: str) -> None:
    text = FORMS[form]
    stopped = with_stopped(text, "wrong: 40 % of women's", "pipeline.yaml")
    assert read(stopped).serving.stopped == "wrong: 40 % of women's"
    assert read(with_stopped(stopped, "another", "pipeline.yaml")).serving.stopped == "another"
    assert read(with_stopped(stopped, None, "pipeline.yaml")) == read(text)
    assert with_stopped(text, None, "pipeline.yaml") == text


@pytest.mark.parametrize("form", ["json", "a quoted key"])
def test_a_studys_choice_does_not_write_such_a_file_anew(form: str) -> None:
    with pytest.raises((Conflict, Invalid)):
        rewritten(FORMS[form], {"serving.record": "best_effort"}, "pipeline.yaml")
