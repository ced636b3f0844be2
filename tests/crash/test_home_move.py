"""`keepstep home move` under kills and power cuts: every state that a crash may leave has a complete home."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands.init import create_home
from tests.crash import strace_log
from tests.crash.contents import Blob, Tree
from tests.crash.images import KINDS, environment, scratch_directory
from tests.crash.recorded_disk import Disk
from tests.crash.strace_log import Call

REASON = strace_log.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

OLD, NEW = "home/old", "home/elsewhere/new"

ELSEWHERE = "import cli.commands.homes.move as move; move._rename = lambda *_: False; "
"""As if the destination were on another file system."""

LIMIT = 8
"""Power cuts after each call; of more, a sample."""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory with a home, and one for its new place."""
    with scratch_directory() as scratch:
        root = Path(scratch) / "base"
        (root / NEW).parent.mkdir(parents=True)
        home = create_home(root / OLD, model="nowhere")
        text = home.config.read_text(encoding="utf-8").replace('path = "nowhere"', f'path = "{home.root}/models/m"')
        home.config.write_text(text, encoding="utf-8")
        (home.inbox / "z").symlink_to("../keepstep.toml")
        yield root


def existing(root: Path) -> list[Call]:
    """Calls that make what is there already, safe on the disk."""
    calls = [Call("mkdir", "home")]
    for path in sorted((root / "home").rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            calls.append(Call("create", name))
        elif path.is_dir():
            calls.append(Call("mkdir", name))
        else:
            calls += [Call("create", name), Call("write", name, data=path.read_bytes(), at=0)]
    names = {part for call in calls for part in (call.path, call.path.rpartition("/")[0])}
    return [*calls, *(Call("sync", name, began=len(calls)) for name in sorted(names))]


def content(tree: Tree, root: str) -> dict[str, Blob | None]:
    """What a home holds. A move rewrites keepstep.toml at the end; locks hold nothing."""
    below = {name.removeprefix(root + "/"): blob for name, blob in tree.items() if name.startswith(root + "/")}
    return {name: blob for name, blob in below.items() if "lock" not in name and "keepstep.toml" not in name}


@pytest.mark.parametrize(("program", "calls_min"), [("", 5), (ELSEWHERE, 100)])
def test_every_state_has_a_complete_home(program: str, calls_min: int, base: Path) -> None:
    """A home that has its name is complete, and one is always there. When the command has returned, it is the new
    one, with its settings."""
    before = existing(base)
    log = base.with_suffix(".strace")
    arguments = f"['keepstep', 'home', 'move', {str(base / NEW)!r}, '--home', {str(base / OLD)!r}]"
    command = f"import sys; sys.argv = {arguments}; {program}from cli.main import main; main()"
    subprocess.run(
        [*strace_log.command(log), sys.executable, "-P", "-c", command], check=True, env=environment(), timeout=120
    )
    calls = [call._replace(began=len(before) + call.began) for call in strace_log.read_log(log, base)]
    assert len(calls) > calls_min
    config = (base / NEW / "keepstep.toml").read_bytes()
    assert str(base / NEW).encode() in config
    complete: dict[str, Blob | None] = {}

    def problem(tree: Tree, *, is_done: bool) -> str:
        held = {root: content(tree, root) for root in (OLD, NEW) if root in tree}
        broken = [root for root, each in held.items() if each != complete]
        if broken or not held:
            return f"{broken} are not complete" if broken else "there is no home"
        found = tree.get(f"{NEW}/keepstep.toml")
        if is_done and (found is None or found.data != config):
            return "the command has returned, and the new home is not there with its settings"
        return ""

    for kind in KINDS:
        disk = Disk("ext4" if kind == "kill" else kind)
        for call in before:
            disk.apply(call)
        assert not disk.pending
        complete = content(disk.killed(), OLD)
        assert len(complete) > 10
        for number, call in enumerate(calls, start=1):
            news, is_done = disk.apply(call), number == len(calls)
            if kind == "kill":
                images: list[tuple[str, Tree]] = [("", disk.killed())]
            elif news is None and not is_done:
                continue
            else:
                images = list(disk.images(None if is_done else news, LIMIT, f"1:{number}:{kind}"))
            for name, tree in images:
                assert not (said := problem(tree, is_done=is_done)), f"{number}:{kind}:{name} after {call}: {said}"
