"""The plugin in runs of pytest of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process("unhurried")

PROGRAMS = """
import pytest

class Program:
    def last_words(self):
        return "the program's last words"

@pytest.fixture
def program():
    return Program()

@pytest.fixture
def prepared(program):
    raise RuntimeError("preparation failed")

def test_that_fails(program):
    assert False

def test_whose_preparation_fails(prepared):
    pass

def test_that_passes(program):
    pass
"""
STACK = """
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

def tell(what):
    with Path("told").open("a") as out:
        out.write(f"{os.environ['PYTEST_XDIST_WORKER']} {what}\\n")

@contextmanager
def running_stack():
    tell("up")
    yield
    tell("down")

sys.modules["penstock.testing.stack"] = SimpleNamespace(running_stack=running_stack)
"""
SHARING = """
import pytest
from conftest import tell

@pytest.mark.parametrize("n", range(3))
def test_alone(n):
    tell(__name__)
"""
MARKS = "pytestmark"  # else this file were taken for one that shares a stack
USES_IT = f"""
{MARKS} = pytest.mark.stack

@pytest.mark.parametrize("n", range(3))
def test_with_it(stack, n):
    tell(__name__)
"""


def test_a_failed_test_says_what_its_programs_logged_last(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAMS)
    said = run(tmp_path, "-rA")
    assert "1 failed, 1 passed, 1 error" in said, said
    assert said.count("what program logged last") == 2
    assert said.count("the program's last words") == 2


def test_one_worker_has_the_stack_and_begins_with_it(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(SHARING)
    for name in "yz":
        (tmp_path / f"test_{name}.py").write_text(SHARING + USES_IT)
    said = run(tmp_path, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    assert "24 passed" in said, said
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    workers = {file: {worker for worker, where in told if where == file} for _, file in told}
    assert [file for file, those in workers.items() if len(those) > 1] == []
    assert workers["test_y"] == workers["test_z"]
    (worker,) = workers["test_z"]
    begun = ["test_y"] * 3 + ["up"] + ["test_y"] * 3 + ["test_z"] * 6 + ["down"]
    assert [what for who, what in told if who == worker][:14] == begun, "the stack ends with its last test"


def test_a_second_stack_has_a_worker_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text(SHARING + USES_IT)
    for name in "cd":
        (tmp_path / f"test_{name}.py").write_text(SHARING + USES_IT.replace("stack\n", 'stack("other")\n'))
    said = run(tmp_path, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    assert "24 passed" in said, said
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    files = {worker: {file for who, file in told if who == worker} for worker, _ in told}
    alone = {frozenset({"up", "test_a", "test_b", "down"}), frozenset({"up", "test_c", "test_d", "down"})}
    assert set(map(frozenset, files.values())) == alone


def test_a_third_worker_waits_for_kafka_and_a_fourth_gives_way(tmp_path: Path) -> None:
    told = "import os\n" + SHARING.replace("__name__", 'f"{__name__} {os.nice(0)}"')
    both = "kafka, pytest.mark.process"
    kinds = {"kafka": "ab", both: "c", "process": "klm", 'process("unhurried")': "op", "none": "uvwxyz"}
    for mark, names in kinds.items():
        marked = "" if mark == "none" else f"\npytestmark = [pytest.mark.{mark}]\n"
        for name in names:
            (tmp_path / f"test_{name}.py").write_text(told + marked)
    said = run(tmp_path, "-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    assert "42 passed" in said, said
    lines = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    usual = os.nice(0)
    unbound = {*kinds["none"], *kinds['process("unhurried")']}
    third = list(dict.fromkeys(file[-1] for worker, file, _ in lines if worker == "gw2"))
    own = [name for name in third if name in "abc"]
    assert own
    assert third == own + sorted(set(third) - set(own)), "a broker that has ended is not asked again"
    first = {worker: file[-1] for worker, file, _ in reversed(lines)}
    assert {first["gw0"], first["gw1"]} == {"k", "l"}, "they leave the broker to the third"
    fourth = {file[-1] for worker, file, _ in lines if worker == "gw3"}
    assert fourth
    assert fourth <= unbound
    for worker, _, niceness in lines:
        assert int(niceness) == (min(usual + 10, 19) if worker == "gw3" else usual)


def test_the_fourth_worker_passes_over_what_others_must_run(tmp_path: Path) -> None:
    """Files of which some tests are slow or need Docker are its too."""
    long = "    time.sleep(0.5)  # as long as what starts processes\n"
    for name in "abcdefgh":
        marked = f"import time\n{SHARING}{long}\n{MARKS} = pytest.mark.process\n"
        (tmp_path / f"test_{name}.py").write_text(marked)
    for name, mark in {"x": "slow", "y": "docker", "z": "kafka"}.items():
        marked = f"{SHARING}\n@pytest.mark.{mark}\ndef test_marked():\n    pass\n"
        (tmp_path / f"test_{name}.py").write_text(marked)
    said = run(tmp_path, "-n", "4", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not slow")
    assert "35 passed" in said, said
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    workers = {file[-1]: worker for worker, file in told}
    assert {workers["x"], workers["y"]} <= {"gw2", "gw3"}
    assert "gw2" in {worker for file, worker in workers.items() if file in "abcdefgh"}, "none stands idle"


def test_a_file_that_uses_the_stack_without_saying_so_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SHARING + USES_IT.replace(MARKS, "marks"))
    said = run(tmp_path)
    assert "test_with_it[0]: mark the file, `pytestmark = pytest.mark.stack`" in said, said


def test_a_file_that_the_marks_leave_out_is_not_imported(tmp_path: Path) -> None:
    away = f"import pytest\n\n{MARKS} = pytest.mark.kafka\n\nraise RuntimeError('imported')\n"
    (tmp_path / "test_away.py").write_text(away)
    (tmp_path / "test_here.py").write_text("def test_it():\n    pass\n")
    assert "1 passed" in run(tmp_path, "-m", "not stack and not kafka")
    assert "imported" in run(tmp_path, "-m", "not stack")
    assert "imported" in run(tmp_path, "-m", "not stack or not kafka")


def run(folder: Path, *options: str) -> str:
    """What pytest prints of the folder's tests."""
    (folder / "conftest.py").write_text(STACK)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "penstock.testing.plugin"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # a second of each process
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr
