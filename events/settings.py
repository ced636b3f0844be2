"""Settings of a job.

These structs are the sections of `keepstep.toml`, and they are journaled with each attempt: a job that starts under
some settings is finished under them, whatever the file says by then. The types have the bounds, so that one place
decides what is allowed in the config file and in the journal.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
    """A directory (a relative path starts at the home) or a hub id."""
    revision: Annotated[str, Meta(pattern="^([0-9a-f]{40})?$")] = ""
    """The commit of a hub id, 40 hexadecimal digits; "": the commit in the hub's cache. A directory has none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of frozen weights in memory. Trained weights are always float32."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off."""


class AdapterSettings(Section, frozen=True, kw_only=True):
    """Settings of `lora` and `qlora`: small trained matrices next to frozen weights."""

    r: Positive = 16
    alpha: Annotated[float, Meta(gt=0.0)] = 32.0
    dropout: Share = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    """Scale by alpha / √r, not by alpha / r: https://arxiv.org/abs/2312.03732."""


class LoraSettings(AdapterSettings, frozen=True, kw_only=True, tag_field="kind", tag="lora"):
    """[method] kind = "lora": the frozen weights are as on disk."""

    use_dora: bool = False
    """Train the magnitude of each row separately: https://arxiv.org/abs/2402.09353."""


class QloraSettings(AdapterSettings, frozen=True, kw_only=True, tag_field="kind", tag="qlora"):
    """[method] kind = "qlora": the frozen weights are in 4 bits while training, https://arxiv.org/abs/2305.14314. On
    disk they stay as they are, and the adapter is merged into those."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    """Quantize the scales of the blocks too."""


class FullSettings(Section, frozen=True, kw_only=True, tag_field="kind", tag="full"):
    """[method] kind = "full": every weight is trained."""


MethodSettings = LoraSettings | QloraSettings | FullSettings


class DataSettings(Section, frozen=True, kw_only=True):
    """[data] How rows are read, and what happens to those that cannot be trained on."""

    format: Literal[
        "auto", "messages", "prompt_completion", "instruction", "sharegpt", "text", "tokens", "plain_text"
    ] = "auto"
    prompt: str | None = None
    """Field mapping: the name of the field with the prompt (`completion` is then required too)."""
    completion: str | None = None
    max_length: Annotated[int, Meta(ge=8)] = 1024
    """Tokens of one example."""
    long: Literal["refuse", "drop", "truncate", "split"] = "truncate"
    """For a longer one: refuse the file, drop the row, cut it at the end, or cut it into several. Counted and reported
    in every case."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """For a row that cannot be trained on: refuse the file, or leave the row out and write it next to the report."""
    bad_rows_max: Portion = 0.1
    """With `skip`: refuse a file with a larger share of such rows."""
    packing: bool = False
    """Put short examples together into sequences of `max_length`; each attends only to itself."""
    validation: str | None = None
    """A file (a relative path starts at the home) whose rows are never trained on, in whatever file they come."""
    holdout: Share = 0.0
    """Share of rows that are never trained on. They are chosen by their content, so that a row that is held out once is
    always held out, in whatever file it comes."""
    replay: Share | Literal["auto"] = 0.0
    """Rows of earlier files to mix into each new one, as a share of its rows, so that the model forgets less. "auto":
    more while the evaluations show that earlier files are forgotten, fewer while they are not."""
    replay_min: Share = 0.05
    """The smallest share of "auto"."""
    replay_max: Share = 0.5
    """The largest one."""


Severity = Literal["refuse", "warn", "off"]


class CheckSettings(Section, frozen=True, kw_only=True):
    """[checks] Checks of a whole file, before any GPU time: "refuse", "warn" or "off"."""

    too_long: Severity = "refuse"
    """Rows over max_length: refuse above `too_long_max` of all rows, warn above `too_long_warn`."""
    too_long_max: Portion = 0.95
    too_long_warn: Portion = 0.05
    duplicates: Severity = "warn"
    """Rows that are identical to an earlier one: above this share of all rows."""
    duplicates_max: Portion = 0.0
    near_duplicates: Severity = "warn"
    """Rows that are nearly the same as an earlier one: above this share."""
    near_duplicates_max: Portion = 0.0
    near_duplicates_similarity: Portion = 0.85
    """Jaccard index of their sets of five-letter pieces, estimated by MinHash."""
    diversity: Severity = "refuse"
    """Different rows as a share of all: below `diversity_min`."""
    diversity_min: Portion = 0.5
    contradictions: Severity = "warn"
    """The same prompt with another answer: above this share of all rows."""
    contradictions_max: Portion = 0.0
    trained_before: Severity = "warn"
    """Rows of files that were accepted before: above this share."""
    trained_before_max: Portion = 0.0
    validation: Severity = "warn"
    """Rows of the validation set, which are always left out: above this share."""
    validation_max: Portion = 0.0
    rows: dict[str, Severity] = {}
    """Severities for problems of single rows, by name (docs/reference/data-formats.md), in place of the defaults:
    "refuse" makes such a row a bad one."""


class TrainingSettings(Section, frozen=True, kw_only=True):
    """[training] The optimizer and its schedule. One step trains on batch_size × gradient_accumulation examples."""

    batch_size: Positive = 4
    gradient_accumulation: Positive = 4
    epochs: Positive = 1
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 2e-4
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    min_learning_rate_ratio: Share = 0.0
    """The learning rate that a linear or cosine schedule falls to, as a share of `learning_rate`."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    warmup_ratio: Share = 0.0
    """The same as a share of the steps of a job, rounded up, in place of `warmup_steps`."""
    weight_decay: Share = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's decay rates of the first and the second moment: https://arxiv.org/abs/1711.05101."""
    eps: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-8
    """AdamW's term that is added to the denominator."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are clipped to this norm; 0 turns clipping off."""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the computation (bf16: autocast); the trained weights stay float32. On a processor that is slow at
    bfloat16, "bf16" computes in float32, and the worker says so."""
    optimizer: Literal["carry", "reset"] = "carry"
    """Carry AdamW's moments from one file to the next, or reset them for each."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """CPU threads; 0: one for each core. Another number gives other rounding."""
    kernels: Literal["auto", "plain"] = "auto"
    """Faster operations where they fit the model, or those of torch and peft. A job keeps the ones it began with."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Keep less for the backward pass and compute layers again in it: less memory, more time, the same bits. "auto": if
    the estimate of a step's memory exceeds the device's."""


