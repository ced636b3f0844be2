"""The cost of training on a file: steps, time and memory.

Steps are exact: they follow from the number of rows, as in the batch plan. The time follows from the speed of the last
attempt in the journal. The memory is an estimate (`gpu.model.training_memory.estimate_memory`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from cli.commands.common import count, format_size
from cli.output.terminal import ATTENTION, Row
from cli.output.times import duration
from gpu.model.training_memory import CPU_SHARE, GPU_SHARE, MemoryEstimate, ModelShape, plan_memory

if TYPE_CHECKING:
    from cli.home.paths import Home
    from core.state import State
    from events.settings import JobSettings
    from gpu.data.examine.report import Report

STEPS_MEASURED = 20
"""Last steps from which the speed is computed, as in `projections.fold`."""

SMALLER_MODEL = 'it needs [model] dtype = "bfloat16", or [method] kind = "lora" or "qlora", or a smaller model'


class Speed(NamedTuple):
    """The speed of the last attempt."""

    tokens_per_s: float
    same_settings: bool
    """True if it trained with the present `[model]` and `[method]`."""


class Machine(Struct, frozen=True, kw_only=True):
    """The memory that training can use."""

    device: str
    """"main memory", or the name of the GPU."""
    on_cpu: bool
    total_bytes: int
    available_bytes: int

    @property
    def usable_bytes(self) -> float:
        """Bytes that training may take: the worker decides about gradient checkpointing by the same number."""
        return (CPU_SHARE if self.on_cpu else GPU_SHARE) * self.total_bytes


class Cost(Struct, frozen=True, kw_only=True):
    """The cost of training on a file."""

    epochs: int
    rows_per_step: int
    steps_per_epoch: int
    steps: int
    tokens: int
    """Tokens of all epochs, without padding."""
    speed: Speed | None
    """None before the first run."""
    memory: MemoryEstimate | None
    gradient_checkpointing: bool = False
    """True if layers are computed again in the backward pass, to keep less memory."""
    journal_problem: str = ""
    """The reason why the journal cannot be read."""

    @property
    def seconds(self) -> float | None:
        """Duration of the steps; None if the speed is unknown."""
        return self.tokens / self.speed.tokens_per_s if self.speed is not None else None


def cost_of(
    report: Report, settings: JobSettings, shape: ModelShape | None, machine: Machine, speed: Speed | None
) -> Cost:
    """The cost of training on a file. `shape`: that of the model; None if it is unknown."""
    from gpu.data.plan.batches import count_steps

    training = settings.training
    rows_per_step = training.batch_size * training.gradient_accumulation
    steps_per_epoch = count_steps(report.trained + report.replayed, rows_per_step)
    memory, checkpoints = None, False
    if shape is not None:
        rows = report.trained + report.replayed
        positions = min(training.batch_size, max(1, rows)) * widest(report, settings)
        plan = plan_memory(shape, settings, positions, on_cpu=machine.on_cpu, usable_bytes=machine.usable_bytes)
        memory, checkpoints = plan.memory, plan.checkpoints
    return Cost(
        epochs=training.epochs,
        rows_per_step=rows_per_step,
        steps_per_epoch=steps_per_epoch,
        steps=steps_per_epoch * training.epochs,
        tokens=report.tokens * training.epochs,
        speed=speed,
        memory=memory,
        gradient_checkpointing=checkpoints,
    )


def widest(report: Report, settings: JobSettings) -> int:
    """Positions of the widest sequence. Packed rows fill `max_length`."""
    return report.max_length if settings.data.packing else min(report.longest_tokens, report.max_length)


def cost_rows(cost: Cost, machine: Machine) -> list[Row]:
    """The cost as lines of the report."""
    rows = [Row("steps", steps_text(cost)), Row("time", time_text(cost))]
    fits = cost.memory is None or cost.memory.total_bytes <= machine.usable_bytes
    rows.append(Row("memory", _memory_text(cost.memory, machine), "" if fits else ATTENTION))
    if cost.gradient_checkpointing:
        rows.append(Row("", "with gradient checkpointing: a third more time, and less memory"))
    if cost.memory is not None and _without_rows(cost.memory) > machine.usable_bytes:
        rows.append(Row("", "→ the model itself may not fit: " + SMALLER_MODEL))
    return rows


def steps_text(cost: Cost) -> str:
    """The number of steps, and what it follows from."""
    epochs = f"{count(cost.epochs, 'epoch')} of {cost.steps_per_epoch:,}"
    return f"{cost.steps:,} ({epochs}, up to {count(cost.rows_per_step, 'row')} a step)"


def _without_rows(memory: MemoryEstimate) -> int:
    """The part that no smaller batch saves, bytes."""
    return memory.total_bytes - memory.activations_bytes - memory.logits_bytes


def total_row(costs: Sequence[Cost]) -> Row:
    """The cost of several files together."""
    seconds = [each.seconds for each in costs if each.seconds is not None]
    time = f", about {duration(sum(seconds))}" if len(seconds) == len(costs) else ""
    return Row("total", f"{count(len(costs), 'good file')}: {count(sum(each.steps for each in costs), 'step')}{time}")


def time_text(cost: Cost) -> str:
    """The duration of the steps, or why it is unknown."""
    if cost.journal_problem:
        return f"unknown: the journal cannot be read ({cost.journal_problem}); `keepstep doctor` says what to do"
    if cost.speed is None or cost.seconds is None:
        return "unknown until the first run"
    other = "" if cost.speed.same_settings else ", which had another [model] or [method]"
    rate = f"{cost.speed.tokens_per_s:,.0f} tokens/s, the speed of the last attempt{other}"
    return f"about {duration(cost.seconds)} for the steps, at {rate}"


def machine_text(machine: Machine) -> str:
    """The device and its memory."""
    return f"{machine.device} has {format_size(machine.total_bytes)}, {format_size(machine.available_bytes)} available"


def _memory_text(memory: MemoryEstimate | None, machine: Machine) -> str:
    has = machine_text(machine)
    if memory is None:
        return f"unknown for this model; {has}"
    parts = {
        "weights": memory.weights_bytes + memory.trained_bytes,
        "gradients and optimizer": memory.gradients_bytes + memory.optimizer_bytes,
        "activations": memory.activations_bytes + memory.logits_bytes,
        "other": memory.checkpoint_bytes + memory.libraries_bytes,
    }
    named = ", ".join(f"{name} {format_size(size_bytes)}" for name, size_bytes in parts.items())
    return f"about {format_size(memory.total_bytes)} ({named}); {has}"


def cost_json(cost: Cost, machine: Machine) -> dict[str, Any]:
    """The cost for scripts. Numbers that are unknown are null."""
    import msgspec

    memory = cost.memory
    return {
        "epochs": cost.epochs,
        "rows_per_step": cost.rows_per_step,
        "steps_per_epoch": cost.steps_per_epoch,
        "steps": cost.steps,
        "tokens": cost.tokens,
        "tokens_per_s": cost.speed.tokens_per_s if cost.speed is not None else None,
        "time_s": cost.seconds,
        "memory": {**msgspec.to_builtins(memory), "total_bytes": memory.total_bytes} if memory is not None else None,
        "gradient_checkpointing": cost.gradient_checkpointing,
        "machine": msgspec.to_builtins(machine),
    }


# -- what is measured -----------------------------------------------------------------------------------------------


def measure_speed(home: Home, settings: JobSettings) -> Speed | None:
    """The speed of the last attempt of the home; None before the first step. Raises journal.errors.JournalError."""
    from cli.home.snapshot_reader import load_state

    folded, _ = load_state(home)
    pace = folded.progress.pace
    if pace is not None and pace.seconds_per_step > 0:
        tokens_per_s = pace.tokens_per_step / pace.seconds_per_step
    else:
        tokens_per_s = _speed_in_journal(home) if folded.state.head.global_step else 0.0
    return Speed(tokens_per_s, _same_settings(folded.state, settings)) if tokens_per_s > 0 else None


def _speed_in_journal(home: Home) -> float:
    """Tokens a second of the last steps; 0.0 if there is none. Reads the whole journal: an attempt has just begun, and
    views forget the speed of the one before."""
    from cli.home.snapshot_reader import read_records
    from events.kinds import StepReached

    events = (record.event for record in read_records(home))
    last = deque((each for each in events if isinstance(each, StepReached) and each.tokens), maxlen=STEPS_MEASURED)
    seconds = sum(each.seconds for each in last)
    return sum(each.tokens for each in last) / seconds if seconds > 0 else 0.0


def _same_settings(state: State, settings: JobSettings) -> bool:
    from core.compatibility import fixed_settings

    trained = fixed_settings(state)
    return trained is None or (trained.model, trained.method) == (settings.model, settings.method)


def measure_machine() -> Machine:
    """The memory of the first GPU if there is one, else the main memory, or less if a control group has a limit."""
    from cli.machine.gpus import load_nvml, read_gpus
    from cli.machine.measure import measure_memory

    nvml = load_nvml()
    if nvml is not None:
        try:
            cards = read_gpus(nvml)
        except nvml.NVMLError:  # the doctor reports the driver
            cards = ()
        for card in cards[:1]:
            if card.memory_total_bytes is not None:
                total_bytes, used_bytes = card.memory_total_bytes, card.memory_used_bytes or 0
                available_bytes = total_bytes - used_bytes
                return Machine(device=card.name, on_cpu=False, total_bytes=total_bytes, available_bytes=available_bytes)
    memory = measure_memory([])
    return Machine(
        device="main memory",
        on_cpu=True,
        total_bytes=min([memory.total_bytes, *(group.total_bytes for group in memory.groups)]),
        available_bytes=min([memory.available_bytes, *(group.available_bytes for group in memory.groups)]),
    )
