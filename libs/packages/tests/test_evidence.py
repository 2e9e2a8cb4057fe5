"""Only a whole, true and new chain of statements opens the gate; every forgery is named."""

from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Tampered
from penstock.contracts.events import Envelope, GateResult, ModelVersionPromoted
from penstock.packages import dsse, evidence
from penstock.packages.evidence import Known, admissible
from penstock.packages.keys import Keys
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.packages import NOW, gate

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys"))
    keys.ensure(NOW - timedelta(days=1))
    return keys


def promoted(keys: Keys, *proof: Envelope, generation: int = 1) -> ModelVersionPromoted:
    return sample.promotion(keys, sample.version(DIGEST, keys), *proof, generation=generation)


def reasons(keys: Keys, event: ModelVersionPromoted, digest: str = DIGEST, known: Known | None = None) -> str:
    return "; ".join(admissible(event, keys.trust(), digest, known))


def test_a_signed_pass_opens(keys: Keys) -> None:
    event = promoted(keys, sample.verdict(keys, DIGEST))
    assert reasons(keys, event) == ""
    assert ModelVersionPromoted.model_validate_json(event.model_dump_json()) == event
    assert reasons(keys, ModelVersionPromoted.model_validate_json(event.model_dump_json())) == ""


@pytest.mark.parametrize("found", ["fail", "inconclusive"])
def test_a_signed_fail_opens_with_a_waiver_only(keys: Keys, found: str) -> None:
    gates = (sample.AUROC_PASSED, gate(found))
    verdict = sample.verdict(keys, DIGEST, *gates)
    assert f"equalized_odds_difference by sex at_most 0.15: {found}" in reasons(keys, promoted(keys, verdict))
    assert reasons(keys, promoted(keys, verdict, sample.waiver(keys, DIGEST, gates[1]))) == ""


def test_a_waiver_must_name_every_gate_that_did_not_pass(keys: Keys) -> None:
    gates = (gate("fail", metric="auroc"), gate("inconclusive"))
    waiver = sample.waiver(keys, DIGEST, gates[0])
    assert reasons(keys, promoted(keys, sample.verdict(keys, DIGEST, *gates), waiver)).startswith(
        "equalized_odds_difference by sex"
    )


def test_a_blocking_gate_cannot_be_waived(keys: Keys) -> None:
    blocking = gate("fail", on_fail="block")
    event = promoted(keys, sample.verdict(keys, DIGEST, blocking), sample.waiver(keys, DIGEST, blocking))
    assert "cannot be waived" in reasons(keys, event)


def test_evidence_about_another_model_is_refused(keys: Keys) -> None:
    assert "the verdict is about" in reasons(keys, promoted(keys, sample.verdict(keys, OTHER)))
    assert "the verdict is about" in reasons(keys, promoted(keys, sample.verdict(keys, DIGEST, name="other")))
    verdict = sample.verdict(keys, DIGEST, gate("fail"))
    assert "the waiver is about" in reasons(
        keys, promoted(keys, verdict, sample.waiver(keys, OTHER, gate("fail")))
    )
    assert "another audit" in reasons(
        keys, promoted(keys, verdict, sample.waiver(keys, DIGEST, gate("fail"), audit_id="A2"))
    )


def test_the_package_at_hand_must_be_the_one_promoted(keys: Keys) -> None:
    assert "the package is" in reasons(keys, promoted(keys, sample.verdict(keys, DIGEST)), digest=OTHER)


def test_an_older_generation_is_refused_and_the_same_promotion_again_is_not(keys: Keys) -> None:
    event = promoted(keys, sample.verdict(keys, DIGEST), generation=2)
    assert reasons(keys, event, known=Known(1, OTHER)) == ""
    assert reasons(keys, event, known=Known(2, DIGEST)) == ""
    for known in (Known(2, OTHER), Known(3, OTHER), Known(3, DIGEST)):
        assert "does not rise" in reasons(keys, event, known=known)


def test_an_event_that_says_other_than_its_signature_is_refused(keys: Keys) -> None:
    event = promoted(keys, sample.verdict(keys, DIGEST))
    assert "signed as generation 1, not 9" in reasons(keys, event.model_copy(update={"generation": 9}))
    other = event.version.model_copy(update={"digest": OTHER})
    assert "was signed for loans@sha256:a" in reasons(
        keys, event.model_copy(update={"version": other}), digest=OTHER
    )
    later = sample.verdict(keys, DIGEST, audit_id="A2")
    assert "signed on other evidence" in reasons(keys, event.model_copy(update={"evidence": (later,)}))


def test_a_verdict_that_its_gates_contradict_opens_nothing(keys: Keys) -> None:
    statement = evidence.Verdict(
        pipeline="loans",
        digest=DIGEST,
        at=NOW,
        audit_id="A1",
        verdict="pass",
        gates=(gate("fail"),),
        result_digest=OTHER,
    )
    lying = dsse.sign(statement, keys.signer("audit"))
    assert "its gates say fail" in reasons(keys, promoted(keys, lying))


def test_no_evidence_and_too_much_evidence_are_refused(keys: Keys) -> None:
    verdict = sample.verdict(keys, DIGEST)
    event = promoted(keys, verdict)
    for proof in ((), (verdict, verdict), (event.promotion, verdict), (sample.waiver(keys, DIGEST, gate()),)):
        assert "evidence is one signed verdict" in reasons(keys, event.model_copy(update={"evidence": proof}))


def forged(envelope: Envelope, **changes: object) -> Envelope:
    return envelope.model_copy(update=changes)


