"""Messages between a command and the process that generates text: orders one way, reports the other.

JSON objects, one a line, over a socket (`gpu.ipc.connection`). Every report carries the number of the order that it
answers, so that a late report of a stopped answer is recognized.

    command                                 process
    load_model (source, device)       ──▶
                                    ◀──     model_loaded            or  generation_failed
    generate (messages, sampling)     ──▶
                                    ◀──     generation_started      (sampling in use, messages that did not fit)
                                    ◀──     text_generated, …       (whole characters)
    stop_generation                   ──▶   (at the next token)
                                    ◀──     generation_finished     or  generation_failed

The process ends when the socket closes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from events.settings import JobSettings
from events.values import CheckpointId, Device, VersionId

Role = Literal["system", "user", "assistant"]

Finish = Literal["end", "stop_text", "length", "context", "stopped"]
"""Why an answer ended: the model ended it, a text of `Generate.stop` came, it has the most tokens allowed, the context
is full, or it was stopped."""

FailureKind = Literal["prompt", "context", "memory", "other"]
"""What a failure is about: the dialogue cannot be answered, it does not fit into the context, memory is short, or
something else."""


COUNT_MAX = 2**31 - 1
"""The largest number of tokens that can be asked for: more than any vocabulary and any context has."""


class ChatMessage(Struct, frozen=True):
    """One message of a dialogue."""

    role: Role
    content: str


class Sampling(Struct, frozen=True, kw_only=True):
    """The choice of the next token. None: as the model's generation_config.json says, else the library's default."""

    temperature: Annotated[float, Meta(ge=0.0)] | None = None
    """0: always the most probable token."""
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    """Choose among the most probable tokens that together have this probability."""
    top_k: Annotated[int, Meta(ge=0, le=COUNT_MAX)] | None = None
    """Choose among this many tokens; 0: among all."""
    max_tokens: Annotated[int, Meta(ge=1, le=COUNT_MAX)] | None = None
    """The most tokens of an answer."""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] | None = None
    """The same seed gives the same answer; None: a new one each time."""
    greedy: bool = False
    """Always the most probable token."""


class SamplingInUse(Struct, frozen=True, kw_only=True):
    """The values that an answer is generated with. None: not used, because the choice is greedy."""

    greedy: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float
    """From the model's generation_config.json; 1: none."""
    max_tokens: int
    seed: int


class ModelSource(Struct, frozen=True, kw_only=True):
    """A model of the home: its base, a version, or a checkpoint on either."""

    settings: JobSettings
    """Those of the config. A checkpoint or a version is loaded with the method and the dtype of its manifest."""
    version: VersionId | None = None
    """None: the base of the settings."""
    checkpoint: CheckpointId | None = None
    """None: the weights of the base or the version alone."""
    manifest_sha256: str | None = None
    """SHA-256 of the manifest of the checkpoint or version, from the journal."""


class MemoryBudget(Struct, frozen=True, kw_only=True):
    """The memory that a model may take, as measured before it is loaded. Bytes."""

    free_bytes: int
    """Main memory that may be taken; with a daemon, only so much that it does not stop training for lack of memory."""
    worker_bytes: int = 0
    """Main memory that the daemon's worker has already."""
    daemon_runs: bool = False
    """Training may start or grow at any time."""
    trains: bool = False
    """An attempt runs: the answer leaves the CPU to it."""
    gpu_free_bytes: int | None = None
    """None: unknown."""
    gpu_total_bytes: int | None = None


class GenerationOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="order"):
    """Something to do."""

    request: int
    """A number that the reports repeat. Each order has a higher one."""


class LoadModel(GenerationOrder, frozen=True, kw_only=True, tag="load_model"):
    """Load a model. The one in memory is dropped first, unless it is the same."""

    source: ModelSource
    device: Device = "auto"
    budget: MemoryBudget


class Generate(GenerationOrder, frozen=True, kw_only=True, tag="generate"):
    """Generate the answer to a dialogue."""

    messages: tuple[ChatMessage, ...]
    """The oldest first; the last one is the user's."""
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    """Texts that end the answer. They are not part of it."""
    shorten: bool = True
    """Leave out the oldest turns of a dialogue that does not fit into the context. False: refuse it."""
    plain: bool = False
    """Continue the text of the messages, without the chat template."""


class StopGeneration(GenerationOrder, frozen=True, kw_only=True, tag="stop_generation"):
    """End the answer of this request at the next token."""


AnyGenerationOrder = LoadModel | Generate | StopGeneration


class GenerationFact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="fact"):
    """The answer to an order, or a part of it."""

    request: int


class ModelLoaded(GenerationFact, frozen=True, kw_only=True, tag="model_loaded"):
    """The model is in memory."""

    device: str
    dtype: str
    """Data type of the frozen weights, or of all weights if all were trained."""
    arithmetic: str
    """The arithmetic of its products, as in training."""
    context_tokens: int | None
    """The longest prompt with its answer; None: the model does not say."""
    has_chat_template: bool
    notes: tuple[str, ...] = ()
    """Sentences for the user, for example why the CPU is used."""
    seconds: float


class GenerationStarted(GenerationFact, frozen=True, kw_only=True, tag="generation_started"):
    """The prompt is encoded; the text follows."""

    prompt_tokens: int
    dropped: tuple[int, ...] = ()
    """Indexes of the messages that were left out, because the dialogue does not fit into the context."""
    sampling: SamplingInUse


class TextGenerated(GenerationFact, frozen=True, kw_only=True, tag="text_generated"):
    """The next characters of the answer, whole ones."""

    text: str


class GenerationFinished(GenerationFact, frozen=True, kw_only=True, tag="generation_finished"):
    """The answer is complete: it is the sum of its texts."""

    finish: Finish
    tokens: int
    """Generated tokens, with the one that ends the answer."""
    seconds: float


class GenerationFailed(GenerationFact, frozen=True, kw_only=True, tag="generation_failed"):
    """The order could not be carried out. The process takes further orders."""

    problem: str
    """A sentence without a period: what happened."""
    advice: str = ""
    about: FailureKind = "other"


AnyGenerationFact = ModelLoaded | GenerationStarted | TextGenerated | GenerationFinished | GenerationFailed
