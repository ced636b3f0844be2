"""What a job is trained with.

These structs are the sections of `keepstep.toml`, and they are journaled with each attempt: a job that was begun
under some settings is finished under them, whatever the file says by then. Bounds stand on the types, so that one
place decides what is allowed, for the config file and for the journal alike.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from events.values import Priority

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
Portion = Annotated[float, Meta(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Meta(ge=0.0)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of `keepstep.toml`: unknown keys are refused, never ignored."""


class ModelSettings(Section, frozen=True, kw_only=True):
    """[model] The model that training starts from."""

    path: Annotated[str, Meta(min_length=1)]
    """A directory (relative paths start at the home) or a hub id."""
    revision: Annotated[str, Meta(pattern="^([0-9a-f]{40})?$")] = ""
    """The commit of a hub id, 40 hexadecimal digits; "": whatever commit the hub's cache has. A directory has none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How frozen weights are held in memory. What is trained is float32 in every case."""
    trust_remote_code: bool = False
    """Whether code that comes with a model may run. Leave it off."""


class AdapterSettings(Section, frozen=True, kw_only=True):
    """What `lora` and `qlora` have in common: small trained matrices beside frozen weights."""

    r: Positive = 16
    alpha: Annotated[float, Meta(gt=0.0)] = 32.0
    dropout: Share = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    """Scale by alpha / √r, not by alpha / r: https://arxiv.org/abs/2312.03732."""


class LoraSettings(AdapterSettings, frozen=True, kw_only=True, tag_field="kind", tag="lora"):
    """[method] kind = "lora": the frozen weights are what they are on disk."""

    use_dora: bool = False
    """Train the length of each row by itself: https://arxiv.org/abs/2402.09353."""


class QloraSettings(AdapterSettings, frozen=True, kw_only=True, tag_field="kind", tag="qlora"):
    """[method] kind = "qlora": the frozen weights are held in 4 bits while training, https://arxiv.org/abs/2305.14314.
    On disk they stay what they were, and what is learned is merged into those."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    """Round the scales of the blocks too."""


class FullSettings(Section, frozen=True, kw_only=True, tag_field="kind", tag="full"):
    """[method] kind = "full": every weight is trained."""


MethodSettings = LoraSettings | QloraSettings | FullSettings


class DataSettings(Section, frozen=True, kw_only=True):
    """[data] How rows are read, and what becomes of those that cannot be learned from."""

    format: Literal[
        "auto", "messages", "prompt_completion", "instruction", "sharegpt", "text", "tokens", "plain_text"
    ] = "auto"
    prompt: str | None = None
    """Field mapping: the name of the field that holds the question (then `completion` is needed too)."""
    completion: str | None = None
    max_length: Annotated[int, Meta(ge=8)] = 1024
    """Tokens of one example."""
    long: Literal["refuse", "drop", "truncate", "split"] = "truncate"
    """What becomes of a longer one: the file is refused, the row is left out, it is cut at the end, or it is cut into
    several. Counted and reported in every case."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Whether a row that cannot be learned from refuses its file, or is left out and written beside the report."""
    bad_rows_max: Portion = 0.1
    """With `skip`: a file with a larger share of them is refused all the same."""
    packing: bool = False
    """Whether short examples are put into one sequence of `max_length`, each seeing only itself."""
    validation: str | None = None
    """A file (relative paths start at the home) whose rows are never trained on, whatever file they come in."""
    holdout: Share = 0.0
    """Rows that are never trained on, as a share of all: chosen by what they say, so that a row which is held out once
    always is, whatever file it comes in."""
    replay: Share = 0.0
    """Rows of earlier files that are mixed into each new one, as a share of its rows, so that less is forgotten."""


HookTrigger = Literal[
    "job_finished",
    "job_rejected",
    "job_failed",
    "attempt_failed",
    "batch_set_aside",
    "micro_batch_split",
    "held",
    "disk_low",
    "memory_low",
    "diverged",
    "damaged",
    "recovered",
    "version_published",
    "validation_alert",
]
"""What a hook can be for."""

Severity = Literal["refuse", "warn", "off"]


class CheckSettings(Section, frozen=True, kw_only=True):
    """[checks] What is looked for in a file as a whole, before any GPU time: "refuse", "warn" or "off"."""

    too_long: Severity = "refuse"
    """Rows over max_length: refused above `too_long_max` of all rows, warned of above `too_long_warn`."""
    too_long_max: Portion = 0.95
    too_long_warn: Portion = 0.05
    duplicates: Severity = "warn"
    """Rows that were there before, word for word: above this share of all rows."""
    duplicates_max: Portion = 0.0
    near_duplicates: Severity = "warn"
    """Rows that are nearly the same as an earlier one: above this share."""
    near_duplicates_max: Portion = 0.0
    near_duplicates_similarity: Portion = 0.85
    """Of the sets of their five-letter pieces, by MinHash (the Jaccard index)."""
    diversity: Severity = "refuse"
    """Different rows as a share of all: below `diversity_min`."""
    diversity_min: Portion = 0.5
    contradictions: Severity = "warn"
    """The same prompt with another answer: above this share of all rows."""
    contradictions_max: Portion = 0.0
    learned_before: Severity = "warn"
    """Rows of files that were accepted before: above this share."""
    learned_before_max: Portion = 0.0
    validation: Severity = "warn"
    """Rows of the validation set, which are left out in any case: above this share."""
    validation_max: Portion = 0.0
    rows: dict[str, Severity] = {}
    """What is wrong with single rows, by name (docs/reference/data-formats.md), where it is to weigh otherwise than by itself:
    "refuse" makes such a row a bad one."""


