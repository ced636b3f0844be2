"""`keepstep home info` and `keepstep home size`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.commands.common import count, format_size, read_state
from cli.config.schema import load_config
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from cli.output.terminal import Row, print_json, print_listing, print_report, say
from cli.output.times import local, local_time
from cli.version import VERSION

if TYPE_CHECKING:
    from core.state import State


class Freeable(NamedTuple):
    """Bytes that a command frees."""

    size_bytes: int
    command: str


class Folder(NamedTuple):
    """A folder of the home, with what can be freed in it; None: nothing."""

    name: str
    size_bytes: int
    freeable: Freeable | None


def size_of(path: Path) -> int:
    """The bytes of the files at and below `path`; links are not followed. A file that is deleted meanwhile is 0."""
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            try:
                total += Path(directory, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def folders(home: Home, state: State) -> list[Folder]:
    """The folders at the top of the home, the largest first."""
    freeable = _freeable(home, state)
    found = [Folder(path.name, size_of(path), freeable.get(path.name)) for path in home.root.iterdir() if path.is_dir()]
    return sorted(found, key=lambda folder: -folder.size_bytes)


def _freeable(home: Home, state: State) -> dict[str, Freeable]:
    """Space that can be freed, by folder. Nothing here loses trained weights of the head or a file that waits."""
    from core.topics.retention import why_version_stays

    older = sum(each.size_bytes for each in state.head.checkpoints[:-1])
    backups = sum(each.size_bytes for each in state.retention.backups[:-1])
    versions = [each for each in state.retention.versions if why_version_stays(state, each) is None]
    found = {
        "checkpoints": Freeable(older, "keepstep checkpoints prune --keep 1"),
        "backups": Freeable(backups, "keepstep backup cleanup --retention-days 0 --execute"),
        "versions": Freeable(
            sum(each.size_bytes for each in versions[:1]),
            f"keepstep versions delete {versions[0].id} --confirm" if versions else "",
        ),
        "cache": Freeable(size_of(home.tokens.parent), f"rm -r {home.tokens.parent}   (it is made again when needed)"),
        "quarantine": Freeable(size_of(home.quarantine), f"rm -r {home.quarantine}/*   (damaged checkpoints)"),
        "rejected": Freeable(size_of(home.rejected), f"rm -r {home.rejected}/*   (files that were not trained)"),
    }
    return {name: each for name, each in found.items() if each.size_bytes}


def show_sizes(home: Home, *, json: bool) -> None:
    """`keepstep home size`. Raises journal.errors.JournalError."""
    found = folders(home, read_state(home))
    total = size_of(home.root)
    if json:
        rows = [
            {
                "folder": each.name,
                "size_bytes": each.size_bytes,
                "freeable_bytes": each.freeable.size_bytes if each.freeable is not None else 0,
                "command": each.freeable.command if each.freeable is not None else None,
            }
            for each in found
        ]
        print_json({"size_bytes": total, "folders": rows})
        return
    print_listing(["folder", "size"], [[each.name, format_size(each.size_bytes)] for each in found])
    say(f"in all {format_size(total)}")
    for line in _advice(found):
        say(line, indent=4)


def _advice(found: list[Folder]) -> Iterator[str]:
    freeable = [(each.name, each.freeable) for each in found if each.freeable is not None]
    if not freeable:
        yield "nothing can be freed: everything is needed by the head, the queue or a version"
        return
    yield "what can be freed, if you do not need it:"
    for name, each in freeable:
        yield f"  {name}: {format_size(each.size_bytes)}: {each.command}"


def show_info(home: Home, *, json: bool) -> None:
    """`keepstep home info`. Raises journal.errors.JournalError."""
    from events.kinds import HomeCreated

    state = read_state(home)
    first = next(iter(read_records(home)))
    made_by = first.event.keepstep if isinstance(first.event, HomeCreated) else ""
    job = load_config(home.config, storage=home.storage).job
    report = {
        "path": str(home.root),
        "id": state.home.id,
        "created_at": first.at,
        "made_by": made_by,
        "keepstep": VERSION,
        "model": job.model.path,
        "method": job.method.__struct_config__.tag,
        "global_step": state.head.global_step,
        "base": state.head.base,
        "versions": len(state.retention.versions),
        "checkpoints": len(state.head.checkpoints),
        "backups": len(state.retention.backups),
        "files_trained": state.outcomes.counts.trained,
        "size_bytes": size_of(home.root),
        "daemon_runs": daemon_is_alive(home),
    }
    if json:
        print_json(report)
        return
    kept = ", ".join(
        count(number, noun)
        for number, noun in (
            (len(state.retention.versions), "version"),
            (len(state.head.checkpoints), "checkpoint"),
            (len(state.retention.backups), "backup"),
        )
    )
    version = state.retention.version(state.head.base)
    base = f"{version.id}, made {local_time(version.made_at)}" if version is not None else "the origin"
    print_report(
        [
            Row("path", str(home.root)),
            Row("id", state.home.id),
            Row("created", f"{local(first.at)}, by keepstep {made_by}; this is keepstep {VERSION}"),
            Row("model", f"{job.model.path}, {report['method']}"),
            Row("trained", f"{count(state.outcomes.counts.trained, 'file')}, {count(state.head.global_step, 'step')}"),
            Row("base", base),
            Row("kept", kept),
            Row("size", f"{format_size(size_of(home.root))}; by folder: keepstep home size"),
            Row("daemon", "runs" if daemon_is_alive(home) else "does not run"),
        ]
    )
