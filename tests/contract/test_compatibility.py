"""The check of contracts is itself checked: each kind of breaking change is a bad fixture that it
must refuse.
"""

import copy
from pathlib import Path

import compatibility
import pytest

from penstock.contracts.export import event_schemas

PROTO = """
syntax = "proto3";
package fixture.v1;
service S { rpc Get(Request) returns (Response); }
message Request { string name = 1; int32 count = 2;
  enum State { STATE_UNSPECIFIED = 0; STATE_ON = 1; } State state = 3; }
message Response { repeated string lines = 1; }
"""


def test_the_present_state_keeps_what_was_released() -> None:
    assert compatibility.main([]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e["properties"].pop("reason"), "reason is gone"),
        (lambda e: e["required"].append("overrides"), "overrides is required now"),
        (lambda e: e["properties"]["pipeline"].update(type="integer"), "pipeline is integer, was string"),
        (lambda e: e["properties"]["reason"].update(enum=["requested"]), "reason takes"),
        (lambda e: e["$defs"]["PartitionOffset"]["properties"].pop("offset"), "min_offsets[].offset is gone"),
    ],
)
def test_a_breaking_change_of_an_event_is_refused(change, said) -> None:  # type: ignore[no-untyped-def]
    released = {"TrainingRunRequested": event_schemas()["TrainingRunRequested"]}
    now = copy.deepcopy(released)
    change(now["TrainingRunRequested"])
    assert any(said in problem for problem in compatibility.breaking_events(released, now))


def test_an_optional_addition_to_an_event_is_fine() -> None:
    released = {"AuditStarted": event_schemas()["AuditStarted"]}
    now = copy.deepcopy(released)
    now["AuditStarted"]["properties"]["note"] = {"type": "string", "default": ""}
    assert compatibility.breaking_events(released, now) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("string name = 1;", "", "Request.name: removed"),
        ("string name = 1;", "string title = 1;", "number 1 is `title` now"),
        ("string name = 1;", "bytes name = 1;", "Request.name: has another type"),
        ("repeated string lines", "string lines", "Response.lines: has another type"),
        (
            "rpc Get(Request) returns (Response)",
            "rpc Get(Request) returns (stream Response)",
            "S.Get: removed or changed",
        ),
        ("STATE_ON = 1", "STATE_ON = 2", "STATE_ON: removed or renumbered"),
    ],
)
def test_a_breaking_change_of_a_proto_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert any(
        said in problem
        for problem in compatibility.breaking_protos(
            _compiled(tmp_path / "a", PROTO), _compiled(tmp_path / "b", PROTO.replace(old, new))
        )
    )


def test_additions_to_a_proto_are_fine(tmp_path: Path) -> None:
    added = PROTO.replace(
        "message Response {", "message Extra { int32 x = 1; }\nmessage Response { string note = 2;"
    )
    assert (
        compatibility.breaking_protos(_compiled(tmp_path / "a", PROTO), _compiled(tmp_path / "b", added))
        == []
    )


def _compiled(folder: Path, text: str):  # type: ignore[no-untyped-def]
    folder.mkdir()
    (folder / "fixture.proto").write_text(text)
    return compatibility.compile_protos(folder)
