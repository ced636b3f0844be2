"""Which tests are asked about a mutant, and in which order: the cheapest and most telling first.

The tests that mirror the mutated module come before everything; then those of its folder; then the simulated disk,
which alone can see a missing sync; then what is built on the folder. The first that fails kills the mutant.
"""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SEEDS_FEW = 200
SEEDS_MANY = 2_000
"""Lives of a home on the simulated disk. Most of what can be seen is seen in the first few hundred."""


class Stage(NamedTuple):
    """One command. Exit code 0: it saw nothing wrong."""

    name: str
    arguments: tuple[str, ...]
    """After `python`."""
    timeout_s: float


PYTEST = (
    *("-m", "pytest", "-x", "-rfE", "--no-header", "--tb=no", "--color=no", "-m", "not long"),
    *(
        "-p",
        "no:cacheprovider",
        "--timeout=100",
        "--hypothesis-profile=ci",
    ),  # ci: always the same examples
)


def tests(*targets: str, timeout_s: float) -> Stage:
    return Stage(" ".join(targets), (*PYTEST, *targets), timeout_s)


def simulation(seeds: int, timeout_s: float) -> Stage:
    arguments = ("-m", "tests.simulation", "--seeds", str(seeds), "--failures", "1", "--jobs", "1")
    return Stage(f"simulation of {seeds} seeds", arguments, timeout_s)


JOURNAL = tests("tests/journal", timeout_s=180)
CORE = tests("tests/core", "tests/scenarios", timeout_s=120)
VIEWS = tests("tests/events", "tests/projections", timeout_s=120)
SHELL = tests(
    *(f"tests/cli/{folder}" for folder in ("daemon", "home", "inbox", "supervision", "config")),
    *(f"tests/cli/commands/test_{module}.py" for module in ("backup", "checkpoints", "init", "journal", "versions")),
    timeout_s=1200,
)
"""What keeps a home safe. The rest of tests/cli is asked only about the modules that it mirrors."""
WORKER = tests("tests/gpu", timeout_s=1800)
DEMO = tests("tests/cli/commands/test_demo.py", timeout_s=300)
EVERY = Stage(
    "every call failing", ("-m", "tests.simulation.every_call", "--stride", "5", "--jobs", "1"), timeout_s=400
)
FEW, MANY = simulation(SEEDS_FEW, timeout_s=300), simulation(SEEDS_MANY, timeout_s=1800)

STAGES: dict[str, tuple[Stage, ...]] = {
    "events": (VIEWS, CORE, SHELL),
    "journal": (JOURNAL, FEW, EVERY, SHELL, MANY),
    "core": (CORE, VIEWS, FEW, SHELL, MANY),
    "projections": (VIEWS, FEW, SHELL),
    "gpu": (FEW, WORKER, EVERY, SHELL),
    "gpu/model/gguf.py": (DEMO,),
    "cli": (FEW, SHELL, EVERY, MANY),
    "cli/commands/demo.py": (DEMO,),
}
"""By folder, or by file where that is listed."""

ALSO_TESTED_BY = {
    "journal/lock.py": ("tests/journal/test_log.py", "tests/journal/test_log_on_bad_disks.py"),
    "journal/segments.py": ("tests/journal/test_log.py", "tests/journal/test_log_on_bad_disks.py"),
    "journal/writer.py": ("tests/journal/test_log.py", "tests/journal/test_log_on_bad_disks.py"),
    "journal/survey.py": ("tests/journal/test_damage.py",),
    "gpu/artifacts/manifest.py": ("tests/gpu/artifacts/test_artifact.py", "tests/gpu/artifacts/test_checkpoint.py"),
    "gpu/artifacts/version_manifest.py": ("tests/gpu/artifacts/test_artifact.py",),
    "gpu/data/format/formats.py": ("tests/gpu/data/format/test_keys.py",),
    "gpu/data/read/container.py": ("tests/gpu/data/read/test_source.py",),
    "gpu/data/template/chat_template.py": ("tests/gpu/data/template/test_render_check.py",),
    "gpu/artifacts/commit.py": ("tests/gpu/artifacts/test_checkpoint.py",),
    "cli/daemon/loop.py": ("tests/cli/daemon/test_loop.py",),
    "cli/home/event_store.py": ("tests/cli/daemon/test_loop.py", "tests/cli/daemon/test_loop_on_bad_disks.py"),
    "gpu/evaluation/program_guard.py": ("tests/gpu/evaluation/test_program.py",),
    "gpu/evaluation/results.py": ("tests/gpu/evaluation/test_job_end.py",),
    "cli/commands/homes/move.py": ("tests/crash/test_home_move.py",),
    "cli/commands/journal_repair.py": ("tests/cli/daemon/test_sweep.py",),
    "cli/commands/lineage.py": ("tests/cli/commands/test_rerun.py", "tests/cli/commands/test_versions.py"),
    "cli/commands/models/difference.py": ("tests/cli/commands/test_versions.py",),
    "cli/commands/models/head.py": ("tests/cli/commands/test_backup.py", "tests/cli/commands/test_versions.py"),
    "cli/commands/rerun.py": ("tests/cli/commands/test_versions.py",),
    "cli/config/pinning.py": ("tests/cli/home/test_paths_of_any_name.py",),
    "cli/daemon/sweep.py": ("tests/cli/commands/test_backup.py", "tests/cli/commands/test_versions.py"),
    "cli/daemon/worker/listener.py": ("tests/cli/daemon/test_loop.py", "tests/cli/daemon/test_loop_on_bad_disks.py"),
    "cli/daemon/worker/supervisor.py": ("tests/cli/daemon/test_loop.py",),
    "cli/diagnosis/logs.py": ("tests/cli/home/test_log_files.py",),
    "cli/home/backups.py": ("tests/cli/commands/test_backup.py",),
    "cli/inbox/accept.py": ("tests/cli/inbox/test_staging.py", "tests/cli/inbox/test_rejection_reports.py"),
    "cli/inbox/ownership.py": ("tests/cli/inbox/test_staging.py",),
    "gpu/versions/merged_model.py": ("tests/gpu/versions/test_export.py",),
    "projections/status_view.py": ("tests/cli/status/test_report.py",),
}
"""What mirrors a module under another name."""


def stages_for(root: Path, path: str, *, quick: bool = False) -> list[Stage]:
    """What is asked about a mutant of the module at `path`, as far as it is there below `root`; `quick`: only by the
    tests of its folder."""
    module = PurePosixPath(path)
    mirrors = sorted(
        found.relative_to(root).as_posix() for found in (root / "tests" / module.parent).glob(f"test_{module.stem}*.py")
    )
    mirrors += [name for name in ALSO_TESTED_BY.get(path, ()) if (root / name).exists() and name not in mirrors]
    first = [tests(*mirrors, timeout_s=600)] if mirrors else []
    rest = (STAGES.get(path) or STAGES[module.parts[0]])[: 1 if quick else None]
    simulated = (root / "tests" / "simulation" / "__main__.py").exists()
    return [stage for stage in dict.fromkeys([*first, *rest]) if simulated or "tests.simulation" not in stage.arguments]


def command(stage: Stage) -> list[str]:
    return [sys.executable, *stage.arguments]
