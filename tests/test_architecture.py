"""The rules between the folders, and the style that matters: layering, purity, weight, a test for each module."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("events", "journal", "core", "projections", "gpu", "cli")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "numpy", "safetensors", "tokenizers")

LONGEST_MODULE = 400
"""Lines. When a module outgrows this, it is two."""

MOST_MODULES = 16
"""In one folder."""

IMPURE = {
    "asyncio",
    "fcntl",
    "glob",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
"""What would let a clock, chance, a thread or a file into the core."""

IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}

CLOCK_CALLS = {"now", "today", "utcnow"}
"""Of `datetime`, whose other calls only count."""

WITHOUT_LOGIC = {
    "events/errors.py": "error types",
    "events/event.py": "one type",
    "events/messages/base.py": "two types",
    "events/messages/answers.py": "values; tests/events/test_messages.py has all messages",
    "events/self_correction.py": "planned in tests/cli/correction/test_build.py and tests/core/topics/evaluation",
    "events/generation.py": "values; exchanged in tests/cli/generate/test_process.py",
    "events/hooks.py": "values; read in tests/cli/hooks/test_triggers.py",
    "events/kinds/attempts.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/config.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/consolidation.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/daemon.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/disk.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/evaluation.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/head.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/jobs.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/memory.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/recovery.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/retention.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/samples.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/self_correction.py": "values; tests/events/test_kinds.py has all kinds",
    "events/kinds/training.py": "values; tests/events/test_kinds.py has all kinds",
    "journal/errors.py": "error types",
    "core/errors.py": "error types",
    "core/commands.py": "values; decided on in tests/core/test_decide.py",
    "core/effect.py": "values; asked for in tests/core/test_effects.py",
    "core/job.py": "values; moved by tests/core/test_transitions.py",
    "core/values.py": "values; moved by tests/core/test_transitions.py and tests/core/topics/test_head.py",
    "core/structures/situations.py": "values; shown in tests/cli/status/test_report.py",
    "projections/trouble.py": "values; folded in tests/projections/test_fold.py",
    "projections/progress.py": "values; folded in tests/projections/test_fold.py",
    "gpu/errors.py": "error types",
    "gpu/data/format/example.py": "values; made in tests/gpu/data/format/test_rows.py",
    "gpu/data/plan/lines.py": "numbers; mixed in tests/gpu/data/plan/test_replay.py",
    "gpu/data/examine/report.py": "values; made in tests/gpu/data/examine/test_examination.py",
    "gpu/ipc/protocol.py": "values; exchanged in tests/gpu/versions/test_export.py",
    "cli/version.py": "one number",
}
"""Modules that have nothing of their own to test, and why."""

TESTED_ELSEWHERE = {
    "core/checks.py": "tests/core/test_transitions.py",
    "events/upcasters.py": "tests/events/test_codec.py",
    "journal/lock.py": "tests/journal/test_log.py",
    "journal/segments.py": "tests/journal/test_log.py",
    "journal/survey.py": "tests/journal/test_damage.py",
    "journal/writer.py": "tests/journal/test_log.py",
    "gpu/evaluation/models.py": "tests/gpu/evaluation/test_score.py",
    "gpu/evaluation/questions.py": "tests/gpu/evaluation/test_job_end.py",
    "gpu/evaluation/program_guard.py": "tests/gpu/evaluation/test_program.py",
    "gpu/generate/process.py": "tests/cli/generate/test_process.py",
    "gpu/artifacts/backup.py": "tests/gpu/versions/test_consolidate.py",
    "gpu/versions/merged_model.py": "tests/gpu/versions/test_consolidate.py",
    "gpu/artifacts/version_manifest.py": "tests/gpu/versions/test_consolidate.py",
    "gpu/model/gguf.py": "tests/cli/commands/test_demo.py",
    "gpu/gguf/client.py": "tests/gpu/gguf/test_export.py",
    "gpu/gguf/parts.py": "tests/gpu/gguf/test_export.py",
    "gpu/gguf/reference.py": "tests/gpu/gguf/test_export.py",
    "gpu/gguf/server.py": "tests/gpu/gguf/test_export.py",
    "cli/commands/exports/app.py": "tests/cli/commands/exports/test_gguf.py",
    "cli/commands/exports/model.py": "tests/cli/commands/test_versions.py",
    "cli/app.py": "tests/cli/test_commands.py",
    "projections/status_view.py": "tests/projections/test_status.py",
    "cli/cancelled.py": "tests/cli/test_every_command.py",
    "cli/commands/metrics/commands.py": "tests/cli/test_every_command.py",
    "cli/commands/models/difference.py": "tests/cli/commands/test_versions.py",
    "cli/commands/models/head.py": "tests/cli/commands/test_versions.py",
    "cli/report/writer.py": "tests/cli/report/test_sync.py",
    "cli/commands/correction/app.py": "tests/cli/commands/correction/test_show.py",
    "cli/commands/correction/resume.py": "tests/cli/commands/correction/test_show.py",
    "cli/output/correction_lines.py": "tests/cli/output/test_event_lines.py",
    "gpu/training/attempt.py": "tests/gpu/training/rounds/test_sampler.py",
    "gpu/training/rounds/base_divergence.py": "tests/gpu/training/rounds/test_corrector.py",
    "cli/commands/samples/app.py": "tests/cli/commands/samples/test_show.py",
    "cli/commands/homes/app.py": "tests/cli/test_every_command.py",
    "cli/web/guard.py": "tests/cli/monitor/test_access.py",
    "cli/web/server.py": "tests/cli/monitor/test_serve.py",
    "cli/serve/command.py": "tests/cli/test_every_command.py",
    "cli/serve/answers.py": "tests/cli/serve/test_app.py",
    "cli/home/backups.py": "tests/cli/commands/test_backup.py",
    "cli/daemon/worker/supervisor.py": "tests/cli/daemon/test_loop.py",
    "cli/output/identical.py": "tests/cli/inbox/test_rejection_reports.py",
    "cli/daemon/recovery.py": "tests/cli/daemon/test_loop.py",
    "cli/daemon/event_handler.py": "tests/cli/daemon/test_loop.py",
    "cli/daemon/worker/listener.py": "tests/cli/daemon/test_loop.py",
    "cli/daemon/schedule.py": "tests/cli/commands/test_versions.py",
    "cli/doctor/context.py": "tests/cli/doctor/test_report.py",
    "cli/config/template.py": "tests/cli/config/test_schema.py",
    "cli/machine/clock.py": "tests/simulation/test_runs.py",
    "cli/home/subprocesses.py": "tests/cli/commands/test_rerun.py",
    "cli/daemon/resource_monitor.py": "tests/simulation/test_runs.py",
    "cli/commands/control.py": "tests/cli/test_commands.py",
    "cli/home/paths.py": "tests/cli/test_commands.py",
    "cli/commands/journal.py": "tests/cli/test_commands.py",
    "cli/main.py": "tests/cli/test_commands.py",
    "cli/status/fast.py": "tests/cli/test_commands.py",
    "cli/home/snapshot_reader.py": "tests/cli/daemon/test_loop.py",
    "cli/commands/journal_repair.py": "tests/cli/test_commands.py",
    "cli/commands/config.py": "tests/cli/config/test_edit.py",
    "cli/status/report.py": "tests/cli/test_commands.py",
    "cli/diagnosis/logs.py": "tests/cli/home/test_log_files.py",
    "cli/hooks/trial.py": "tests/cli/hooks/test_dispatch.py",
    "cli/diagnosis/commands.py": "tests/cli/diagnosis/test_explain.py",
    "cli/daemon/worker/process.py": "tests/cli/daemon/test_loop.py",
}
"""Modules that are tested through what uses them, and where: their test is a whole command or a whole life."""


def tree(module: Path) -> ast.Module:
    """The syntax of one of our modules."""
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), str(module))


def imports(module: Path) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def calls(module: Path) -> Iterator[str]:
    """What a module calls, as it is written: `open`, `torch.load`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def loaded_by(code: str, *arguments: str) -> set[str]:
    """The heavy libraries that a fresh Python has loaded after `code`."""
    report = f"{code}\nimport sys\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", report, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_our_names_are_ours(package: str) -> None:
    """Each name leads to our folder, and no other installed distribution would put something else there."""
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).resolve() == ROOT / package / "__init__.py"
    owners = {name for name in importlib.metadata.packages_distributions().get(package, []) if name != "keepstep"}
    assert not owners


