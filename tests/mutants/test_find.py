"""The finder finds what the promise hangs on, in small and in the real tree, and changes nothing else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.find import OPERATORS, PACKAGES, Mutant, all_mutants, mutants_of
from tests.mutants.run import killer_in
from tests.mutants.stages import ALSO_TESTED_BY, STAGES, stages_for

ROOT = Path(__file__).resolve().parents[2]
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

STAGED = """\
def put(storage, path, data):
    temporary = temporary_path(path)
    fd = storage.open(temporary, os.O_CREAT | os.O_EXCL)
    storage.rename(temporary, path)
"""

STAGED_IN_PLACE = """\
def put(storage, path, data):
    temporary = (path)
    fd = storage.open(temporary, os.O_CREAT | os.O_TRUNC)
    storage.rename(temporary, path)
"""


@pytest.fixture(scope="module")
def real() -> list[Mutant]:
    """The mutants of the tree that this test stands in."""
    return all_mutants(ROOT)


def changes(source: str, path: str = "journal/x.py") -> list[tuple[str, str]]:
    """What becomes of a snippet: (operator, the mutated text), for each mutant."""
    return [(mutant.operator, mutant.applied(source.encode()).decode()) for mutant in mutants_of(path, source.encode())]


@pytest.mark.parametrize(
    ("operator", "source", "mutated"),
    [
        ("fsync", "storage.fsync(fd)", "None"),
        ("fsync", "self._storage.fdatasync(fd)", "None"),
        ("fsync", "durable.fsync_directory(path.parent)", "None"),
        ("fsync", "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)", "None"),
        ("fsync", "write(path, sync=True, mode=1)", "write(path, sync=False, mode=1)"),
        ("rename", "storage.rename(source, target)", "None"),
        ("rename", "path.rename(target)", "None"),
        ("rename", STAGED, STAGED_IN_PLACE),
        ("rename", "copy(a, b / C)\nrename_durably(b / C, b / d)", "copy(a, (b / d))\nrename_durably((b / d), b / d)"),
        ("checksum", "if a.crc != crc32(line): raise X", "if False: raise X"),
        ("checksum", "if not (a.crc == b): raise X", "if not (True): raise X"),
        ("checksum", "if a.crc == b:\n    raise X", "if False:\n    raise X"),
        ("checksum", "return found.sha256 == sha256", "return True"),
        ("checksum", "if segment.size < segment.end: raise X", "if False: raise X"),
        ("checksum", "if path.stat().st_size != entry.size_bytes: return 1", "if False: return 1"),
        ("checksum", "x = problem_of(path)", "x = None"),
        ("checksum", "for name in a - b:\n    raise X(name)", "for name in ():\n    raise X(name)"),
        ("checksum", "judge(Facts(True, covered=any(x)))", "judge(Facts(True, covered=False))"),
        ("checksum", "self._check_digests(chain)", "None"),
        ("lock", "if not storage.try_lock(fd): wait()", "if not True: wait()"),
        ("lock", "fcntl.flock(fd, fcntl.LOCK_EX)", "None"),
        ("lock", "with self._lock: go()", "with __import__('contextlib').nullcontext(False): go()"),
        ("lock", "with _held(d) as ours: go()", "with __import__('contextlib').nullcontext(True) as ours: go()"),
        ("lock", "with ledger.exclusive(): go()", "with __import__('contextlib').nullcontext(False): go()"),
        ("lock", "self._lock.take(me)", "None"),
        ("fencing", "if event.attempt != state.attempts.current or x: raise X", "if False or x: raise X"),
        ("fencing", "if state.attempts.current is not None: raise X", "if False: raise X"),
        ("fencing", "return job if fact.attempt == state.attempts.current else None", "return job if True else None"),
        ("fencing", "if (type(order), order.attempt) not in sent: go()", "if True: go()"),
        ("fencing", "if process is not self._worker: return", "if False: return"),
        ("fencing", "if event.parent != head_id: raise X", "if False: raise X"),
        ("fencing", "if not a.global_step < b <= c: raise X", "if not True: raise X"),
        ("fencing", "self._check_poison()", "None"),
        ("fencing", "self._poison = failure", "self._poison = None"),
        ("fencing", "fd = storage.open(path, os.O_CREAT | os.O_EXCL)", "fd = storage.open(path, os.O_CREAT | 0)"),
        ("fencing", "if not self._is_read: read()", "if not True: read()"),
    ],
)
def test_what_is_taken_away_and_what_stands_there_then(operator: str, source: str, mutated: str) -> None:
    """Each rule on the smallest piece of code that it is about."""
    assert (operator, mutated) in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        "fcntl.flock(fd, fcntl.LOCK_UN)",
        "write(path, sync=False)",
        "name.replace('a', 'b')",
        "if state.attempts.current is None: return",
        "if job.name == text: return job",
        "assert record.crc == crc",
        "self._lock = threading.Lock()\nwith self._lock: go()",
        "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)",
    ],
)
def test_what_nothing_hangs_on_is_left_alone(source: str) -> None:
    """A mutant that nobody should see is worse than none: it would have to be explained away."""
    assert changes(source) == []


def test_each_part_of_a_check_is_taken_away_by_itself() -> None:
    """`a and b` that answers for a check is two checks."""
    mutated = [text for _, text in changes("def is_at_end(self):\n    return a == 1 and not b\n")]
    assert mutated == [
        "def is_at_end(self):\n    return True and not b\n",
        "def is_at_end(self):\n    return a == 1 and True\n",
    ]


def test_nothing_else_is_changed_by_a_byte() -> None:
    """Letters of more than one byte, comments and odd spacing stand as they stood."""
    source = 'x = "…é" ; fsync_file( "é",\n  storage = s )  # …\n'
    assert changes(source) == [("fsync", 'x = "…é" ; None  # …\n')]


def test_a_description_names_one_mutant(real: list[Mutant]) -> None:
    """Module, function, what: the same thing twice in a function is numbered."""
    assert not [name for name, count in Counter(mutant.description for mutant in real).items() if count > 1]
    twice = "class A:\n    def f(self):\n        storage.fsync(fd)\n        storage.fsync(fd)\n"
    assert [mutant.description for mutant in mutants_of("journal/x.py", twice.encode())] == [
        "journal/x.py:A.f: no storage.fsync(fd)",
        "journal/x.py:A.f: no storage.fsync(fd) (number 2)",
    ]


def test_every_mutant_is_still_python_and_something_else(real: list[Mutant]) -> None:
    """One that cannot be compiled would kill itself."""
    for mutant in real:
        source = (ROOT / mutant.path).read_bytes()
        mutated = mutant.applied(source)
        assert mutated != source, mutant.description
        compile(mutated, mutant.path, "exec")


def test_every_operator_is_at_work(real: list[Mutant]) -> None:
    """None of the five has lost its hold on the code."""
    assert {mutant.operator for mutant in real} == set(OPERATORS)


@pytest.mark.parametrize(
    "call",
    [
        r"\.(?:fsync|fdatasync|drop_cache)\(",
        r"(?<!def )(?<!\w)fsync_(?:file|directory|tree)\(",
        r"(?<!\w)sync=True",
        r"(?<!def )\btry_lock\(",
        r"\bflock\((?!.*LOCK_UN)",
        r"\brename_durably\(|\.rename\(",
        r"_check_poison\(\)$",
    ],
)
def test_no_call_goes_unfound(real: list[Mutant], call: str) -> None:
    """Counted once more, without syntax: each line that calls one is touched by a mutant."""
    for path in MODULES:
        name = path.relative_to(ROOT).as_posix()
        text = path.read_bytes()
        touched = set()
        for mutant in real:
            if mutant.path == name:
                for edit in mutant.edits:
                    touched |= set(range(text.count(b"\n", 0, edit.start), text.count(b"\n", 0, edit.end) + 1))
        for number, line in enumerate(text.decode().splitlines()):
            code = line.partition("#")[0].rstrip()
            if re.search(call, code) and not re.match(r"\s*(?:def|from|import|\"\"\")|.*`", code):
                staged = re.search(r"rename(?:_durably)?\((\w+), ", code)
                assert number in touched or staged, f"{name}:{number + 1}: {line.strip()}"


def test_what_is_staged_is_written_in_place_by_one_mutant(real: list[Mutant]) -> None:
    """The functions that replace a file whole, each by its name."""
    in_place = [mutant.description for mutant in real if "written in place" in mutant.description]
    for place in (
        "journal/durable.py:write_atomically",
        "journal/durable.py:copy_open",
        "journal/log.py:Journal.create",
    ):
        assert len([description for description in in_place if description.startswith(f"{place}:")]) == 1
    assert any(description.startswith("gpu/") for description in in_place)


def test_every_mutant_has_a_stage_that_could_kill_it(real: list[Mutant]) -> None:
    """And what is asked exists."""
    for path in sorted({mutant.path for mutant in real}):
        stages = stages_for(ROOT, path)
        assert stages
        for stage in stages:
            for argument in stage.arguments:
                if argument.startswith("tests/"):
                    assert (ROOT / argument).exists(), argument
    assert set(PACKAGES) <= STAGES.keys()
    assert all((ROOT / name).exists() for names in ALSO_TESTED_BY.values() for name in names)


def test_what_is_called_equivalent_exists_and_says_why(real: list[Mutant]) -> None:
    """An entry that outlived its code would hide the next mutant of that name."""
    assert EQUIVALENT.keys() <= {mutant.description for mutant in real}
    assert all(len(reason) > 20 for reason in EQUIVALENT.values())


@pytest.mark.parametrize(
    ("output", "killer"),
    [
        ("..F\nFAILED tests/a/test_b.py::test_c[x y] - AssertionError: 1\n1 failed", "tests/a/test_b.py::test_c[x y]"),
        ("ERROR tests/a/test_b.py::test_c - OSError", "tests/a/test_b.py::test_c"),
        ("ERROR tests/a/test_b.py - ImportError", ""),
        ("seed 17: the journal lost record 3", "simulation::seed 17"),
    ],
)
def test_the_killer_is_named(output: str, killer: str) -> None:
    """By the first test that failed, or by the seed."""
    assert killer_in(output) == killer
