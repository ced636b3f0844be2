"""keepstep.toml as `keepstep init` writes it: each setting with its default and a comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from cli.config.schema import DAEMON_SECTIONS, Config
from cli.text import printable

_COMMENTS: dict[str, str] = {
    "model.path": "directory (relative to this file's) or hub id of the model that training starts from",
    "model.revision": "commit of the hub id, 40 hexadecimal digits: later uploads change nothing here",
    "model.dtype": '"float32" or "bfloat16": type of the frozen weights in memory. Trained weights are float32',
    "model.trust_remote_code": "true lets code that comes with the model run; leave it off",
    "method.kind": '"lora": adapters on frozen weights; "qlora": the same on 4-bit weights; "full": all weights train',
    "method.r": "rank of the adapter matrices",
    "method.alpha": "the adapters' product is scaled by alpha / r",
    "method.dropout": "dropout on the adapters' inputs, from 0.0 to below 1.0",
    "method.target_modules": '"all-linear", or a list such as ["q_proj", "v_proj"]',
    "method.use_rslora": "scale by alpha / √r instead",
    "method.use_dora": "also train the magnitude of each weight row",
    "method.quant_type": '"nf4" or "fp4": the 4-bit number format',
    "method.double_quant": "also quantize the scales of the 4-bit blocks",
    "data.format": '"auto", "messages", "prompt_completion", "instruction", "sharegpt", "text", "tokens", "plain_text"',
    "data.max_length": "longest example, tokens",
    "data.long": 'longer examples: "refuse" the file, "drop" the row, "truncate" it or "split" it',
    "data.bad_rows": '"refuse": one bad row rejects its file; "skip": bad rows are left out and listed in a file',
    "data.bad_rows_max": "with skip: a file with a larger share of bad rows is rejected",
    "data.packing": "pack short examples into one sequence; each attends only to itself",
    "data.holdout": "share of rows that are never trained on; the same rows in every file",
    "data.replay": 'rows of earlier files mixed into each new file, as a share of its rows; "auto": by forgetting',
    "data.replay_min": 'the smallest share that "auto" chooses',
    "data.replay_max": "the largest one",
    "checks.too_long": 'each check: "refuse", "warn" or "off". Rows over max_length: refused above too_long_max',
    "checks.too_long_max": "share of all rows",
    "checks.too_long_warn": "share of all rows above which the check warns",
    "checks.duplicates": "rows that are identical to an earlier row",
    "checks.duplicates_max": "share of all rows above which the check applies; the same for each _max below",
    "checks.near_duplicates": "rows that are nearly identical to an earlier row",
    "checks.near_duplicates_max": "share of all rows",
    "checks.near_duplicates_similarity": "Jaccard similarity of five-character pieces; 1.0: identical",
    "checks.diversity": "distinct rows as a share of all rows, below diversity_min",
    "checks.diversity_min": "share of all rows",
    "checks.contradictions": "the same prompt with a different answer",
    "checks.contradictions_max": "share of all rows",
    "checks.trained_before": "rows of files that were accepted before",
    "checks.trained_before_max": "share of all rows",
    "checks.validation": "rows of the validation set; they are never trained on",
    "checks.validation_max": "share of all rows",
    "training.batch_size": "examples in a micro-batch; a step trains on batch_size × gradient_accumulation examples",
    "training.gradient_accumulation": "micro-batches in a step",
    "training.epochs": "passes over each file",
    "training.learning_rate": "peak learning rate",
    "training.schedule": '"constant", "linear" or "cosine": the learning rate over each file',
    "training.min_learning_rate_ratio": "linear and cosine: the learning rate falls to this share of learning_rate",
    "training.warmup_steps": "steps in which the learning rate rises from 0",
    "training.warmup_ratio": "the same as a share of all steps of a file, from 0.0 to below 1.0; set one of the two",
    "training.weight_decay": "AdamW's decoupled weight decay",
    "training.betas": "AdamW: decay rates of the two moments",
    "training.eps": "AdamW: added to the denominator",
    "training.max_grad_norm": "gradients are clipped to this norm; 0: no clipping",
    "training.seed": "seed of row order and dropout",
    "training.precision": '"fp32" or "bf16" arithmetic (bf16 only where it is fast); trained weights stay float32',
    "training.optimizer": '"carry": AdamW keeps its moments from file to file; "reset": each file starts without',
    "training.threads": "CPU threads; 0: one for each core. Another number gives other rounding",
    "training.kernels": '"auto": faster operations where they fit the model; "plain": those of torch and peft',
    "training.gradient_checkpointing": '"on": less memory, more time, the same bits; "auto": if memory is short',
    "guard.spike": "skip a step whose loss is this many deviations above the recent median; 0: off, 20: cautious",
    "guard.spike_window": "compare with at most this many losses of the same file",
    "evaluation.every_steps": "with held-out rows: evaluate each N steps, at the start and the end; 0: only those",
    "evaluation.rows": "evaluate at most this many rows, always the same; 0: no evaluation",
    "evaluation.gap_warn": "warn if a rising validation loss is this far above the training loss, nats",
    "evaluation.gap_alert": "alert above this gap, nats",
    "evaluation.files": "evaluate each version on held-out rows of at most this many trained files",
    "evaluation.rows_per_file": "and on at most this many rows of each",
    "evaluation.job_rows": "at the end of a job: on at most this many rows of all files; 0: none",
    "evaluation.job_questions": "and on at most this many questions of evaluation/*.jsonl; 0: none",
    "evaluation.max_new_tokens": "longest answer to a question, tokens",
    "checkpoints.every_steps": "a checkpoint each N steps; 0: not by steps",
    "checkpoints.every_seconds": "a checkpoint when the last one is older than this, seconds; 0: not by time",
    "checkpoints.keep": "keep the newest N",
    "checkpoints.keep_every_steps": "also keep the first one at or after each N steps; 0: none",
    "consolidation.schedule": 'time of day for a daily version, if something was trained; "": only on request',
    "consolidation.timezone": 'time zone of the schedule: "UTC", "Europe/Berlin", …',
    "consolidation.missed": '"run": catch up on a night without a daemon; "skip": do not',
    "consolidation.space_factor": "free disk space that a consolidation needs, as a multiple of the model's size",
    "versions.gate": 'a version that is worse: "warn" says so; "hold" keeps the head off it; "off": not judged',
    "versions.max_forgetting": "worse: a file's held-out loss rose by more (its 95 % interval), nats per token",
    "versions.max_drop": "worse: the share of right answers to questions fell by more",
    "retention.versions": "keep the newest N; 0: all",
    "retention.backups": "keep the newest N, however old",
    "retention.days": "delete other backups when they are older than this, days",
    "disk.soft_gb": 'with less free space (GB), delete old checkpoints and backups; 0: off; "auto": 5 % or more',
    "disk.hard_gb": 'with less free space (GB), start nothing that may not fit; 0: off; "auto": a checkpoint',
    "memory.hold_above": "start nothing while others use more of the memory that the worker leaves, as a share; 0: off",
    "memory.resume_below": "continue when they use less than this share",
    "memory.grace_s": "the running attempt ends at its next commit after this many seconds of it",
    "worker.silence_s": "end a worker without progress for this long, seconds, and try again",
    "worker.silence_times": "or for this many times the usual duration of the same work, where it is known",
    "worker.silence_min_s": "but not sooner than this, seconds",
    "worker.step_silence_min_s": "the same for a step, seconds",
    "inbox.settle_s": "a file is complete when it has not changed for this long, seconds",
    "samples.every_steps": "let the model answer prompts every N steps of a file and at its end; 0: only on request",
    "samples.prompts": "this many held-out rows, or a data file of at most 64 rows; 0: no samples",
    "samples.max_new_tokens": "longest answer, tokens",
    "samples.temperature": "0: always the most probable token",
    "samples.seed": "with a temperature: the same seed in each round",
    "samples.match": '"exact", "normalized", "numeric" (last number), "contains" or "regex": expected or not',
    "samples.pattern": 'the regular expression of match = "regex"',
    "samples.think_tag": 'count the answers with this tag; "": none',
    "samples.cost_max": "most time of samples, as a share of training time; more expensive ones are put off",
    "self_correction.kind": '"rejection": train right own answers; "reflect": train to judge own answers; "off"',
    "self_correction.every_steps": "answer prompts of trained files every N steps of a file, and at its end",
    "self_correction.prompts": "prompts of a round",
    "self_correction.answers": "answers to each prompt",
    "self_correction.max_new_tokens": "longest answer, tokens; one that does not end within them becomes no row",
    "self_correction.temperature": "answers are sampled, so that they differ",
    "self_correction.seed": "prompts and answers follow from this and the step",
    "self_correction.match": '"exact", "normalized", "numeric", "contains", "regex" or "command": right or wrong',
    "self_correction.pattern": 'the regular expression of match = "regex"',
    "self_correction.command": 'the program of match = "command": exit code 0 = right, 1 = wrong',
    "self_correction.timeout_s": "end the program after this for each answer, seconds",
    "self_correction.think_tag": 'compare what follows this train of thought; "": all of it',
    "self_correction.queue_every": "queue a file with low priority when there are so many rows; one for each version",
    "self_correction.gold_share": "share of its rows that are reference answers and rows of earlier files",
    "self_correction.cost_max": "most time of rounds, as a share of training time; more expensive ones are put off",
    "self_correction.pass_rate_drop": "stop if the share of right answers falls by more than this",
    "self_correction.distinct_drop": "stop if the answers become alike: distinct-2 falls by more than this",
    "logs.level": '"debug", "info", "warning" or "error": lowest level in logs/',
    "logs.days": "delete files that are older, days",
    "logs.max_mb": "of all files together, MB; the oldest are deleted first",
    "hooks.on_job_finished": 'a command, run without a shell, with the event as JSON on its standard input; "": none',
    "hooks.on_job_rejected": "a file cannot be trained on",
    "hooks.on_job_failed": "a job failed permanently; `keepstep retry` tries it again",
    "hooks.on_attempt_failed": "an attempt failed; it is tried again, or waits for you",
    "hooks.on_batch_skipped": "a batch is skipped: its loss or a gradient is not finite, or the loss is a spike",
    "hooks.on_micro_batch_split": "a step does not fit into memory and runs again in smaller parts",
    "hooks.on_held": "keepstep waits for you",
    "hooks.on_disk_low": "free space is below the limits of [disk], or the disk is full",
    "hooks.on_memory_low": "keepstep waits until others use less memory",
    "hooks.on_diverged": "a step that ran again gave other bits",
    "hooks.on_damaged": "a checkpoint is damaged and quarantined",
    "hooks.on_recovered": "work continues after one of these",
    "hooks.on_version_published": "a consolidation published a version",
    "hooks.on_validation_alert": "the validation loss is NaN or far above the training loss",
    "hooks.on_version_worse": "a new version is worse than its parent by the limits of [versions]",
    "hooks.on_version_held": "the head does not move to a new version, and you decide",
    "hooks.notify": '"discord://…", "mailto://…", …: needs `pip install \'keepstep[notify]\'`',
    "hooks.notify_on": "send a notification for these",
    "hooks.notify_template": "Jinja2: {{ title }}, {{ message }}, {{ job_name }}, … as in the JSON",
    "report.to": '"tensorboard", "trackio", "wandb", "mlflow": needs `pip install \'keepstep[NAME]\'`',
    "report.project": "project (trackio, wandb) or experiment (mlflow) of this home's run",
    "hooks.timeout_s": "end a hook that runs longer, seconds; training does not wait for it",
}
"""A comment for each setting: what it does, its unit, and its special values. A new file shows each default."""


def config_text(config: Config, reasons: Sequence[tuple[str, str]] = ()) -> str:
    """The text of a commented keepstep.toml that reads back as `config`. `reasons`: headings and comments for its
    top."""
    import tomlkit  # here, not above: only `init` writes, and the import is slow

    document = tomlkit.document()
    document.add(tomlkit.comment("The settings of this keepstep home."))
    document.add(
        tomlkit.comment("[model] to [checkpoints]: a change applies from the next job on, not to one that has started.")
    )
    document.add(tomlkit.comment("The other sections: a change applies at once."))
    if reasons:
        document.add(tomlkit.comment("`keepstep init` chose these values:"))
    for heading, text in reasons:
        document.add(tomlkit.comment(f"  {heading:<9} {printable(text)}"))
    others = {name: msgspec.to_builtins(getattr(config, name)) for name in DAEMON_SECTIONS}
    sections = {**msgspec.to_builtins(config.job), **others}
    del sections["sources"]  # filled in when a job starts
    for name, values in sections.items():
        table = tomlkit.table()
        for key, value in values.items():
            if value is None or value == {} or (key == "revision" and not value):  # a directory has none
                continue
            item = tomlkit.item(value)
            if comment := _COMMENTS.get(f"{name}.{key}"):
                item.comment(comment)
            table.add(key, item)
        if name == "data" and config.job.data.prompt is None:
            table.add(tomlkit.comment('prompt = "question"      # field names, for rows in another format'))
            table.add(tomlkit.comment('completion = "answer"'))
        if name == "data" and config.job.data.validation is None:
            table.add(tomlkit.comment('validation = "held-out.jsonl"   # rows that are never trained on'))
        if name == "checks" and not config.job.checks.rows:
            table.add(tomlkit.comment('rows = { same_role_twice = "off" }   # findings in single rows, by name'))
        if name == "inbox" and config.inbox.high_settle_s is None:
            table.add(tomlkit.comment("high_settle_s = 1.0   # for inbox/high; low_settle_s: for inbox/low"))
        document.add(tomlkit.nl())
        document.add(name, table)
    return re.sub(r"\n{3,}", "\n\n", tomlkit.dumps(document))
