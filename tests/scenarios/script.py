"""Reads `scenarios.txt` and plays a scenario step by step.

    == NAME                     a scenario; the next line says what it shows
    start                       a daemon starts, whatever became of the one before
    add STEPS [PRIORITY]        a file arrives; the n-th file of a scenario is #n
    again #n                    the bytes of a file arrive once more, to be trained on again
    run                         daemon and worker work until nothing more happens
    until EVENT [COUNT]         they work until so many more events of this kind have happened
    turn, act                   the daemon carries out its effects once; the worker does one small thing
    do COMMAND FIELD=VALUE …    a command, or a fact of a worker; `refused`: it must be refused
    late                        the last fact of an ended worker arrives
    note WORDS                  a remark in the transcript
    config FIELD=VALUE …        the settings from now on
    room #n STEP SEQUENCES      so many sequences of this step fit into memory
    poison #n STEP              the loss of this step is not finite
    validation STEP LOSS        the loss on held-out rows at this step
    gate GATE RIGHT             the gate of the next version, and its right answers of ten; its parent has all
    diverge                     the step that the worker is about to report has another loss
    free BYTES, runs_out        free bytes of the disk; the daemon finds the disk full
    fails FAILURE               the worker reports a failure
    lose_worker [FAILURE]       the worker dies, or is ended for this failure
    rot head|all                checkpoints are damaged; `copies`: undamaged copies are put back
    let NAME = head|backup|checkpoint N     remember an id, for `$NAME`

Values: `#n` is the id of the n-th file, `$NAME` a remembered id, `current` the running attempt.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from core import commands
from core.errors import Refused
from events import messages
from events.codec import kind_of
from events.settings import Gate
from tests.core.simulated_worker import plan
from tests.core.world import job_id, settings
from tests.scenarios.playbook import Playbook

SCENARIOS = Path(__file__).with_name("scenarios.txt")


class Scenario(NamedTuple):
    """Steps to play, and what they show."""

    name: str
    shows: str
    steps: list[str]


def read_scenarios(text: str) -> dict[str, Scenario]:
    """All scenarios, by name."""
    found = {}
    for block in text.split("== ")[1:]:
        name, shows, *steps = block.splitlines()
        found[name] = Scenario(name, shows, [step for step in steps if step])
    return found


def play(scenario: Scenario) -> Playbook:
    """Play it to its end. Raises ScriptError for a step that cannot be played."""
    script = _Script(Playbook())
    for step in scenario.steps:
        verb, _, rest = step.partition(" ")
        try:
            getattr(script, f"play_{verb}")(rest if verb in {"note", "let"} else shlex.split(rest))
        except (Refused, AssertionError, AttributeError, TypeError, ValueError, LookupError) as error:
            raise ScriptError(f"{scenario.name}: {step}: {type(error).__name__}: {error}") from error
    script.book.end()
    return script.book


class ScriptError(AssertionError):
    """A step does not do what it says."""


class _Script:
    """The verbs, one method each."""

    def __init__(self, book: Playbook) -> None:
        self.book = book
        self.names: dict[str, str] = {}

    def play_start(self, _: list[str]) -> None:
        self.book.start()

    def play_add(self, words: list[str]) -> None:
        self.book.add(int(words[0]), *words[1:])

    def play_again(self, words: list[str]) -> None:
        self.book.again(self._value(words[0]))

    def play_run(self, _: list[str]) -> None:
        self.book.run()

    def play_until(self, words: list[str]) -> None:
        wanted, count = words[0], int((*words, "1")[1])
        seen = len(self.book.journal)
        for _ in self.book.steady():
            if sum(kind_of(event) == wanted for event in self.book.journal[seen:]) >= count:
                return
        raise AssertionError(f"{wanted} never happened")

    def play_turn(self, _: list[str]) -> None:
        self.book.turn()

    def play_act(self, _: list[str]) -> None:
        assert self.book.worker is not None
        self.book.worker.act()

    def play_do(self, words: list[str]) -> None:
        self.book.execute(self._command(words))

    def play_refused(self, words: list[str]) -> None:
        assert self.book.refused(self._command(words)) is not None

    def play_late(self, _: list[str]) -> None:
        self.book.execute(self.book.facts[-1])

    def play_note(self, words: str) -> None:
        self.book.note(words)

    def play_config(self, words: list[str]) -> None:
        numbers = {"seed", "r", "keep", "every_steps"}
        fields = dict(word.split("=", 1) for word in words)
        given: dict[str, Any] = {name: int(value) if name in numbers else value for name, value in fields.items()}
        self.book.config = settings(**given)

    def play_room(self, words: list[str]) -> None:
        self.book.room[self._value(words[0]), int(words[1])] = int(words[2])

    def play_poison(self, words: list[str]) -> None:
        self.book.poisoned.add((self._value(words[0]), int(words[1])))

    def play_gate(self, words: list[str]) -> None:
        """The gate of the next versions, and their right answers, of ten."""
        gate, right = words
        self.book.gate = msgspec.convert(gate, Gate)
        self.book.right = int(right)

    def play_validation(self, words: list[str]) -> None:
        self.book.validation[int(words[0])] = "NaN" if words[1] == "NaN" else float(words[1])

    def play_diverge(self, _: list[str]) -> None:
        assert self.book.worker is not None
        (step,) = self.book.worker.outbox
        assert isinstance(step, messages.Step)
        self.book.worker.outbox[0] = msgspec.structs.replace(step, loss="NaN")

    def play_free(self, words: list[str]) -> None:
        self.book.free_bytes = int(words[0])

    def play_runs_out(self, _: list[str]) -> None:
        self.book.runs_out()

    def play_fails(self, words: list[str]) -> None:
        self.book.fails(words[0])

    def play_lose_worker(self, words: list[str]) -> None:
        self.book.lose_worker(*words)

    def play_rot(self, words: list[str]) -> None:
        self.book.spoiled.update(self._checkpoints() if words == ["all"] else [self._id("head")])

    def play_copies(self, _: list[str]) -> None:
        self.book.spoiled.clear()

    def play_let(self, words: str) -> None:
        name, what = words.split(" = ")
        self.names[f"${name}"] = self._id(what)

    # -- values -----------------------------------------------------------------------------------------------------

    def _command(self, words: list[str]) -> Any:
        kind = getattr(commands, words[0], None) or getattr(messages, words[0])
        fields: dict[str, Any] = {}
        for word in words[1:]:
            name, value = word.split("=", 1)
            fields[name] = plan(int(value)) if name == "plan" else self._value(value)
        assert set(fields) <= set(kind.__struct_fields__), f"{words[0]} has no such field"
        return msgspec.convert(fields, kind, strict=False)

    def _value(self, text: str) -> Any:
        if text.startswith("#"):
            return job_id(int(text[1:]))
        return self.book.state.attempts.current if text == "current" else self.names.get(text, text)

    def _id(self, what: str) -> str:
        state = self.book.state
        if what == "head":
            assert state.head.checkpoint is not None
            return state.head.checkpoint.id
        if what == "backup":
            (backup,) = state.retention.backups
            return backup.id
        return self._checkpoints()[int(what.removeprefix("checkpoint ")) - 1]

    def _checkpoints(self) -> list[str]:
        return [checkpoint.id for checkpoint in self.book.state.head.checkpoints]
