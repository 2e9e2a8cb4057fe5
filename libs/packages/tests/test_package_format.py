"""Whatever happens to a package's files, opening it says so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid, Tampered
from penstock.packages import manifest as package_format
from penstock.packages.format import open_package
from penstock.packages.manifest import MANIFEST, REQUIRED, canonical, write_manifest
from penstock.testing.packages import write_package

FILES = sorted(REQUIRED | {MANIFEST})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("packages") / "loans"
    return directory, write_package(directory)


@pytest.fixture
def package(written: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    copy = tmp_path / "copy"
    shutil.copytree(written[0], copy)
    return copy, written[1]


def test_what_was_written_is_read(package: tuple[Path, str]) -> None:
    opened = open_package(*package)
    opened.check()
    assert opened.signature.inputs.numbers == ("income",)
    assert opened.pipeline.pipeline == opened.training_set.pipeline == "loans"
    assert opened.metrics == {"auroc": 0.9}
    assert opened.profile.probes.numbers == ((1.0,), (None,))
    assert opened.model.read_bytes() == b"no real graph"
    assert opened.model_card == "# loans\n"
    assert write_manifest(package[0]) == package[1], "the same files have the same digest"


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(written: tuple[Path, str], name: str, place: float, bit: int) -> None:
    directory, digest = written
    path = directory / name
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(broken)
    try:
        with pytest.raises(Tampered):
            open_package(directory, digest)
        if name != MANIFEST:
            with pytest.raises(Tampered, match=name):
                open_package(directory)
    finally:
        path.write_bytes(whole)


def _link(directory: Path) -> None:
    shutil.move(directory / "model.onnx", directory.parent / "elsewhere")
    (directory / "model.onnx").symlink_to(directory.parent / "elsewhere")


def _pipe(directory: Path) -> None:
    (directory / "model.onnx").unlink()
    os.mkfifo(directory / "model.onnx")


def _listed_way_out(directory: Path) -> None:
    (directory.parent / "secret").write_bytes(b"")
    text = (directory / MANIFEST).read_text()
    (directory / MANIFEST).write_text(text.replace('"model_card.md"', '"../secret"'))


@pytest.mark.parametrize(
    "harm",
    [
        lambda d: (d / "more.txt").write_bytes(b""),
        lambda d: (d / ".git").mkdir(),
        lambda d: (d / ".gitignore").write_bytes(b"x"),
        lambda d: (d / "model.onnx").unlink(),
        lambda d: (d / MANIFEST).unlink(),
        lambda d: (d / "model.onnx").rename(d / "renamed.onnx"),
        lambda d: shutil.copyfile(d / "curves.json", d / "metrics.json"),
        lambda d: (d / MANIFEST).write_bytes((d / MANIFEST).read_bytes() + b"\n"),
        lambda d: (d / MANIFEST).write_bytes(b"{}"),
        lambda d: (d / MANIFEST).write_bytes(b"\xff"),
        lambda d: (d / MANIFEST).write_bytes(b" " * 100_000),
        lambda d: (d / "model.onnx").write_bytes(b""),
        lambda d: shutil.rmtree(d),
        _link,
        _pipe,
        _listed_way_out,
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_any_other_change_is_found(
    package: tuple[Path, str], harm: Callable[[Path], object], known: bool
) -> None:
    directory, digest = package
    harm(directory)
    with pytest.raises(Tampered):
        open_package(directory, digest if known else None)


def test_another_package_is_not_this_one(package: tuple[Path, str], tmp_path: Path) -> None:
    other = write_package(tmp_path / "other", card="# another\n")
    with pytest.raises(Tampered, match="not sha256"):
        open_package(package[0], other)


def test_a_listed_name_never_leaves_the_directory(package: tuple[Path, str]) -> None:
    directory, _ = package
    for name in ("../secret", "a/b", "/etc/passwd", ".hidden", "", "manifest.json"):
        (directory / MANIFEST).write_bytes(
            canonical({"format": package_format.FORMAT, "files": {name: {"sha256": "0" * 64, "size": 0}}}),
        )
        with pytest.raises(Tampered, match="may not be in a package"):
            open_package(directory)


def test_a_package_with_wrong_parts_opens_but_does_not_pass_the_check(package: tuple[Path, str]) -> None:
    directory, _ = package
    (directory / "metrics.json").write_text('{"auroc": "high"}')
    write_manifest(directory)
    with pytest.raises(Invalid, match=r"metrics.json: auroc"):
        open_package(directory).check()


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("signature.json", '"income"', '"incom"', "features differ"),
        ("signature.json", '["false","true"]', '["false"]', "one column a class"),
        ("profile.json", "[[1.0],[null]]", "[[1.0]]", "probes need the same rows"),
        ("profile.json", "[[1.0],[null]]", "[[1.0],[1.0,2.0]]", "a row must have 1"),
        ("training_set.json", '"pipeline":"loans"', '"pipeline":"other"', "names pipeline"),
    ],
)
def test_parts_must_fit_each_other(
    package: tuple[Path, str], name: str, old: str, new: str, said: str
) -> None:
    directory, _ = package
    text = (directory / name).read_text()
    assert old in text
    (directory / name).write_text(text.replace(old, new))
    write_manifest(directory)
    with pytest.raises(Invalid, match=said):
        open_package(directory).check()


def test_finishing_refuses_what_no_package_holds(package: tuple[Path, str]) -> None:
    directory, _ = package
    (directory / "folder").mkdir()
    with pytest.raises(Invalid, match="plain files only"):
        write_manifest(directory)
    (directory / "folder").rmdir()
    (directory / "curves.json").unlink()
    with pytest.raises(Invalid, match=r"lacks curves.json"):
        write_manifest(directory)


def test_canonical_json_knows_no_nan() -> None:
    assert canonical({"b": 1.5, "a": "ä"}) == '{"a":"ä","b":1.5}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
