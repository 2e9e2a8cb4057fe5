"""Keys are made once, kept private, and a rotation cut off anywhere is finished by the next `ensure`."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.contracts.errors import TREATMENTS, Conflict, NotFound, Tampered, Unavailable
from penstock.packages import trust_updates
from penstock.packages.keys import ROLES, Keys, NoKey
from penstock.packages.trust_updates import first
from penstock.testing.packages import NOW


def test_ensure_makes_what_is_missing_and_changes_nothing_else(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    first = keys.ensure(NOW)
    assert {key.role for key in first.keys.values()} == set(ROLES)
    assert keys.ensure(NOW + timedelta(days=1)) == first == keys.trust()
    (tmp_path / "keys" / "trust.json").unlink()
    assert set(keys.ensure().keys) == set(first.keys)


def test_files_are_private(tmp_path: Path) -> None:
    Keys(tmp_path / "keys").ensure()
    for folder in (tmp_path / "keys", tmp_path / "keys-training"):
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_services_that_start_together_make_one_set_of_keys(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        trusts = list(pool.map(lambda _: Keys(tmp_path / "keys").ensure(), range(8)))
    assert len({tuple(sorted(trust.keys)) for trust in trusts}) == 1
    assert len(trusts[0].keys) == len(ROLES)


def test_a_release_that_knows_two_roles_can_read_their_store(tmp_path: Path) -> None:
    trust = Keys(tmp_path / "keys").ensure(NOW)
    stored = {
        folder: json.loads((tmp_path / folder / "trust.json").read_text())
        for folder in ("keys", "keys-training")
    }
    assert [sorted(key["role"] for key in keys.values()) for keys in stored.values()] == [
        ["audit", "registry"],
        ["feature_store", "trainer"],
    ]
    assert stored["keys"] | stored["keys-training"] == {
        name: key.model_dump(mode="json") for name, key in trust.keys.items()
    }


def test_keys_of_unknown_roles_are_left_out_and_kept(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    known = keys.ensure(NOW)
    store = tmp_path / "keys" / "trust.json"
    stored = json.loads(store.read_text())
    later = stored[keys.signer("audit").keyid] | {"role": "notary", "since": "the next release"}
    store.write_text(json.dumps(stored | {"f00": later}))
    assert keys.trust() == known
    keys.rotate("registry", now=NOW)
    assert json.loads(store.read_text())["f00"]["role"] == "notary"


def test_who_trains_adds_no_key_of_the_registry(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    known = keys.ensure(NOW)
    store = tmp_path / "keys-training" / "trust.json"
    stored = json.loads(store.read_text())
    trainers = stored[keys.signer("trainer").keyid]
    forged = {"f00": trainers | {"role": "registry"}, keys.signer("registry").keyid: trainers}
    store.write_text(json.dumps(stored | forged))
    assert keys.trust() == known


def test_a_retired_key_keeps_its_older_statements_and_gets_no_new_ones(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.ensure(NOW)
    old = keys.signer("registry")
    rotated = NOW + timedelta(days=1)
    new = keys.rotate("registry", now=rotated)
    trust = keys.trust()
    assert keys.signer("registry").keyid == new.keyid != old.keyid
    assert trust.key(old.keyid, "registry", NOW).verifies(b"m", old.sign(b"m"))
    assert trust.key(old.keyid, "registry").retired_at == rotated
    with pytest.raises(Tampered, match="retired"):
        trust.key(old.keyid, "registry", rotated + timedelta(seconds=1))
    trust.key(new.keyid, "registry", rotated + timedelta(seconds=1))


def test_a_revoked_key_counts_for_nothing(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.ensure(NOW)
    old = keys.signer("audit")
    keys.rotate("audit", revoke=True, now=NOW)
    with pytest.raises(Tampered, match="not in the trust store"):
        keys.trust().key(old.keyid, "audit", NOW)


def test_a_retired_key_may_be_revoked_later_and_the_present_one_may_not(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.ensure(NOW)
    old = keys.signer("registry")
    with pytest.raises(Conflict, match="Rotate it first"):
        keys.revoke(old.keyid)
    new = keys.rotate("registry", now=NOW)
    keys.revoke(old.keyid)
    with pytest.raises(Tampered, match="not in the trust store"):
        keys.trust().key(old.keyid, "registry", NOW)
    assert new.keyid in keys.ensure(NOW).keys
    with pytest.raises(NotFound, match=old.keyid):
        keys.revoke(old.keyid)


@pytest.mark.parametrize("writes_before_the_crash", [1, 2, 3, 4])
def test_a_rotation_cut_off_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before_the_crash: int
) -> None:
    keys = Keys(tmp_path)
    keys.ensure(NOW)
    known = first(trust_updates.read(tmp_path))
    write, done = keys._write, []

    def crashing(name: str, content: bytes) -> None:
        if len(done) == writes_before_the_crash + 1:  # `rotate` begins with `ensure`, which writes once
            raise RuntimeError("cut off")
        done.append(name)
        write(name, content)

    monkeypatch.setattr(keys, "_write", crashing)
    with pytest.raises(RuntimeError):
        keys.rotate("registry", now=NOW)
    monkeypatch.undo()
    trust = keys.ensure(NOW)
    present = [name for name, key in trust.keys.items() if key.role == "registry" and key.retired_at is None]
    assert present == [keys.signer("registry").keyid]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "audit.pem",
        "feature_store.pem",
        "registry.pem",
        "trainer.pem",
        "trust.json",
        "updates.json",
    ]
    assert known.after(trust_updates.read(tmp_path)).trust.keys.items() <= trust.keys.items()


def test_a_key_speaks_for_its_role_only(tmp_path: Path) -> None:
    trust = Keys(tmp_path).ensure()
    registry = Keys(tmp_path).signer("registry")
    with pytest.raises(Tampered, match="may sign as registry"):
        trust.key(registry.keyid, "audit")


def test_a_role_without_any_key_is_waited_for(tmp_path: Path) -> None:
    """A lost store that others fill first; from then on an unknown key is a stranger's."""
    keys = Keys(tmp_path / "keys")
    keys.ensure(NOW, roles=["audit"])
    for role in ("registry", "trainer"):
        with pytest.raises(NoKey, match=f"no key of role {role}"):
            keys.trust().key("f00", role)
    keys.ensure(NOW)
    for role in ("registry", "trainer"):
        with pytest.raises(Tampered, match="not in the trust store"):
            keys.trust().key("f00", role)


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with pytest.raises(Unavailable, match="penstock keys init"):
        keys.signer("registry")
    with pytest.raises(Unavailable, match="no trust store"):
        keys.trust()
    (tmp_path / "trust.json").write_text("{]")
    with pytest.raises(Tampered, match="no trust store") as damaged:
        keys.trust()
    assert TREATMENTS[damaged.value.kind].retry, "nothing is judged by it, and nothing refused"


def test_each_service_keeps_its_private_key_to_itself(tmp_path: Path) -> None:
    """The trust store is shared; a private key is made where only its service looks, and the
    other's is out of reach.
    """
    registry = Keys(tmp_path / "trust", tmp_path / "registry")
    audit = Keys(tmp_path / "trust", tmp_path / "audit")
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda who: who[0].ensure(NOW, roles=[who[1]]), [(registry, "registry"), (audit, "audit")]
            )
        )
    trust = Keys(tmp_path / "trust").trust()
    assert {key.role for key in trust.keys.values()} == {"registry", "audit"}
    assert set(trust.keys) == {registry.signer("registry").keyid, audit.signer("audit").keyid}
    for keys, others in ((registry, "audit"), (audit, "registry")):
        with pytest.raises(Unavailable, match="no key of role"):
            keys.signer(others)
    assert {path.name for path in tmp_path.rglob("*.pem")} == {"registry.pem", "audit.pem"}
    rotated = registry.rotate("registry", now=NOW + timedelta(days=1))
    assert Keys(tmp_path / "trust").trust().keys[rotated.keyid].role == "registry"
    assert [path.parent.name for path in tmp_path.rglob("registry.pem")] == ["registry"]