class GuardSettings(Section, frozen=True, kw_only=True):
    """[guard] When a batch is suspect: its step is stopped before it changes anything. A batch whose loss or gradient
    is not finite always is."""

    spike: NonNegative = 0.0
    """A loss is a spike if it is above the median of the last losses by more than this many times their median absolute
    deviation. 0: off, the default: losses of small batches have long tails, and a hard batch is no fault."""
    spike_window: Annotated[int, Meta(ge=16)] = 64
    """The largest number of earlier losses of the job to compare with; before there are 16, nothing is a spike."""


class EvaluationSettings(Section, frozen=True, kw_only=True):
    """[evaluation] The loss on rows that are never trained on: those of [data] validation, and those of the job's own
    file that are held out. If there are none, nothing is evaluated.

    The end of a job and each version are evaluated on the held-out rows of every trained file, and on the questions in
    evaluation/*.jsonl."""

    every_steps: Annotated[int, Meta(ge=0)] = 200
    """Evaluate every N steps of a job, and at its beginning and end; 0: only then."""
    rows: Annotated[int, Meta(ge=0)] = 128
    """The most rows to evaluate, chosen by their content, so that they are the same each time; 0: evaluate nothing."""
    gap_warn: NonNegative = 0.3
    """Warn if the validation loss has risen and is above the training loss by more than this, nats."""
    gap_alert: NonNegative = 0.5
    """Alert if it is above by more than this, nats."""
    files: Annotated[int, Meta(ge=0, le=1024)] = 64
    """The most trained files that a version is evaluated on: the first one, the newest ones, and some of those
    between."""
    rows_per_file: Annotated[int, Meta(ge=1, le=1024)] = 16
    """The most held-out rows of each of them, chosen by their content."""
    job_rows: Annotated[int, Meta(ge=0)] = 64
    """The most rows of all files together at the end of a job; 0: none."""
    job_questions: Annotated[int, Meta(ge=0)] = 16
    """The most questions at the end of a job; 0: none."""
    max_new_tokens: Annotated[int, Meta(ge=1, le=8192)] = 128
    """The most tokens of an answer to a question."""


