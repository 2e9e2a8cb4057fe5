"""Run by `test_add_a_format.py` with the page's format on the path."""

from __future__ import annotations

import json

from penstock.contracts.formats import entity_key
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.reference import reference
from penstock.contracts.validation import Accepted, Rules

TEXT = """\
version: 1
pipeline: small
entities: {row: {key: row_id}}
sources:
  rows:
    entity: row
    id: id
    timestamp: at
    format: {type: csv, columns: [id, row_id, at, x, good], delimiter: ;}
    fields: {x: {type: number, range: [0, 10]}, good: {type: boolean}}
targets: {good: {from: rows.good, type: binary}}
"""
LINES = [
    "e1;r1;2026-01-31T12:00:00Z;2.5;true",
    'e2;r1;2026-01-31T12:00:00Z;;"false"',
    "e3;r1;2026-01-31T12:00:00Z;much;true",
    "e4;r1;2026-01-31T12:00:00Z;11;true",
    "e5;r1",
    "",
]


def problems(wrong: str) -> list[str]:
    try:
        read(TEXT.replace("{type: csv, columns: [id, row_id, at, x, good], delimiter: ;}", wrong))
    except BadPipeline as error:
        return [problem.show("file") for problem in error.problems]
    return []


rules = Rules(read(TEXT), "rows")
answers = [rules.check(line.encode()) for line in LINES] + [rules.check(b"\xff;")]
print(
    json.dumps(
        {
            "answers": [
                [answer.id, answer.fields] if isinstance(answer, Accepted) else [answer.reason, answer.detail]
                for answer in answers
            ],
            "keys": [
                (entity_key(line.encode(), read(TEXT).sources["rows"], "row_id") or b"").decode()
                for line in LINES
            ],
            "problems": [
                problems(wrong)
                for wrong in (
                    "csv",
                    "{type: csv, columns: [id], delimitre: ;}",
                    "{columns: [id]}",
                    "{type: csf}",
                    "json",
                )
            ],
            "reference": reference(),
        }
    )
)