def test_the_wheel_holds_the_six_folders_and_no_tests() -> None:
    """An application: an explicit list, nothing found by looking around."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == sorted(PACKAGES)
    assert set(wheel) == {"packages"}
    assert not [path for package in PACKAGES for path in (ROOT / package).rglob("test*")]


def test_no_folder_is_crowded() -> None:
    """Every package says what lives in it, and holds few enough modules that `ls` explains it."""
    folders = {(ROOT / module).parent for module in MODULES}
    for folder in folders:
        modules = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(modules) <= MOST_MODULES, f"{folder.relative_to(ROOT)} holds {len(modules)} modules"
        assert (folder / "__init__.py").is_file()


# -- layers ---------------------------------------------------------------------------------------------------------


def test_the_import_contracts_hold() -> None:
    """Who may know whom, as pyproject.toml has it."""
    command = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout


def test_the_contract_on_journal_names_every_module() -> None:
    """A new module of journal is closed to gpu and projections until somebody opens it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each.get("source_modules") == ["gpu", "projections"]]
    modules = {f"journal.{path.stem}" for path in (ROOT / "journal").glob("[!_]*.py")}
    allowed = {"journal.durable", "journal.storage", "journal.failpoints"}
    assert set(contract["forbidden_modules"]) == modules - allowed