class CheckpointSettings(Section, frozen=True, kw_only=True):
    """[checkpoints] When checkpoints are saved, and how many are kept."""

    every_steps: Annotated[int, Meta(ge=0)] = 50
    """Save a checkpoint every N steps; 0: not by steps."""
    every_seconds: NonNegative = 600.0
    """Save a checkpoint when the last one is older than this; 0: not by time."""
    keep: Annotated[int, Meta(ge=1)] = 3
    """Keep the newest N."""
    keep_every_steps: Annotated[int, Meta(ge=0)] = 0
    """Also keep the first one at or after every M steps, while its branch is the head's; 0: none."""


class ConsolidationSettings(Section, frozen=True, kw_only=True):
    """[consolidation] When a consolidation starts by itself, and what it needs."""

    schedule: Annotated[str, Meta(pattern="^(([01][0-9]|2[0-3]):[0-5][0-9])?$")] = ""
    """Every day at this time ("03:00"), as soon as nothing trains; "": only on request."""
    timezone: str = "UTC"
    """Time zone of the schedule: "UTC", "Europe/Berlin", …"""
    missed: Literal["run", "skip"] = "run"
    """For a scheduled time at which no daemon ran: run it later, or skip it."""
    space_factor: Annotated[float, Meta(ge=1.0)] = 3.0
    """Disk space that must be free before it starts, as a multiple of the model's size."""


Gate = Literal["off", "warn", "hold"]
"""What the evaluation of a version decides."""


class VersionSettings(Section, frozen=True, kw_only=True):
    """[versions] What follows if a new version is worse than its parent."""

    gate: Gate = "warn"
    """"warn": the head moves to each new version; if it is worse, that is journaled and runs a hook. "hold": the head
    moves to a version after its evaluation; if it is worse, a person decides. "off": versions are not judged."""
    max_forgetting: NonNegative = 0.1
    """A version is worse if the loss on the held-out rows of a file rose, and the 95 % interval of the rise is above
    this, nats per token."""
    max_drop: Portion = 0.05
    """A version is worse if the share of right answers fell by more than this."""


class RetentionSettings(Section, frozen=True, kw_only=True):
    """[retention] Which versions and backups stay on disk. The base of the head always does."""

    versions: Annotated[int, Meta(ge=0)] = 0
    """Keep the newest N; 0: all."""
    backups: Annotated[int, Meta(ge=1)] = 5
    """Keep the newest N, however old."""
    days: NonNegative = 30.0
    """Delete other backups when they are older; 0: at once."""


class DiskSettings(Section, frozen=True, kw_only=True):
    """[disk] Free space to leave on the disk. If the disk is really full, keepstep waits in any case."""

    soft_gb: NonNegative | Literal["auto"] = 0.0
    """With less free (10⁹ bytes), retention deletes older checkpoints and backups at once; 0: off; "auto": what the
    next checkpoint, version and backup need together, and at least 5 % of the disk."""
    hard_gb: NonNegative | Literal["auto"] = 0.0
    """With less free (10⁹ bytes), nothing starts until space is free again; 0: off; "auto": one checkpoint."""


class MemorySettings(Section, frozen=True, kw_only=True):
    """[memory] Share of the memory that other processes may use, of what the worker leaves to them."""

    hold_above: Portion = 0.85
    """With more in use, nothing starts, and the running attempt ends after its next commit; 0: off."""
    resume_below: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.75
    """With less in use again, work resumes by itself."""
    grace_s: NonNegative = 30.0
    """Grace period before the running attempt ends, seconds."""


