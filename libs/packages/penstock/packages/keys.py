"""Keys and the trust store: who may sign what.

`keys/<role>.pem` is a role's present private key (EC P-256, PKCS#8). `keys/trust.json` lists every
public key that counts, by key id: `{keyid: {role, public_key, created_at, retired_at}}`. The roles:
`registry` signs applied pipelines, packages and promotions, `audit` verdicts and reviews, `trainer`
runs, `feature_store` training sets. A key counts for its own role only, so that no service can
speak for another.

The keys of trainer and feature store lie in `keys-training/trust.json`: an older release cannot read
a store with roles that it does not know, and neither of the two may write where the registry's and
the audit's keys are looked for. A reader leaves out keys of roles that do not belong in a store.

Each change of the first store is signed, too, for sites (`trust_updates.py`).

Files are 0600 and replaced by rename. `Keys` reads them at each use, so a rotation needs no
restart. Where each service has a file system of its own, private keys lie apart from the trust
store, each with its service alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from penstock.contracts.errors import Conflict, NotFound, Tampered, Unavailable

Role = Literal["registry", "audit", "trainer", "feature_store"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
TRUST_FILE = "trust.json"
_STORES: Final[dict[str, frozenset[Role]]] = {
    "-training": frozenset({"trainer", "feature_store"}),
    "": frozenset({"registry", "audit"}),
}
"""Roles whose keys count in a store, by what its folder's name adds to `keys`. Of two keys with one
id the later store's counts.
"""
_SIGNATURE = ec.ECDSA(hashes.SHA256())
_PUBLIC = PublicFormat.SubjectPublicKeyInfo


class NoKey(Unavailable):
    """A key is missing, so nothing can be signed, or judged, that needs it: it waits, however long.
    Whoever made a forgery waits with it, and is told apart once the key is there.
    """


class NoTrust(NoKey, Tampered):
    """A trust store that cannot be read as one: what it held counts again once it is mended."""


class TrustedKey(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str  # A newer release may have more than `Role`
    public_key: str  # PEM, SubjectPublicKeyInfo
    created_at: AwareDatetime
    retired_at: AwareDatetime | None = None

    def verifies(self, message: bytes, signature: bytes) -> bool:
        key = load_pem_public_key(self.public_key.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Tampered("the trust store holds a key that is not on an elliptic curve")
        try:
            key.verify(signature, message, _SIGNATURE)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Trust:
    """Trust store as a value: public keys by key id."""

    keys: Mapping[str, TrustedKey]

    def key(self, keyid: str, role: Role, at: datetime | None = None) -> TrustedKey:
        """Finds the key, if it may have signed as `role` at `at`, the time that the signed
        statement gives. Raises Tampered, and NoKey while the store has no key of the role at all: a
        lost store is filled again by each service at its start, as that of training is by an upgrade.

        A retired key's older statements stay good: evidence is kept for years, and what is served
        today may have been promoted before the last rotation. The time is the signer's own word, so
        it cannot keep out a thief, who would back-date; it keeps out a service that still signs
        with a key it should have dropped. What limits the thief is that rotating overwrites the
        private key, so there is nothing left to steal; that a forged promotion needs a generation
        above the last one known, and evidence by the other role; and that a key which did leak is
        not retired but revoked: it leaves the store, and nothing that it signed counts any more. A
        package's signature carries no time (`at` is None) and is good while the key is in the
        store: nothing is loaded on it alone.
        """
        trusted = self.keys.get(keyid)
        if trusted is None:
            if all(known.role != role for known in self.keys.values()):
                raise NoKey(f"the trust store has no key of role {role}", remedy=f"Start the {role}")
            raise Tampered(f"key {keyid} is not in the trust store")
        if trusted.role != role:
            raise Tampered(f"key {keyid} may sign as {trusted.role}, not as {role}")
        if at is not None and trusted.retired_at is not None and at > trusted.retired_at:
            raise Tampered(
                f"key {keyid} was retired at {trusted.retired_at:%Y-%m-%d %H:%M:%S} UTC, before this was"
                " signed"
            )
        return trusted


@dataclass(frozen=True)
class Signer:
    """Private key that a role signs with now."""

    role: Role
    path: Path
    pem: bytes

    @cached_property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key(self.pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Conflict("not an EC P-256 key", where=str(self.path))
        return key

    @cached_property
    def keyid(self) -> str:
        """Name of the key: the first 16 hexadecimal digits of the sha256 of its
        SubjectPublicKeyInfo. A name only: the trust store holds the whole key.
        """
        public = self.private_key.public_key()
        return hashlib.sha256(public.public_bytes(Encoding.DER, _PUBLIC)).hexdigest()[:16]

    def trusted(self, since: datetime) -> TrustedKey:
        """Entry of the trust store for this key."""
        pem = self.private_key.public_key().public_bytes(Encoding.PEM, _PUBLIC).decode()
        return TrustedKey(role=self.role, public_key=pem, created_at=since)

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, DER."""
        return self.private_key.sign(message, _SIGNATURE)