def test_the_wrong_role_is_refused(keys: Keys) -> None:
    verdict = sample.verdict(keys, DIGEST)
    payload = dsse._decode(verdict.payload, "payload")
    for kind in (evidence.Verdict, evidence.Waiver):
        message = dsse.pae(kind.payload_type, payload)
        registry = keys.signer("registry")
        by_registry = Envelope(
            payload_type=kind.payload_type,
            payload=verdict.payload,
            signatures=({"keyid": registry.keyid, "sig": b64encode(registry.sign(message)).decode()},),  # type: ignore[arg-type]
        )
        with pytest.raises(Tampered, match="may sign as registry"):
            dsse.verify(by_registry, keys.trust(), kind)
    with pytest.raises(ValueError, match="signed by audit"):
        dsse.sign(dsse.verify(verdict, keys.trust(), evidence.Verdict), keys.signer("registry"))


def test_a_statement_cannot_be_passed_off_as_another_kind(keys: Keys) -> None:
    verdict = sample.verdict(keys, DIGEST)
    with pytest.raises(Tampered, match="does not hold"):
        dsse.verify(forged(verdict, payload_type=evidence.Waiver.payload_type), keys.trust(), evidence.Waiver)


def test_a_strangers_signature_and_none_are_refused(keys: Keys, tmp_path: Path) -> None:
    stranger = Keys(tmp_path)
    stranger.ensure()
    for envelope, said in (
        (sample.verdict(stranger, DIGEST), "not in the trust store"),
        (forged(sample.verdict(keys, DIGEST), signatures=()), "there is no signature"),
    ):
        with pytest.raises(Tampered, match=said):
            dsse.verify(envelope, keys.trust(), evidence.Verdict)
    own = sample.verdict(stranger, DIGEST).signatures[0]
    borrowed = own.model_copy(update={"keyid": keys.signer("audit").keyid})
    with pytest.raises(Tampered, match="does not hold"):
        dsse.verify(
            forged(sample.verdict(keys, DIGEST), signatures=(borrowed,)), keys.trust(), evidence.Verdict
        )


def test_a_retired_key_signs_nothing_new(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.ensure(NOW)
    before = sample.verdict(keys, DIGEST, at=NOW + timedelta(hours=1))
    late = sample.verdict(keys, DIGEST, at=NOW + timedelta(hours=3))
    keys.rotate("audit", now=NOW + timedelta(hours=2))
    dsse.verify(before, keys.trust(), evidence.Verdict)
    with pytest.raises(Tampered, match="retired"):
        dsse.verify(late, keys.trust(), evidence.Verdict)


@settings(max_examples=60, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), field=st.sampled_from(["payload", "sig"])
)
def test_any_flipped_bit_of_an_envelope_is_found(keys: Keys, place: float, bit: int, field: str) -> None:
    verdict = sample.verdict(keys, DIGEST)
    text = verdict.payload if field == "payload" else verdict.signatures[0].sig
    content = bytearray(dsse._decode(text, field))
    content[int(place * len(content))] ^= 1 << bit
    changed = b64encode(content).decode()
    signature = verdict.signatures[0].model_copy(update={"sig": changed})
    broken = (
        forged(verdict, payload=changed) if field == "payload" else forged(verdict, signatures=(signature,))
    )
    with pytest.raises(Tampered):
        dsse.verify(broken, keys.trust(), evidence.Verdict)


GATES = st.builds(
    gate,
    st.sampled_from(["pass", "fail", "inconclusive"]),
    st.sampled_from(["review", "block"]),
    st.sampled_from(["auroc", "equalized_odds_difference"]),
)


@given(
    gates=st.lists(GATES, max_size=4, unique_by=lambda one: one.metric),
    waived=st.sets(st.sampled_from(["auroc", "equalized_odds_difference"])),
)
def test_the_gate_is_open_exactly_when_each_gate_passed_or_is_waived_and_waivable(
    gates: list[GateResult], waived: set[str]
) -> None:
    said = {one.verdict for one in gates}
    overall = "fail" if "fail" in said else "inconclusive" if "inconclusive" in said else "pass"
    base = {"pipeline": "loans", "digest": DIGEST, "at": NOW, "audit_id": "A1"}
    verdict = evidence.Verdict.model_validate(
        base | {"verdict": overall, "gates": gates, "result_digest": OTHER}
    )
    names = tuple(evidence.gate_name(one) for one in gates if one.metric in waived)
    waiver = (
        evidence.Waiver.model_validate(base | {"gates": names, "decided_by": "Ada", "why": "so"})
        if names
        else None
    )
    shut = [
        one
        for one in gates
        if one.verdict != "pass" and not (one.metric in waived and one.on_fail == "review")
    ]
    assert len(evidence.closed_gates(verdict, waiver)) == len(shut)


def test_pae_is_that_of_the_specification() -> None:
    assert (
        dsse.pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"defaults": 2}, "nothing was judged: the pipeline file has no gates"),
        ({"defaults": 2, "promotion": {"without_gates": "allowed"}}, ""),
        ({"defaults": 1}, ""),  # applied before there was the key
    ],
)
def test_an_audit_without_gates_opens_where_the_packages_file_allows_it(
    keys: Keys, file: dict[str, object], said: str
) -> None:
    event = promoted(keys, sample.verdict(keys, DIGEST, judged=False))
    asked = lending.pipeline(**{"audit": {}, **file})
    found = admissible(event, keys.trust(), DIGEST, asked=asked)
    assert [reason.partition(". ")[0] for reason in found] == ([said] if said else [])


def test_an_audit_that_passes_over_all_of_the_files_gates_opens_nothing(keys: Keys) -> None:
    event = promoted(keys, sample.verdict(keys, DIGEST, judged=False))
    found = admissible(event, keys.trust(), DIGEST, asked=lending.pipeline(defaults=2))
    assert found == ["the audit judged none of the gates that the pipeline file asks for"]
