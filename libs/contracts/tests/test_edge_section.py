"""`edge`: what may leave a site, and files that would have ingest reject all that comes from one."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.load import BadPipeline, read
from penstock.contracts.pipeline import Pipeline

TEXT = """\
version: 1
pipeline: loans
entities: {applicant: {key: applicant_id}}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: at
    fields:
      applicant_id: {type: text, personal: true}
      income: {type: number}
      note: {type: text, personal: true}
      sex: {type: category, personal: true, required: true}
      defaulted: {type: boolean}
targets: {defaulted: {from: applications.defaulted, type: binary}}
"""


def problems(edge: str) -> list[str]:
    with pytest.raises(BadPipeline) as bad:
        read(TEXT + f"edge: {edge}\n")
    return [problem.show("f").partition("  ")[2] for problem in bad.value.problems]


def test_by_default_what_is_personal_stays() -> None:
    file = read(TEXT)  # it may be of a pipeline that no site serves
    assert file.withheld("applications") == {"note", "sex"}
    assert "edge" not in file.model_dump()


def test_a_list_says_all_that_leaves_beside_the_key() -> None:
    file = read(TEXT + "edge: {may_leave: [income, sex]}\n")
    assert file.withheld("applications") == {"note", "defaulted"}
    again: Any = Pipeline.model_validate_json(file.model_dump_json(by_alias=True))
    assert again == file


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        ("{may_leave: [income]}", "edge.may_leave: `applications.sex` is required and may not leave a site"),
        ("{}", "edge.may_leave: `applications.sex` is required and may not leave a site"),
        ("{may_leave: [sex, incom]}", "edge.may_leave[1]: no source has a field `incom`; did you mean"),
        ("{may_leave: [sex, sex]}", "edge.may_leave[0]: `sex` is listed twice"),
        ("{may_leaf: [sex]}", "edge.may_leaf: no key `may_leaf`; did you mean `may_leave`?"),
    ],
)
def test_what_cannot_be_meant_is_refused(edge: str, said: str) -> None:
    assert problems(edge)[0].startswith(said)
