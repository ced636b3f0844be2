"""`keepstep versions`: list, compare, evaluate, promote, restore, delete and export the published versions.

A restore overwrites nothing: it moves the head, and the old head can be restored again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import completion
from cli.arguments.groups import ListGroup
from cli.arguments.resolve import ORIGIN, find_version_id, matching
from cli.commands.common import HomeOption, JsonOption, count, delete_directories, format_size, read_state
from cli.errors import UserError
from cli.home.paths import Home, find_home
from cli.output.terminal import Row, print_json, print_listing, print_report, say
from events.values import Device

if TYPE_CHECKING:
    from core.state import State
    from core.values import Version

app = typer.Typer(cls=ListGroup, help="List, compare, evaluate, promote, restore, delete and export versions.")

VersionArgument = Annotated[
    str,
    typer.Argument(
        help="A version, such as v001 or 1.",
        autocompletion=completion.version,
    ),
]


HeldArgument = Annotated[
    str,
    typer.Argument(
        help="A held version, such as v001 or 1.",
        autocompletion=completion.held,
    ),
]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also what did not lead to the head.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List the versions that led to the head, and those that are held."""
    show_versions(find_home(home, reads_only=True), everything=everything, json=json)


@app.command()
def show(version: VersionArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Show what a version was made of, how exact it is, and whether it got better."""
    show_version(find_home(home, reads_only=True), version, json=json)


@app.command()
def diff(
    version: VersionArgument,
    other: VersionArgument,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what one version was trained on and the other was not, and which questions flipped."""
    from cli.commands.models.difference import show_difference

    show_difference(find_home(home, reads_only=True), version, other, json=json)


@app.command()
def matrix(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show the loss on each file after each file was trained: what was forgotten.

    The files' held-out rows are scored at the end of each job.
    """
    from cli.commands.models.evaluation import show_matrix
    from cli.home.snapshot_reader import read_evaluation

    show_matrix(read_evaluation(find_home(home, reads_only=True)), json=json)


@app.command()
def restore(
    name: Annotated[
        str,
        typer.Argument(
            help="A version, origin, or a detached checkpoint.",
            autocompletion=completion.target,
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Continue training from a version or a checkpoint.

    The old head is kept and can be restored again.
    """
    from cli.commands.models.head import move_command, show_move

    found = find_home(home)
    show_move(found, move_command(resolve_target(read_state(found), name)), json=json)


@app.command()
def rollback(home: HomeOption = None, json: JsonOption = False) -> None:
    """Go back to the last version, and from that to the one before.

    The old head is kept and can be restored again.
    """
    from cli.commands.models.head import show_move
    from core.commands import RollBack

    show_move(find_home(home), RollBack(), json=json)


@app.command()
def delete(
    version: Annotated[
        str,
        typer.Argument(
            help="A version, or a detached checkpoint.",
            autocompletion=completion.target,
        ),
    ],
    confirm: Annotated[bool, typer.Option("--confirm", help="Really delete it.")] = False,
    home: HomeOption = None,
) -> None:
    """Delete a version for good.

    Refused for the version of the head and for one that another is built on.
    """
    delete_version(find_home(home), version, confirmed=confirm)


@app.command()
def evaluate(
    version: VersionArgument,
    tasks: Annotated[
        str, typer.Option("--tasks", help="Tasks of lm-evaluation-harness: names or YAML files, with commas.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="With --tasks: samples of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="With --tasks: samples at once.")] = 1,
    device: Annotated[Device, typer.Option("--device", help="With --tasks: the device.")] = "auto",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Ask for an evaluation of a version.

    The daemon compares it with its parent, on held-out rows and on the questions in evaluation/. With --tasks, this
    command itself runs tasks of lm-evaluation-harness, without the network.
    """
    if tasks:
        from cli.commands.models.tasks import evaluate_tasks

        names = tuple(filter(None, (name.strip() for name in tasks.split(","))))
        evaluate_tasks(find_home(home), version, names, limit, batch_size, device, json=json)
        return
    if limit is not None or batch_size != 1 or device != "auto":
        raise typer.BadParameter("--limit, --batch-size and --device are for --tasks")
    from cli.commands.models.gate import request_evaluation

    request_evaluation(find_home(home), version, json=json)


@app.command()
def promote(version: HeldArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Move the head to a version that the gate holds.

    Refused if the head has trained on since.
    """
    from cli.commands.models.gate import promote_version

    promote_version(find_home(home), version, json=json)


@app.command()
def discard(
    version: HeldArgument,
    confirm: Annotated[bool, typer.Option("--confirm", help="Really delete it.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a version that the gate holds.

    The head and what was trained stay as they are.
    """
    from cli.commands.models.gate import discard_version

    discard_version(find_home(home), version, confirmed=confirm, json=json)


def show_versions(home: Home, *, everything: bool, json: bool) -> None:
    """`keepstep versions list`."""
    from cli.commands.models.evaluation import mark_text
    from cli.home.snapshot_reader import load_state
    from cli.output.times import local_time
    from projections.evaluation.marks import verdict
    from projections.status import plain

    folded = load_state(home)[0]
    state, marks = folded.state, folded.progress.marks
    ancestors = _ancestors(state)
    held = {each.version for each in state.evaluations.held}
    shown = [version for version in state.retention.versions if everything or version.id in ancestors | held]
    detached = state.head.detached if everything else ()
    if json:
        print_json(
            {
                "head": {
                    "version": state.head.base,
                    "checkpoint": state.head.checkpoint.id if state.head.checkpoint else None,
                },
                "versions": [
                    {
                        **plain(version),
                        "path": str(home.versions / version.id),
                        "verdict": verdict(version.id, state, marks.get(version.id)),
                        "evaluated": plain(marks.get(version.id)),
                    }
                    for version in shown
                ],
                "detached": [plain(each) for each in detached],
            }
        )
        return
    if not shown and not detached:
        say(_no_version(state))
        return
    rows = [
        [
            f"{version.id}{' ← head' if version.id == state.head.base else ' (held)' if version.id in held else ''}",
            str(version.global_step),
            version.parent or ORIGIN,
            local_time(version.made_at),
            format_size(version.size_bytes),
            mark_text(version.id, state, marks.get(version.id)),
            _description(home, version),
        ]
        for version in shown
    ]
    rows += [
        [
            checkpoint.id,
            str(checkpoint.global_step),
            base or ORIGIN,
            "",
            format_size(checkpoint.size_bytes),
            "",
            "detached",
        ]
        for checkpoint, base in ((each.checkpoint, each.base) for each in detached)
    ]
    print_listing(["version", "step", "base", "made", "size", "evaluated", "note"], rows)


def _no_version(state: State) -> str:
    if state.retention.versions:
        versions = count(len(state.retention.versions), "version")
        return f"no version led to the head, which is the origin; {versions} in all: `keepstep versions list --all`"
    if state.retention.versions_made:
        return "every version was deleted; `keepstep consolidate` makes another one"
    return "there is no version yet; `keepstep consolidate` makes one"


def _description(home: Home, version: Version) -> str:
    from cli.commands.models.head import problem_of_version

    problem = problem_of_version(home, version)
    return version.description if problem is None else f"DAMAGED: {problem}"


def show_version(home: Home, name: str, *, json: bool) -> None:
    """`keepstep versions show`."""
    from cli.commands.lineage import show_lineage
    from cli.commands.models.evaluation import evaluation_rows, file_table
    from cli.commands.models.head import problem_of_version
    from cli.home.snapshot_reader import load_state, read_evaluation
    from cli.output.event_lines import applied_text
    from cli.output.times import local_time
    from projections.evaluation.marks import verdict
    from projections.status import plain

    folded = load_state(home)[0]
    state = folded.state
    version = find_version(state, name)
    chart, mark = read_evaluation(home), folded.progress.marks.get(version.id)
    found = next((each for each in chart.versions if each.version == version.id), None)
    if json:
        names = {job: name for job, name in chart.names.items() if found is not None}
        print_json(
            {
                **plain(version),
                "path": str(home.versions / version.id),
                "head": state.head.base == version.id,
                "verdict": verdict(version.id, state, mark),
                "evaluation": plain(found),
                "files": names,
            }
        )
        return
    say(f"{version.id}  {home.versions / version.id}")
    rows = [Row("note", version.description)] if version.description else []
    rows.append(
        Row("made", f"{local_time(version.made_at)}, from {version.checkpoint} and {version.parent or 'the origin'}")
    )
    exact = applied_text(version.applied, version.in_place)
    rows.append(Row("exact", f"{exact or 'nothing was trained'}"))
    if (problem := problem_of_version(home, version)) is not None:
        rows.append(Row("DAMAGED", f"{problem}"))
    rows.append(Row("logits", f"differ by {version.difference:.2%} from those of base and checkpoint"))
    rows += evaluation_rows(version.id, state, found, chart, mark)
    print_report(rows)
    if found is not None and found.scores is not None and found.scores.files:
        print_listing(*file_table(found, chart))
    show_lineage(home, version.id, json=False, verify=False)


def delete_version(home: Home, name: str, *, confirmed: bool) -> None:
    """`keepstep versions delete`. Raises core.errors.Refused, UserError."""
    from contextlib import closing

    from cli.home.event_store import EventStore
    from core.commands import DeleteVersion
    from core.decide import decide

    state = read_state(home)
    name = resolve_target(state, name)
    if name == ORIGIN:
        raise UserError("the origin cannot be deleted: every version is built on it")
    command = DeleteVersion(version=name)
    (would,) = decide(state, command, 0.0)
    if not confirmed:
        raise UserError(
            f"{name} would be deleted for good ({format_size(getattr(would, 'size_bytes', 0))}); nothing was deleted",
            f"to delete it: keepstep versions delete {name} --confirm",
        )
    with closing(EventStore.open(home)) as store:
        delete_directories(home, store.execute(command))
    say(f"{name} is deleted")


def _ancestors(state: State) -> set[str]:
    """The versions that led to the head."""
    by_name = {version.id: version for version in state.retention.versions}
    ancestors: set[str] = set()
    name = state.head.base
    while name is not None and name in by_name:
        ancestors.add(name)
        name = by_name[name].parent
    return ancestors


def find_version(state: State, name: str) -> Version:
    version = state.retention.version(find_version_id(state, name))
    assert version is not None  # it was found by its id
    return version


def resolve_target(state: State, name: str) -> str:
    """The id of a version, `origin`, or a detached checkpoint. Raises UserError."""
    from cli.arguments.resolve import detached, resolve, versions_and_origin

    found = versions_and_origin(state)
    candidates = found if matching(name, found) else [*found, *detached(state)]  # the number 3 is v003 before step 3
    advice = "`keepstep versions list --all` lists the versions and the detached checkpoints"
    return resolve(name, candidates, what="version", advice=advice)
