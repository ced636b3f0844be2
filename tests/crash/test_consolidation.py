"""Killed at any point of a consolidation, a restore, a backup or a deletion: the old state is whole, or the new one is.

With a worker that trains nothing, so that every point can be tried; then with the real one, at the points that tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cli.home.paths import Home
from core.state import State
from events.codec import kind_of
from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.version_manifest import VERSION_MANIFEST, VersionDirectory
from journal.failpoints import CONSOLIDATION
from tests.crash.checks import check, records_of
from tests.crash.homes import log_of
from tests.crash.life import Life

SEED = 7
OF_A_COMMIT = ["file_written", "before_manifest", "staging_written", "staging_fsynced", "renamed"]
COMING = [
    *CONSOLIDATION,
    *(f"{name}:{count}" for name in OF_A_COMMIT for count in (1, 2)),
    "checkpoint_reported:1",
    "checkpoint_reported:2",
    "pruned",
    *(
        f"journaled_{name}"
        for name in (
            "consolidation_started",
            "backup_created",
            "consolidation_backed_up",
            "consolidation_merged",
            "consolidation_verified",
            "version_published",
            "consolidation_finished",
            "checkpoint_pruned",
        )
    ),
]
"""Everything that a consolidation comes by; of what comes twice, the backup's and the version's."""

CRITICAL = ["merged", "journaled_consolidation_verified"]
CRITICAL_OF_ALL = ["renamed:2", "journaled_version_published"]


def trained(life: Life) -> Life:
    life.more()
    life.to_the_end()
    return life


def trained_and_consolidated(life: Life) -> Life:
    return consolidated(trained(life))


def consolidated(life: Life) -> Life:
    assert life.command("consolidate", "--description", "a night") == 0
    life.to_the_end()
    return life


def two_versions(life: Life) -> Life:
    return trained(consolidated(trained(consolidated(trained(life)))))


Copies = Callable[[Callable[[Life], Life]], Life]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Life], Life]], Life]:
    """Homes of the fake worker by what was done in them, each made once."""
    made: dict[str, Life] = {}

    def template(past: Callable[[Life], Life]) -> Life:
        if past.__name__ not in made:
            made[past.__name__] = past(Life.faked(tmp_path_factory.mktemp("template") / "home", Random(SEED)))
        return made[past.__name__]

    return template


@pytest.fixture
def after(templates: Copies, tmp_path: Path) -> Copies:
    """`after(trained)`: a copy of a home in which that was done."""

    def copy(past: Callable[[Life], Life]) -> Life:
        return templates(past).copied(tmp_path / "home")

    return copy


def killed(life: Life, point: str) -> bool:
    """A daemon that does what is pending dies there; whether it came to it."""
    died = life.word(f"died-{point}")
    life.start(KEEPSTEP_FAILPOINT=point, KEEPSTEP_FAILPOINT_ONCE=str(died))
    life.ended(120.0)
    return died.exists()


def command_killed(life: Life, point: str, *words: str) -> bool:
    died = life.word(f"died-{point}")
    life.command(*words, KEEPSTEP_FAILPOINT=point, KEEPSTEP_FAILPOINT_ONCE=str(died))
    return died.exists()


def everything_is_there(home: Home) -> State:
    """What the state names is on disk, every byte of it; nothing else is."""
    state = check(home)
    named = {version.id: version.manifest_sha256 for version in state.retention.versions}
    assert {path.name for path in home.versions.iterdir()} == named.keys()
    for name, sha256 in named.items():
        assert find_problem(VersionDirectory(home.versions / name), sha256, every_byte=True) is None
    copies = {each.id: each.manifest_sha256 for each in state.retention.backups}
    assert {path.name for path in home.backups.iterdir()} == copies.keys()
    for name, sha256 in copies.items():
        assert find_problem(BackupDirectory(home.backups / name), sha256, every_byte=True) is None
    for each in (*state.head.checkpoints, *(left.checkpoint for left in state.head.detached)):
        artifact = CheckpointDirectory(home.checkpoints / each.id)
        assert find_problem(artifact, each.manifest_sha256, every_byte=True) is None
    assert state.consolidation.request is None
    assert state.head.pending_restore is None
    return state


def weights(home: Home, version: str) -> dict[str, str]:
    """SHA-256 of all that a version holds but for what names attempts."""
    directory = home.versions / version
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.name if "learned" in path.parts else path.relative_to(directory).as_posix(): _sha256(path)
        for path in files
        if path.name not in {VERSION_MANIFEST, "README.md", "adapter_config.json"}  # which name attempts, and the home
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lived_through(life: Life, calm: Life, points: list[str]) -> None:
    """Learn and consolidate, killed at one point after the other; then all that came of it, next to a calm life."""
    for point in points:
        trained(life)
        assert life.command("consolidate") == 0
        assert killed(life, point), f"{point} was never reached\n{log_of(life.home)}"
        life.to_the_end()
        consolidated(trained(calm))
    state, wanted = everything_is_there(life.home), everything_is_there(calm.home)
    assert [version.id for version in state.retention.versions] == [version.id for version in wanted.retention.versions]
    assert len(state.retention.versions) == len(points)
    assert state.head.base == state.retention.versions[-1].id
    assert state.head.checkpoint is None
    for made, calmly in zip(state.retention.versions, wanted.retention.versions, strict=True):
        assert weights(life.home, made.id) == weights(calm.home, calmly.id)
        assert (made.parent, made.applied, made.difference) == (calmly.parent, calmly.applied, calmly.difference)


def test_a_consolidation_that_is_killed_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """At the points that tell most; each time the same version comes of it."""
    lived_through(
        Life.faked(tmp_path / "home", Random(SEED)), Life.faked(tmp_path / "calm", Random(SEED)), CRITICAL_OF_ALL
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_consolidation_that_is_killed_anywhere_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """At every point that it comes by."""
    lived_through(Life.faked(tmp_path / "home", Random(SEED)), Life.faked(tmp_path / "calm", Random(SEED)), COMING)


@pytest.mark.parametrize("point", ["journaled_consolidation_requested", "journaled_consolidation_cancelled"])
def test_a_request_survives_when_its_command_is_killed_after_it(point: str, after: Copies) -> None:
    life = after(trained)
    if point.endswith("requested"):
        assert command_killed(life, point, "consolidate")
        life.to_the_end()
        assert everything_is_there(life.home).head.base == "v001"
    else:
        assert life.command("consolidate") == 0
        assert command_killed(life, point, "consolidate", "--cancel")
        life.to_the_end()
        assert everything_is_there(life.home).head.base is None


MOVES: dict[str, tuple[tuple[str, ...], Callable[[State], bool]]] = {
    "restore a version": (
        ("versions", "restore", "v001"),
        lambda state: state.head.base == "v001" and state.head.checkpoint is None,
    ),
    "roll back": (("versions", "rollback"), lambda state: state.head.base == "v002" and state.head.checkpoint is None),
    "restore the origin": (
        ("versions", "restore", "origin"),
        lambda state: state.head.base is None and state.head.checkpoint is None,
    ),
}


@pytest.mark.parametrize(
    ("move", "point"),
    [
        ("restore the origin", "journaled_head_moved"),
        *(
            pytest.param(move, point, marks=pytest.mark.long)
            for move in MOVES
            for point in ("journaled_head_moved", "journaled_checkpoint_pruned", "pruned")
        ),
    ],
)
def test_the_head_is_moved_or_it_is_not(move: str, point: str, after: Copies) -> None:
    life = after(two_versions)
    before = life.state
    words, there = MOVES[move]
    assert command_killed(life, point, *words)
    life.to_the_end()
    state = everything_is_there(life.home)
    assert there(state)
    assert before.head.checkpoint is not None
    assert life.command("versions", "restore", before.head.checkpoint.id) == 0
    life.to_the_end()
    again = everything_is_there(life.home)
    assert again.head.checkpoint is not None
    assert (again.head.checkpoint.id, again.head.base) == (before.head.checkpoint.id, before.head.base)


@pytest.mark.parametrize(
    ("by", "point"),
    [
        ("command", "renamed"),
        ("daemon", "staging_written"),
        *(
            pytest.param(by, point, marks=pytest.mark.long)
            for by in ("command", "daemon")
            for point in ("journaled_head_moved", *OF_A_COMMIT, "brought_back", "journaled_checkpoint_restored")
        ),
    ],
)
def test_a_backup_is_restored_whole_whichever_process_is_killed(by: str, point: str, after: Copies) -> None:
    life = after(trained_and_consolidated)
    (made,) = life.state.retention.backups
    if by == "command":
        assert command_killed(life, point, "backup", "restore", made.id)
    else:
        assert command_killed(life, "journaled_head_moved", "backup", "restore", made.id)
        came = killed(life, point)
        assert came == ((point != "journaled_head_moved" and point != "before_manifest") or came)
    life.to_the_end()
    state = everything_is_there(life.home)
    assert state.head.checkpoint is not None
    assert state.head.checkpoint.id == made.held.checkpoint.id
    consolidated(life)
    assert everything_is_there(life.home).head.base == "v002"
    assert weights(life.home, "v001") == weights(life.home, "v002")


@pytest.mark.parametrize(
    "point",
    ["renamed", *(pytest.param(point, marks=pytest.mark.long) for point in (*OF_A_COMMIT, "journaled_backup_created"))],
)
def test_a_backup_that_is_killed_is_there_whole_or_not_at_all(point: str, after: Copies) -> None:
    life = after(trained)
    assert command_killed(life, point, "backup", "create", "--reason", "to be sure")
    life.to_the_end()
    state = everything_is_there(life.home)
    assert len(state.retention.backups) == (point == "journaled_backup_created")
    assert life.command("backup", "create") == 0
    assert len(everything_is_there(life.home).retention.backups) == len(state.retention.backups) + 1


@pytest.mark.parametrize("point", ["journaled_backup_deleted", "pruned"])
def test_old_backups_are_deleted_or_they_are_not(point: str, after: Copies) -> None:
    life = after(trained)
    for _ in range(2):
        assert life.command("backup", "create") == 0
    assert command_killed(life, point, "backup", "cleanup", "--retention-days", "0", "--execute")
    life.to_the_end()
    assert [each.id for each in everything_is_there(life.home).retention.backups] == ["manual-0002"]


@pytest.mark.parametrize("point", ["journaled_version_deleted", "pruned"])
def test_a_version_is_deleted_or_it_is_not(point: str, after: Copies) -> None:
    life = after(two_versions)
    assert life.command("versions", "restore", "v001") == 0
    head = life.state.head.detached[-1].checkpoint.id
    assert life.command("versions", "delete", head, "--confirm") == 0
    assert command_killed(life, point, "versions", "delete", "v002", "--confirm")
    life.to_the_end()
    assert [each.id for each in everything_is_there(life.home).retention.versions] == ["v001"]


def test_a_consolidation_is_asked_to_make_way_and_begins_again(after: Copies) -> None:
    """`keepstep pause` in the middle: it ends at once, and `resume` makes the version."""
    life = after(trained)
    assert life.command("pause") == 0
    assert life.command("consolidate") == 0
    assert life.command("resume") == 0
    consolidated_kinds = [kind_of(record.event) for record in records_of(life.home)]
    assert "consolidation_started" not in consolidated_kinds
    life.to_the_end()
    assert everything_is_there(life.home).head.base == "v001"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("points", [["renamed:2"], CRITICAL])
def test_the_real_worker_killed_at_critical_points_gives_the_same_versions(points: list[str], tmp_path: Path) -> None:
    life = Life.real(tmp_path / "home", Random(SEED))
    lived_through(life, Life.real(tmp_path / "calm", Random(SEED)), points)
    assert life.command("lineage", "v001", "--verify") == 0
    steps_before = life.state.head.global_step
    trained(life)
    assert life.command("lineage", "--prove") == 0  # next to the version, from the last checkpoint that is kept
    target = tmp_path / "then"
    assert life.command("checkout", "--step", str(steps_before + 1), "--to", str(target)) == 0
    assert (target / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("point", ["journaled_checkpoint_pruned", "pruned"])
def test_checkpoints_that_a_person_prunes_are_deleted_or_they_are_not(point: str, after: Copies) -> None:
    life = after(trained)
    assert len(life.state.head.checkpoints) > 1
    assert command_killed(life, point, "checkpoints", "prune", "--keep", "1")
    life.to_the_end()
    assert len(everything_is_there(life.home).head.checkpoints) == 1


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", OF_A_COMMIT)
def test_an_export_that_is_killed_leaves_the_home_as_it_was(point: str, tmp_path: Path) -> None:
    """Next to the home, a model that is whole, or what the next export of that name takes away."""
    life = consolidated(trained(Life.real(tmp_path / "home", Random(SEED))))
    before = {path: _sha256(path) for path in life.home.versions.rglob("*") if path.is_file()}
    target = tmp_path / "out" / "model"
    assert command_killed(life, point, "versions", "export", "v001", "--to", str(target))
    assert {path: _sha256(path) for path in life.home.versions.rglob("*") if path.is_file()} == before
    assert target.exists() == (point == "renamed")
    if not target.exists():
        assert life.command("versions", "export", "v001", "--to", str(target)) == 0
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert everything_is_there(life.home).head.base == "v001"
