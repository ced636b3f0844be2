"""Record `docs/tutorial/first-hour.md`: the first hour with keepstep, in a terminal of 80 columns.

    python docs/make_first_hour.py       run every command for real and write the page; about 15 minutes on two cores

The commands run one after another in a pseudo-terminal, as a new user would type them, with the demo's model and data.
pyte (https://github.com/selectel/pyte) turns what a command writes into what stays on the screen.
"""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte

from cli.commands.demo import DATA, find_model

PAGE = Path(__file__).parent / "tutorial" / "first-hour.md"

COLUMNS = 80
LINES_MAX = 400
"""Lines of the longest output that is kept whole."""

COMMAND_S = 1200
"""Longest wait for a command, seconds: training on a loaded machine."""

HEADER = """
# The first hour

<!-- Written by docs/make_first_hour.py. Do not edit. -->

Every line below was typed into a terminal of 80 columns; the output is as it was, on two CPU cores without a GPU. The
model is SmolLM2-135M-Instruct, the data are 48 rows about keepstep itself (those of `make demo`).

Install keepstep into a separate environment first: `pipx install .` or `uv tool install .`.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A command line, and what is typed after it starts."""

    command: str
    typed: Sequence[str] = ()
    """Lines for a dialogue, each typed when the program waits. "\x04" is Ctrl-D."""
    waits_for: str = "> "
    """Text at the end of the screen's last line when the program waits for a line."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Steps under one heading."""

    title: str
    prose: str
    steps: Sequence[Step]


CHAPTERS = (
    Chapter(
        "Create a home",
        "`init` looks at the model and at the machine, and writes a config that fits both.",
        [Step("keepstep --version"), Step("keepstep init ~/training --model ~/models/smollm2"), Step("cd ~/training")],
    ),
    Chapter(
        "Look at the data",
        "The marked text is what the model is trained to write. Everything else is context.",
        [Step("keepstep data check --preview 1 ~/notes/keepstep.jsonl")],
    ),
    Chapter(
        "Change a setting",
        "The file is small, so six passes over it and a higher learning rate.",
        [
            Step("keepstep config set training.epochs=6 training.learning_rate=2e-3 training.warmup_steps=3"),
            Step("keepstep config get training.epochs"),
        ],
    ),
    Chapter(
        "Train",
        "`run` alone waits for more files; `--until-idle` ends when the queue is empty.",
        [
            Step("keepstep add ~/notes/keepstep.jsonl"),
            Step("keepstep queue"),
            Step("keepstep run --until-idle"),
            Step("keepstep status"),
        ],
    ),
    Chapter(
        "Talk to the result",
        "`head` is the newest committed checkpoint, `base` the model before training.",
        [
            Step('keepstep ask --greedy "What is keepstep?"'),
            Step('keepstep compare --greedy --max-tokens 48 "What is keepstep?"'),
            Step("keepstep chat --greedy", ["What happens to my checkpoints after a power cut?", "\x04"]),
        ],
    ),
    Chapter(
        "Make a version, and go back",
        "A version is a plain transformers model. A rollback deletes nothing.",
        [
            Step('keepstep backup create --reason "the first training"'),
            Step('keepstep consolidate -d "what keepstep is"'),
            Step("keepstep run --until-idle"),
            Step("keepstep versions"),
            Step("keepstep versions rollback"),
            Step('keepstep ask --greedy --max-tokens 48 "What is keepstep?"'),
            Step("keepstep versions restore v1"),
            Step("keepstep lineage"),
        ],
    ),
    Chapter(
        "Ten mistakes",
        "Each says what happened, what it means and what to do.",
        [
            Step("keepstep statsu"),
            Step("keepstep status --home ~/nowhere"),
            Step("keepstep add ~/notes/missing.jsonl"),
            Step("keepstep data check ~/notes/broken.jsonl"),
            Step("keepstep config set training.num_train_epochs=3"),
            Step("keepstep config set training.learning_rate=fast"),
            Step("keepstep config set consolidation.schedule=3am"),
            Step("keepstep init ~/other --model ~/notes"),
            Step("keepstep explain third"),
            Step("keepstep versions restore v009"),
        ],
    ),
)


def main() -> None:
    """Run all steps in a new user directory and write the page."""
    with tempfile.TemporaryDirectory() as directory:
        user = Path(directory) / "ada"
        prepare(user)
        text, place = HEADER, user
        for chapter in CHAPTERS:
            text += f"\n## {chapter.title}\n\n{chapter.prose}\n\n```\n"
            for step in chapter.steps:
                sys.stderr.write(f"$ {step.command}\n")
                text += f"$ {step.command}\n"
                if step.command.startswith("cd "):
                    place = Path(step.command.removeprefix("cd ").replace("~", str(user)))
                    continue
                text += run(step, user, place).replace(str(user), "~")
            text += "```\n"
    PAGE.write_text(text, encoding="utf-8")


def prepare(user: Path) -> None:
    """Make what the user has before the first command: a model, a good file and a damaged one."""
    (user / "notes").mkdir(parents=True)
    (user / "models").mkdir()
    subprocess.run(
        [sys.executable, "-P", "-m", "gpu.model.gguf", str(find_model()), str(user / "models" / "smollm2")], check=True
    )
    rows = DATA.read_text(encoding="utf-8").splitlines(keepends=True)
    (user / "notes" / "keepstep.jsonl").write_text("".join(rows), encoding="utf-8")
    (user / "notes" / "broken.jsonl").write_text("".join(rows[:3]) + rows[3][:40] + "\n", encoding="utf-8")


def run(step: Step, user: Path, place: Path) -> str:
    """Run one command in a pseudo-terminal. Returns the lines that stay on the screen, each ended."""
    screen = pyte.Screen(COLUMNS, LINES_MAX)
    stream = pyte.ByteStream(screen)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("KEEPSTEP", "COLUMNS", "LINES"))
    }
    environment |= {
        "HOME": str(user),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.execvpe("/bin/sh", ["sh", "-c", step.command], environment)  # noqa: S606  # it is a shell
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    lines, deadline = list(step.typed), time.monotonic() + COMMAND_S
    while time.monotonic() < deadline:
        readable, _, _ = select.select([terminal], [], [], 1.0)
        if readable:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux: EIO when the last process closed the terminal
                break
            if not data:
                break
            stream.feed(data)
        elif lines and _last_line(screen).endswith(step.waits_for.rstrip()):
            line = lines.pop(0)
            os.write(terminal, line.encode() if line == "\x04" else line.encode() + b"\n")
    else:
        raise SystemExit(f"{step.command} did not end within {COMMAND_S} s")
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shown = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in screen.display).rstrip())
    return (shown + "\n" if shown else "") + (f"[exit code {code}]\n" if code else "") + "\n"


def _last_line(screen: pyte.Screen) -> str:
    return next((line.rstrip() for line in reversed(screen.display) if line.strip()), "")


if __name__ == "__main__":
    main()