class InboxSettings(Section, frozen=True, kw_only=True):
    """[inbox] When a file in the inbox is complete."""

    settle_s: NonNegative = 3.0
    """Seconds since the last change of its size, modification time or inode."""
    high_settle_s: NonNegative | None = None
    """The same for `inbox/high`; None: `settle_s`."""
    low_settle_s: NonNegative | None = None
    """The same for `inbox/low`; None: `settle_s`."""

    def of(self, lane: Priority) -> float:
        """Seconds that a file in the directory of this lane must not change."""
        own = {"high": self.high_settle_s, "low": self.low_settle_s}.get(lane)
        return self.settle_s if own is None else own


class LogSettings(Section, frozen=True, kw_only=True):
    """[logs] What is written to logs/, and for how long."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written; "debug" has every step that `keepstep run` shows."""
    days: Annotated[int, Meta(ge=1)] = 30
    """Delete older files."""
    max_mb: Annotated[int, Meta(ge=1)] = 100
    """Size of all files together (10⁶ bytes); the oldest are deleted first."""


Reporter = Literal["tensorboard", "trackio", "wandb", "mlflow"]
"""A tool that gets the metrics."""


class ReportSettings(Section, frozen=True, kw_only=True):
    """[report] Tools that get loss, learning rate, gradient norm, speed and validation loss while keepstep trains."""

    to: tuple[Reporter, ...] = ()
    """Each needs its package: `pip install 'keepstep[tensorboard]'`."""
    project: Annotated[str, Meta(min_length=1)] = "keepstep"
    """The project (Trackio, W&B) or experiment (MLflow) that the run of this home belongs to."""


class Sources(Section, frozen=True, kw_only=True):
    """What a job's rows depend on besides its own file: found when it first starts, and fixed with the other
    settings."""

    validation_sha256: str = ""
    """SHA-256 of the validation set, and its name in the home; "": there is none."""
    replay: tuple[str, ...] = ()
    """The earlier files (ids of their jobs) whose rows are mixed in."""
    replay_share: Share = 0.0
    """The share that `replay = "auto"` stands for; 0 without it."""
    replay_forgetting: float | None = None
    """The forgetting that the share followed from, nats per token; None: it was not measured since the last job."""


class JobSettings(Section, frozen=True, kw_only=True):
    """Everything that decides how a job changes the weights, and how often it is saved."""

    model: ModelSettings
    method: MethodSettings = LoraSettings()
    data: DataSettings = DataSettings()
    checks: CheckSettings = CheckSettings()
    training: TrainingSettings = TrainingSettings()
    guard: GuardSettings = GuardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    sources: Sources = Sources()

    @property
    def replay_share(self) -> float:
        """Rows of earlier files to mix in, as a share of the rows of the new file."""
        return self.sources.replay_share if self.data.replay == "auto" else self.data.replay


class Plan(Section, frozen=True, kw_only=True):
    """The result of preparation: the size of a job, and the fingerprints that its batches follow from."""

    rows: int
    """Examples of an epoch: each piece of a row that was cut into several counts; dropped rows do not."""
    replayed_rows: int = 0
    """Those of them that come from earlier files."""
    tokens: int
    trained_tokens: int
    truncated_rows: int
    dropped_rows: int = 0
    """Dropped for their length."""
    split_rows: int = 0
    """Cut into several pieces for their length."""
    skipped_rows: int = 0
    """Left out because they cannot be trained on."""
    held_out_rows: int = 0
    """Left out because they are in the validation set, or held out."""
    warnings: tuple[str, ...] = ()
    """Problems of the file that did not refuse it, by name; the report says more."""
    epochs: int
    steps_per_epoch: int
    steps_total: int
    padding_share: float = 0.0
    """Share of the positions computed in the first epoch that hold no token."""
    tokenizer_sha256: str
    """SHA-256 of the serialized tokenizer and the chat template."""
    batches_sha256: str
    """SHA-256 of everything that decides the order and content of batches: data, tokenizer, tokens and lengths of the
    rows, seed, epochs, geometry."""