class Keys:
    """Directory of keys. Every call reads the files anew; they are small."""

    def __init__(self, directory: Path, private: Path | None = None) -> None:
        """`directory` holds the trust store, and the private keys where they have no directory of
        their own, `private`.
        """
        self.directory = directory
        self._private = private or directory

    def signer(self, role: Role) -> Signer:
        """Reads the role's private key. Raises NoKey while there is none: it can be made at any
        time, and what waits for it goes on.
        """
        path = self._private / f"{role}.pem"
        try:
            return Signer(role, path, path.read_bytes())
        except FileNotFoundError as error:
            raise NoKey(
                f"there is no key of role {role}", where=str(path), remedy="Make it with `penstock keys init`"
            ) from error

    def trust(self) -> Trust:
        """Reads the trust store, with the keys of training where they are made. Raises NoKey
        while there is none, NoTrust where it cannot be read as one.
        """
        if not (main := self._store("")).exists():
            raise NoKey(
                "there is no trust store", where=str(main), remedy="Make it with `penstock keys init`"
            )
        return Trust(
            {
                name: key
                for folder, roles in _STORES.items()
                for name, key in _read(self._store(folder)).items()
                if key.role in roles
            }
        )

    def ensure(self, now: datetime | None = None, *, roles: Iterable[Role] = ROLES) -> Trust:
        """Makes what is missing for `roles`, and finishes a rotation that was cut off. Safe beside
        others that do the same.
        """
        now = now or datetime.now(UTC)
        made: dict[str, TrustedKey] = {}
        for folder, theirs in _STORES.items():
            if here := [role for role in roles if role in theirs]:
                made |= self._ensure(self._store(folder), here, now)
        return Trust(made)

    def _ensure(self, store: Path, roles: Iterable[Role], now: datetime) -> Mapping[str, TrustedKey]:
        with self._locked(store):
            keys = _read(store)
            for role in roles:
                if not (path := self._private / f"{role}.pem").exists():
                    self._write(path, _new_private_pem())
                present = self.signer(role)
                keys = _retire_all_but(present, {present.keyid: present.trusted(now), **keys}, now)
            return self._write_trust(store, keys)

    def rotate(self, role: Role, *, revoke: bool = False, now: datetime | None = None) -> Signer:
        """Makes a new key for `role`. The old one is retired, or, when it has leaked, revoked:
        nothing that it signed counts any more.

        The new key is trusted before it is used and the old one until it is no longer: a crash in
        between leaves both, and `ensure` retires the old one.
        """
        now = now or datetime.now(UTC)
        self.ensure(now, roles=[role])
        store = self._store_of(role)
        with self._locked(store):
            old = self.signer(role)
            new = Signer(role, old.path, _new_private_pem())
            both = self._write_trust(store, {**_read(store), new.keyid: new.trusted(now)})
            self._write(old.path, new.pem)
            kept = {name: key for name, key in both.items() if not (revoke and name == old.keyid)}
            self._write_trust(store, _retire_all_but(new, kept, now))
            return new

    def revoke(self, name: str) -> None:
        """Takes a retired key that leaked out of the store: nothing that it signed counts any more.
        Raises NotFound, Conflict.
        """
        key = self.trust().keys.get(name)
        if key is None:
            raise NotFound(f"there is no key {name}", where=str(self._store("")))
        store = self._store_of(key.role)
        with self._locked(store):
            keys = _read(store)
            if name in keys and keys[name].retired_at is None:
                raise Conflict(f"key {name} still signs for the {key.role}", remedy="Rotate it first")
            self._write_trust(store, {known: key for known, key in keys.items() if known != name})

    def endorse(self) -> None:
        """Signs the trust store for who hears of it from afar, unless that is done: another service,
        without the registry's key, may have changed it. Raises NoKey.
        """
        self.signer("registry")
        with self._locked(self._store("")):
            self._endorse(_read(self._store("")))

    def _endorse(self, keys: Mapping[str, TrustedKey]) -> None:
        from penstock.packages import trust_updates  # which knows of this module

        with suppress(NoKey):
            signer = self.signer("registry")
            known = trust_updates.read(self.directory)
            if (updates := trust_updates.appended(known, keys, signer)) != known:
                self._write(self.directory / trust_updates.FILE, trust_updates.written(updates))

    def _store(self, folder: str) -> Path:
        return self.directory.with_name(self.directory.name + folder) / TRUST_FILE

    def _store_of(self, role: str) -> Path:
        return next(self._store(folder) for folder, roles in _STORES.items() if role in roles)

    def _write_trust(self, store: Path, keys: Mapping[str, TrustedKey]) -> Mapping[str, TrustedKey]:
        content = {name: key.model_dump(mode="json") for name, key in sorted(keys.items())}
        self._write(store, (json.dumps(content, indent=2) + "\n").encode())
        if store == self._store(""):
            self._endorse(keys)
        return keys

    def _write(self, path: Path, content: bytes) -> None:
        """Replaces a file durably; a temporary file of mkstemp is 0600 from its first byte."""
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self, store: Path) -> Iterator[None]:
        for folder in (store.parent, self._private):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(store.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_TRUST: TypeAdapter[dict[str, TrustedKey]] = TypeAdapter(dict[str, TrustedKey])


def _read(store: Path) -> dict[str, TrustedKey]:
    """Reads a store; an empty one where it is not made yet. Raises NoTrust."""
    try:
        return _TRUST.validate_json(store.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise NoTrust(f"no trust store: {error.errors()[0]['msg']}", where=str(store)) from error


def _retire_all_but(present: Signer, keys: Mapping[str, TrustedKey], now: datetime) -> dict[str, TrustedKey]:
    """The store with `present` as its role's only key that still signs."""
    return {
        name: key.model_copy(update={"retired_at": key.retired_at or now})
        if key.role == present.role and name != present.keyid
        else key
        for name, key in keys.items()
    }


def _new_private_pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
