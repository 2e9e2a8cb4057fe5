"""Nothing is loaded that is not promoted, signed, whole and new; and what was admitted is verified
again before it is used again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.contracts.errors import Refused, Tampered, Unavailable
from penstock.packages.admission import Admission, from_artifacts
from penstock.packages.evidence import Known
from penstock.runtime.settings import KafkaSettings

if TYPE_CHECKING:
    from penstock.testing.promoting import Registry


@pytest.fixture
def registry(tmp_path: Path, root: str) -> Registry:
    from penstock.testing.promoting import Registry

    return Registry.at(tmp_path, KafkaSettings(), root)


@pytest.fixture
def admission(registry: Registry, tmp_path: Path) -> Admission:
    return Admission(from_artifacts(registry.artifacts.fetch), tmp_path / "keys", tmp_path / "packages")


@pytest.mark.usefixtures("artifacts_root")
def test_a_promoted_package_is_admitted_and_kept(
    admission: Admission, registry: Registry, tmp_path: Path
) -> None:
    promoted = registry.version()
    package = admission.admit(promoted, None)
    assert package.digest == promoted.version.digest
    assert package.directory == tmp_path / "packages" / "loans" / "1" / "package"
    registry.artifacts.delete("packages")  # the artifact store may be away at a restart
    assert admission.reopen(promoted).digest == promoted.version.digest
    assert [path.name for path in (tmp_path / "packages" / "loans").iterdir()] == ["1"]


def test_what_was_changed_on_our_disk_is_fetched_again(admission: Admission, registry: Registry) -> None:
    promoted = registry.version()
    model = admission.admit(promoted, None).model
    model.write_bytes(b"another model")
    assert admission.reopen(promoted).model.read_bytes() != b"another model"


def test_a_replayed_promotion_is_refused(admission: Admission, registry: Registry) -> None:
    old, new = registry.version(), registry.version()
    with pytest.raises(Refused, match="generation 1 does not rise above 2, the last one known"):
        admission.admit(old, Known(2, new.version.digest))
    assert admission.admit(new, Known(2, new.version.digest)).digest == new.version.digest


@pytest.mark.usefixtures("artifacts_root")
def test_changed_bytes_are_found(admission: Admission, registry: Registry, tmp_path: Path) -> None:
    promoted = registry.version()
    data = bytearray(registry.artifacts.read(promoted.version.package))
    data[1000] ^= 1
    registry.artifacts.replace(promoted.version.package, bytes(data))
    with pytest.raises(Tampered):
        admission.admit(promoted, None)
    assert not (tmp_path / "packages" / "loans" / "1").exists()


def test_a_revoked_key_takes_what_it_signed_with_it(admission: Admission, registry: Registry) -> None:
    promoted = registry.version()
    admission.admit(promoted, None)
    registry.keys.rotate("registry", revoke=True)
    with pytest.raises(Refused, match="is not in the trust store"):
        admission.reopen(promoted)


def test_without_a_trust_store_it_waits(registry: Registry, tmp_path: Path) -> None:
    admission = Admission(
        from_artifacts(registry.artifacts.fetch), tmp_path / "no-keys", tmp_path / "packages"
    )
    with pytest.raises(Unavailable, match="there is no trust store"):
        admission.admit(registry.version(), None)