@pytest.mark.parametrize("module", [module for module in MODULES if module.parts[0] == "core"], ids=str)
def test_the_core_is_pure(module: Path) -> None:
    """No clock, no chance, no file, no thread: they come in as arguments."""
    assert not {name.partition(".")[0] for name in imports(module)} & IMPURE
    assert not set(calls(module)) & IMPURE_CALLS
    assert not [call for call in calls(module) if call.rpartition(".")[2] in CLOCK_CALLS]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_is_ever_unpickled(module: Path) -> None:
    """A checkpoint from somewhere must not be able to run code."""
    assert not {name.partition(".")[0] for name in imports(module)} & {"pickle", "cPickle", "dill", "shelve", "joblib"}
    assert not [call for call in calls(module) if call in {"torch.load", "torch.save", "numpy.load", "np.load"}]


def test_only_the_worker_knows_torch() -> None:
    """At any depth of a module: an import inside a function counts too."""
    knowing = {module for module in MODULES for name in imports(module) if name.partition(".")[0] in HEAVY}
    assert {module.parts[0] for module in knowing} == {"gpu"}


def test_data_is_read_without_torch() -> None:
    """A file is checked and planned before any GPU time, in processes that are there in no time."""
    names = {name for module in MODULES if module.parts[:2] == ("gpu", "data") for name in imports(module)}
    assert not {name.partition(".")[0] for name in names} & {"torch", "transformers", "peft"}


# -- weight ---------------------------------------------------------------------------------------------------------


def test_status_loads_nothing_heavy(tmp_path: Path) -> None:
    """It is asked often, and has to be there at once."""
    home = tmp_path / "home"
    make = f"create_home(Path({str(home)!r}), model='tiny')"
    init = f"from pathlib import Path\nfrom cli.commands.init import create_home\n{make}"
    assert loaded_by(init) == set()
    asked = "import sys\nsys.argv = ['keepstep', *sys.argv[1:]]\nfrom cli.main import main\nmain()"
    assert loaded_by(asked, "status", "--home", str(home)) == set()
    assert loaded_by(asked, "status", "--json", "--home", str(home)) == set()


def test_the_shell_loads_nothing_heavy() -> None:
    """The daemon itself too: torch lives and dies with the worker."""
    modules = (
        "app",
        "daemon.loop",
        "doctor.report",
        "commands.journal",
        "commands.queue",
        "home.event_store",
        "status.report",
    )
    shell = "import " + ", ".join(f"cli.{module}" for module in modules)
    assert loaded_by(shell) == set()


# -- style ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_says_its_purpose(module: Path) -> None:
    """In its docstring, in a line or a few."""
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_is_one_thing(module: Path) -> None:
    """And so not too long."""
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("module", [module for module in MODULES if not module.name.startswith("__")], ids=str)
def test_a_module_has_a_test_that_mirrors_it(module: Path) -> None:
    """`core/queue.py` → `tests/core/test_queue.py`; or it is in one of the two lists above, with the reason."""
    mirrors = list((ROOT / "tests" / module.parent).glob(f"test_{module.stem}*.py"))
    name = module.as_posix()
    listed = (name in WITHOUT_LOGIC) + (name in TESTED_ELSEWHERE)
    assert listed <= 1
    assert mirrors or listed, f"{name} has no tests/{module.parent}/test_{module.stem}.py and is in no list"


def test_the_lists_of_exceptions_are_true() -> None:
    """They name modules and tests that exist."""
    for name in [*WITHOUT_LOGIC, *TESTED_ELSEWHERE, *TESTED_ELSEWHERE.values()]:
        assert (ROOT / name).is_file(), name


def test_every_test_folder_mirrors_a_package_or_is_about_the_whole() -> None:
    """Nothing is tested in a corner."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {
        ".",
        *{module.parent.as_posix() for module in MODULES},
        "crash",
        "drills",
        "scenarios",
        "simulation",
        "mutants",
    }


def test_every_test_that_the_docs_name_is_there() -> None:
    """`file.py::test_name`, the file once for several: a proof that is named can be run."""
    here = {
        (path.relative_to(ROOT / "tests").as_posix(), node.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    text = (ROOT / "docs" / "explanation" / "crash-safety.md").read_text(encoding="utf-8")
    file, named = "", set()
    for mention in re.finditer(r"`([\w/]+\.py)?::(test_\w+)", text):
        file = mention[1] or file
        named.add((file, mention[2]))
    assert len(named) > 50
    assert named <= here


def test_the_diagrams_are_what_the_tables_say() -> None:
    """`python docs/make_state_diagrams.py` was run after the last change of `core/transitions.py`."""
    script = runpy.run_path(str(ROOT / "docs" / "make_state_diagrams.py"))
    text = (ROOT / "docs" / "explanation" / "state-machine.md").read_text(encoding="utf-8")
    assert script["page"](text) == text
    for name, picture in script["drawn"]().items():
        assert f"<!-- drawn: {name} -->\n{picture}\n<!-- /drawn -->" in text