class TrainingSettings(Section, frozen=True, kw_only=True):
    """[training] The optimizer and its schedule. One step learns batch_size × gradient_accumulation examples."""

    batch_size: Positive = 4
    gradient_accumulation: Positive = 4
    epochs: Positive = 1
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 2e-4
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    weight_decay: Share = 0.0
    max_grad_norm: NonNegative = 1.0
    """Gradients are clipped to this norm; 0 turns clipping off."""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    """What steps are computed in (bf16: autocast); the trained weights stay float32. On a processor that is slow at
    bfloat16, "bf16" computes in float32, and the worker says so."""
    optimizer: Literal["carry", "reset"] = "carry"
    """Whether AdamW's moments go on from one file to the next, or begin anew with each."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """CPU threads; 0: one for each core. Part of exactness: another count gives other rounding."""


class GuardSettings(Section, frozen=True, kw_only=True):
    """[guard] When a batch is suspect and its step is stopped before it changes anything. A loss or a gradient that is
    no number always is."""

    spike: NonNegative = 0.0
    """A loss is one if it is above the median of the last ones by more than this many times their median distance from
    it; 0: off, as by default: the losses of small batches have long tails, and a batch that is hard is no fault."""
    spike_window: Annotated[int, Meta(ge=16)] = 64
    """How many losses of the same job, at most, it is held against; before there are 16, nothing is a spike."""


class EvaluationSettings(Section, frozen=True, kw_only=True):
    """[evaluation] How well a job does on rows that it never learns: those of [data] validation, and those of its own
    file that are held out. Where there are none, nothing is evaluated."""

    every_steps: Annotated[int, Meta(ge=0)] = 200
    """Each N steps of a job, besides its beginning and its end; 0: only then."""
    rows: Annotated[int, Meta(ge=0)] = 128
    """At most so many, chosen by what they say, so that they are the same ones each time; 0: nothing is evaluated."""
    gap_warn: NonNegative = 0.3
    """A validation loss that has risen is said to when it is above the training loss by more than this, nats."""
    gap_alert: NonNegative = 0.5
    """And said louder above this."""


class CheckpointSettings(Section, frozen=True, kw_only=True):
    """[checkpoints] How much work a crash may cost, and how many checkpoints are kept."""

    every_steps: Annotated[int, Meta(ge=0)] = 50
    """A checkpoint each N steps; 0: not by steps."""
    every_seconds: NonNegative = 600.0
    """A checkpoint when the last one is older than this; 0: not by time."""
    keep: Annotated[int, Meta(ge=1)] = 3
    """The newest N stay on disk."""
    keep_every_steps: Annotated[int, Meta(ge=0)] = 0
    """And the first one at or behind each M steps, as long as its branch is the head's; 0: none."""


class ConsolidationSettings(Section, frozen=True, kw_only=True):
    """[consolidation] When what was learned becomes a version by itself, and what that needs."""

    schedule: Annotated[str, Meta(pattern="^(([01][0-9]|2[0-3]):[0-5][0-9])?$")] = ""
    """Every day at this time ("03:00"), as soon as nothing trains; "": only when asked."""
    timezone: str = "UTC"
    """Of the schedule: "UTC", "Europe/Berlin", …"""
    missed: Literal["run", "skip"] = "run"
    """What becomes of a night on which no daemon ran."""
    space_factor: Annotated[float, Meta(ge=1.0)] = 3.0
    """How many times the size of the model must be free on the disk before it begins."""


class RetentionSettings(Section, frozen=True, kw_only=True):
    """[retention] How much of the past stays on disk. What the head stands on always does."""

    versions: Annotated[int, Meta(ge=0)] = 0
    """The newest N; 0: all."""
    backups: Annotated[int, Meta(ge=1)] = 5
    """The newest N stay, however old."""
    days: NonNegative = 30.0
    """Other backups go when they are older; 0: at once."""


class DiskSettings(Section, frozen=True, kw_only=True):
    """[disk] How much room is left alone. A disk that is full in earnest is waited out in any case."""

    soft_gb: NonNegative = 0.0
    """With less free (10⁹ bytes), what retention may give up goes at once: older checkpoints and backups; 0: off."""
    hard_gb: NonNegative = 0.0
    """With less free, nothing is begun or written that might not fit, until there is room again; 0: off."""


