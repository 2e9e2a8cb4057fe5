"""Holders of an older trust store follow the registry's rotations, and nobody else's word."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.contracts.errors import Tampered
from penstock.packages import trust_updates
from penstock.packages.keys import Keys, NoKey, Role
from penstock.packages.trust_updates import Followed, first


def updates(keys: Keys) -> tuple[trust_updates.Envelope, ...]:
    return trust_updates.read(keys.directory)


def names(followed: Followed, role: Role) -> set[str]:
    return {name for name, key in followed.trust.keys.items() if key.role == role}


def test_a_store_that_missed_several_rotations_goes_on_from_there(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    known = first(updates(keys))
    for role in ("registry", "audit", "registry"):
        keys.rotate(role)
    followed = known.after(updates(keys))
    assert followed.serial > known.serial
    assert followed == first(updates(keys)) == known.after(updates(keys)).after(updates(keys))
    assert keys.signer("registry").keyid in names(followed, "registry")
    retired = [key for key in followed.trust.keys.values() if key.retired_at]
    assert len(retired) == 3


def test_a_revoked_key_leaves_the_store_that_follows(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    known, leaked = first(updates(keys)), keys.signer("registry").keyid
    keys.rotate("registry", revoke=True)
    assert names(known.after(updates(keys)), "registry") == {keys.signer("registry").keyid}
    assert leaked not in known.after(updates(keys)).trust.keys


def test_nobody_else_can_tell_of_keys(tmp_path: Path) -> None:
    keys, thief = Keys(tmp_path / "keys"), Keys(tmp_path / "thief" / "keys")
    keys.ensure()
    known = first(updates(keys))
    for store in (keys, thief):
        store.ensure()
        store.rotate("registry")
    with pytest.raises(Tampered, match="not in the trust store"):
        known.after(updates(thief))
    audit = trust_updates.appended((), thief.trust().keys, keys.signer("registry"))
    assert known.after(audit) == known  # an older serial is no news
    edited = updates(keys)[-1].model_copy(update={"payload": updates(thief)[-1].payload})
    with pytest.raises(Tampered, match="does not hold"):
        known.after([*updates(keys)[:-1], edited])


def test_the_registry_signs_what_another_service_wrote(tmp_path: Path) -> None:
    registry = Keys(tmp_path / "keys", tmp_path / "registry")
    audit = Keys(tmp_path / "keys", tmp_path / "audit")
    registry.ensure(roles=["registry"])
    known = first(updates(registry))
    audit.ensure(roles=["audit"])
    assert known.after(updates(registry)) == known  # its key is not at hand there
    registry.endorse()
    registry.endorse()
    assert len(updates(registry)) == 2
    assert names(known.after(updates(registry)), "audit") == {audit.signer("audit").keyid}


def test_without_updates_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(NoKey, match="has not signed"):
        first(trust_updates.read(tmp_path))
    (tmp_path / trust_updates.FILE).write_text('[{"payload": 1}]')
    with pytest.raises(Tampered, match="no updates"):
        trust_updates.read(tmp_path)
