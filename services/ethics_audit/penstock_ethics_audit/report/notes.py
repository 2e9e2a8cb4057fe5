"""Sentences to be read with the verdict, whatever that is: in the signed result, on the report's first
page, and on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock_ethics_audit.looks import words
from penstock_ethics_audit.result import Result


def notes(result: Result) -> tuple[str, ...]:
    """Lists them, gravest first."""
    looks = words(result.looks, result.findings.gates)
    return (*_copies(result), *([looks] if looks else []))


def _copies(result: Result) -> Iterator[str]:
    found = result.twins
    if found is not None and found.copies:
        yield (
            f"{found.rows:,} of {found.audit_rows:,} audit rows stand in the training part too, equal in all"
            " inputs and the label: more than chance explains, and it makes these figures too good. Rows"
            " that were published again under another id are such; so are, in a split by time, entities"
            " that did not change."
        )