class MemorySettings(Section, frozen=True, kw_only=True):
    """[memory] How much of the machine's memory others may use of what the worker leaves to them."""

    hold_above: Portion = 0.85
    """With more in use, nothing is begun, and what runs ends behind its next commit; 0: off."""
    resume_below: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.75
    """With less in use again, work goes on by itself."""
    grace_s: NonNegative = 30.0
    """How long it may last before what runs is ended."""


class InboxSettings(Section, frozen=True, kw_only=True):
    """[inbox] When a file in the inbox is complete."""

    settle_s: NonNegative = 3.0
    """Seconds since the last change of its size, its time of change or its inode."""
    high_settle_s: NonNegative | None = None
    """The same for `inbox/high`; None: `settle_s`."""
    low_settle_s: NonNegative | None = None
    """The same for `inbox/low`; None: `settle_s`."""

    def of(self, lane: Priority) -> float:
        """Seconds that a file must rest in the directory of this lane."""
        own = {"high": self.high_settle_s, "low": self.low_settle_s}.get(lane)
        return self.settle_s if own is None else own


class LogSettings(Section, frozen=True, kw_only=True):
    """[logs] What is kept in logs/, beside the journal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written; "debug" has every step that `keepstep run` shows."""
    days: Annotated[int, Meta(ge=1)] = 30
    """Older files go."""
    max_mb: Annotated[int, Meta(ge=1)] = 100
    """Of all files together (10⁶ bytes); the oldest go first."""


class HookSettings(Section, frozen=True, kw_only=True):
    """[hooks] Commands that are run, and notifications that are sent, when something has happened. "": none.

    A command is split as a shell would (quotes hold words together) and run without one; what happened is JSON on its
    standard input and in its environment (docs/guides/get-notified.md).
    """

    on_job_finished: str = ""
    on_job_rejected: str = ""
    on_job_failed: str = ""
    on_attempt_failed: str = ""
    on_batch_set_aside: str = ""
    on_micro_batch_split: str = ""
    on_held: str = ""
    on_disk_low: str = ""
    on_memory_low: str = ""
    on_diverged: str = ""
    on_damaged: str = ""
    on_recovered: str = ""
    on_version_published: str = ""
    on_validation_alert: str = ""
    notify: tuple[str, ...] = ()
    """Where notifications go, as apprise writes it (`pip install 'keepstep[notify]'`): "discord://…", "mailto://…"."""
    notify_on: tuple[HookTrigger, ...] = get_args(HookTrigger)
    notify_template: str = "{{ message }}"
    """The text of a notification, in Jinja2; the fields are those of the summary."""
    timeout_s: Annotated[float, Meta(gt=0.0)] = 30.0
    """What runs longer is ended."""


class Sources(Section, frozen=True, kw_only=True):
    """What, beside its own file, a job's rows depend on: found out when it is first begun, and fixed with the rest."""

    validation_sha256: str = ""
    """Of the validation set, which is kept in the home under that name; "": there is none."""
    replay: tuple[str, ...] = ()
    """The earlier files (their jobs' ids) that rows are mixed in from."""


class JobSettings(Section, frozen=True, kw_only=True):
    """Everything that decides what a job does to the weights, and how often it is saved."""

    model: ModelSettings
    method: MethodSettings = LoraSettings()
    data: DataSettings = DataSettings()
    checks: CheckSettings = CheckSettings()
    training: TrainingSettings = TrainingSettings()
    guard: GuardSettings = GuardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    sources: Sources = Sources()


class Plan(Section, frozen=True, kw_only=True):
    """What preparation found: the size of a job, and the fingerprints its batches follow from."""

    rows: int
    """What is learned in an epoch: each piece of a row that was cut into several counts, those left out do not."""
    replayed_rows: int = 0
    """Of them, those of earlier files that are mixed in."""
    tokens: int
    trained_tokens: int
    truncated_rows: int
    dropped_rows: int = 0
    """Left out for their length."""
    split_rows: int = 0
    """Cut into several pieces for their length."""
    skipped_rows: int = 0
    """Left out because they cannot be learned from."""
    held_out_rows: int = 0
    """Left out because they are in the validation set, or held out."""
    warnings: tuple[str, ...] = ()
    """What was found in the file and did not refuse it, by name; the report says more."""
    epochs: int
    steps_per_epoch: int
    steps_total: int
    padding_share: float = 0.0
    """Of the positions that the first epoch computes, how many hold no token."""
    tokenizer_sha256: str
    """Over the tokenizer's own serialised form and the chat template."""
    batches_sha256: str
    """Over everything the order and content of batches follow from: data, tokenizer, the rows' tokens and lengths,
    seed, epochs, geometry."""
