"""A person's program judges an answer, and leaves no process."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from gpu.evaluation import program
from gpu.evaluation.program import ProgramEnd, program_problem, run_program, split_command
from tests.waiting import eventually

STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()  # leaves the process group
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
time.sleep(float(sys.argv[2]))
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def run(command: Sequence[str], given: str = "", timeout_s: float = 10.0) -> ProgramEnd:
    return run_program(command, given, timeout_s)


def wait_for_pid(path: Path) -> int:
    eventually(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_the_examples_are_right() -> None:
    assert doctest.testmod(program).failed == 0


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_returned(code: int) -> None:
    assert run(python(f"raise SystemExit({code})")).code == code


def test_a_program_gets_its_input_few_variables_and_an_empty_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    seen = tmp_path / "seen"
    code = (
        "import json, os, sys\n"
        "seen = [sys.stdin.read(), sorted(os.environ), os.listdir('.'), os.getcwd()]\n"
        "json.dump(seen, open(sys.argv[1], 'w'))"
    )
    assert run(python(code, str(seen)), "given").code == 0
    given, variables, names, directory = json.loads(seen.read_text())
    assert given == "given"
    assert set(variables) <= {"PATH", "HOME", "LANG", "LC_CTYPE"}  # Python sets the last one itself
    assert names == []
    assert not Path(directory).exists()


def test_a_program_that_is_too_slow_is_killed_with_all_its_children(tmp_path: Path) -> None:
    """Also a child that left the process group and ignores SIGTERM."""
    pid_file = tmp_path / "pid"
    end = run(python(STUBBORN, str(pid_file), "60"), timeout_s=1.0)
    assert end.code is None
    assert end.problem == "it did not end within 1 s and was killed"
    assert not psutil.pid_exists(wait_for_pid(pid_file))


def test_a_program_that_ends_leaves_no_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert run(python(STUBBORN, str(pid_file), "0.5")).code == 0
    assert not psutil.pid_exists(wait_for_pid(pid_file))


def test_a_program_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = python(STUBBORN, str(pid_file), "60")
    code = f"from gpu.evaluation.program import run_program\nrun_program({command!r}, '', timeout_s=60.0)"
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    pid = wait_for_pid(pid_file)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    eventually(lambda: not psutil.pid_exists(pid), within_s=10)


def test_output_without_end_does_no_harm() -> None:
    end = run(
        python("import sys\nwhile True: sys.stdout.write('x' * 1000); sys.stderr.write('y' * 1000)"), timeout_s=0.5
    )
    assert end.code is None
    assert end.error == "y" * 1000


def test_memory_and_files_are_limited(tmp_path: Path) -> None:
    assert run(python("bytearray(5 << 30)")).error.endswith("MemoryError")
    big = python("import sys\nopen(sys.argv[1], 'wb').write(bytes(100 << 20))", str(tmp_path / "big"))
    assert run(big).code not in (0, None)
    assert (tmp_path / "big").stat().st_size <= 64 << 20


def test_waiting_is_interrupted_by_what_on_wait_raises() -> None:
    """The worker's heartbeat, or an order to stop."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program(python("import time; time.sleep(60)"), "", 30.0, stop)


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    script = tmp_path / "check"
    assert program_problem([str(script)]) == f"there is no program {script} that can be run"
    script.write_text("#!/nonexistent/python\n")
    script.chmod(0o777)
    assert program_problem([str(script)]) == f"all users can write to {script}; run chmod o-w"
    script.chmod(0o755)
    assert run([str(script)]).problem == f"{script} could not be started: No such file or directory"
    assert "relative path" in str(program_problem(["bin/check"]))
    assert program_problem([]) == "the command is empty"


def test_a_word_can_be_a_path_in_the_home(tmp_path: Path) -> None:
    assert split_command("./check './a b' b/./c", tmp_path) == [f"{tmp_path}/check", f"{tmp_path}/a b", "b/./c"]
