"""keepstep.toml as `init` writes it: every setting with a word of explanation."""

from __future__ import annotations

import re

import msgspec

from cli.config.schema import OTHERS, Config

_COMMENTS: dict[str, str] = {
    "model.path": "a directory (relative paths start here) or a hub id; what training starts from",
    "model.revision": "the commit of that hub id: whatever its owner changes later, training starts from this one",
    "model.dtype": 'how frozen weights are held: "float32" or "bfloat16". What is trained is float32 in every case',
    "model.trust_remote_code": "whether code that comes with a model may run; leave it off",
    "method.kind": '"lora": small trained matrices beside frozen weights; "qlora": beside 4 bits; "full": all learns',
    "method.r": "rank of the matrices",
    "method.alpha": "their product is scaled by alpha / r",
    "method.dropout": "0.0 to below 1.0",
    "method.target_modules": '"all-linear", or a list such as ["q_proj", "v_proj"]',
    "data.format": '"auto", "messages", "prompt_completion", "instruction", "sharegpt", "text", "tokens", "plain_text"',
    "data.max_length": "tokens of one example",
    "data.long": 'what becomes of a longer one: "refuse" (the file), "drop" (the row), "truncate", "split"',
    "data.bad_rows": '"refuse": one bad row refuses its file; "skip": it is left out, and written beside the report',
    "data.bad_rows_max": "with skip: a file with a larger share of bad rows is refused all the same",
    "data.replay": "rows of earlier files that are mixed into each new one, as a share of its rows",
    "data.holdout": "rows that are never trained on, as a share; the same ones in whatever file they come",
    "checks.too_long": 'each check: "refuse", "warn" or "off". Rows over max_length: refused above too_long_max',
    "checks.too_long_max": "of all rows",
    "checks.too_long_warn": "of all rows: warned of above this",
    "checks.duplicates": "rows that were there before, word for word",
    "checks.duplicates_max": "as a share of all rows; above it the check speaks. So for all below",
    "checks.near_duplicates": "rows that are nearly the same as an earlier one",
    "checks.near_duplicates_max": "as a share of all rows",
    "checks.near_duplicates_similarity": "of their five-letter pieces: 1.0 is the same",
    "checks.diversity": "different rows as a share of all, below diversity_min",
    "checks.diversity_min": "of all rows",
    "checks.contradictions": "the same prompt with another answer",
    "checks.contradictions_max": "as a share of all rows",
    "checks.trained_before": "rows of files that were accepted before",
    "checks.trained_before_max": "as a share of all rows",
    "checks.validation": "rows of the validation set, which are left out in any case",
    "checks.validation_max": "as a share of all rows",
    "data.packing": "put short examples into one sequence, each seeing only itself",
    "training.batch_size": "examples at once; one step learns batch_size × gradient_accumulation of them",
    "training.epochs": "how often each file is read",
    "training.schedule": '"constant", "linear" or "cosine", over each file',
    "training.warmup_steps": "steps in which the learning rate rises from 0",
    "training.max_grad_norm": "gradients are clipped to this norm; 0 turns clipping off",
    "training.precision": '"fp32" or "bf16" arithmetic (bf16 only where it is fast); trained weights stay float32',
    "training.optimizer": '"carry": AdamW\'s moments go on from file to file; "reset": each file begins anew',
    "training.threads": "CPU threads; 0: one for each core. Another count rounds differently",
    "guard.spike": "a loss so many deviations above the median of the last ones stops its step; 0: off. 20 is cautious",
    "guard.spike_window": "how many losses of the same file, at most, it is held against",
    "evaluation.every_steps": "where rows are held out: each N steps, besides beginning and end; 0: only then",
    "evaluation.rows": "at most so many of them, the same ones each time; 0: nothing is evaluated",
    "evaluation.gap_warn": "a validation loss that rises, so far above the training loss, is said (nats)",
    "evaluation.gap_alert": "and said louder above this",
    "checkpoints.every_steps": "a checkpoint each N steps; 0: not by steps",
    "checkpoints.every_seconds": "a checkpoint when the last one is older; 0: not by time",
    "checkpoints.keep": "the newest N stay on disk",
    "checkpoints.keep_every_steps": "and the first one at or behind each M steps; 0: none",
    "method.use_rslora": "scale by alpha / √r instead",
    "method.use_dora": "train the length of each row by itself, too",
    "method.quant_type": '"nf4" or "fp4": what the 4 bits mean',
    "method.double_quant": "round the scales of the blocks of 4-bit weights, too",
    "consolidation.schedule": '"03:00": what was learned becomes a version then, every day; "": only when asked',
    "consolidation.timezone": 'of the schedule: "UTC", "Europe/Berlin", …',
    "consolidation.missed": '"run": a night on which no daemon ran is made up for; "skip": it is not',
    "consolidation.space_factor": "how many times the size of the model must be free on the disk",
    "retention.versions": "the newest N stay; 0: all",
    "retention.backups": "the newest N stay, however old",
    "retention.days": "other backups go when they are older",
    "disk.soft_gb": "with less free, older checkpoints and backups go at once; 0: off",
    "disk.hard_gb": "with less free, nothing is begun that might not fit, until there is room again; 0: off",
    "memory.hold_above": "with more than this share of what the worker leaves in use, nothing is begun; 0: off",
    "memory.resume_below": "with less in use again, work goes on by itself",
    "memory.grace_s": "so long, what runs goes on; then it ends behind its next commit",
    "inbox.settle_s": "a file is complete when it has not changed for so long",
    "logs.level": '"debug", "info", "warning" or "error": the least that is written to logs/',
    "logs.days": "older files go",
    "logs.max_mb": "of all files together; the oldest go first",
    "hooks.on_job_finished": 'a command, run without a shell; what happened is JSON on its standard input. "": none',
    "hooks.on_job_rejected": "the file cannot be learned from",
    "hooks.on_job_failed": "given up; `keepstep retry` brings it back",
    "hooks.on_attempt_failed": "and is tried again, or waits",
    "hooks.on_held": "a person is needed",
    "hooks.on_disk_low": "below the limits of [disk], or full",
    "hooks.on_diverged": "a step run again did not give the same bits",
    "hooks.on_damaged": "a checkpoint was set aside",
    "hooks.on_recovered": "work goes on after any of these",
    "hooks.on_batch_skipped": "the rows of a batch are not learned: its loss or a gradient was no number, or a spike",
    "hooks.on_micro_batch_split": "a step did not fit into memory and is run again in smaller parts",
    "hooks.on_memory_low": "others use the memory: nothing is begun until they use less",
    "hooks.on_validation_alert": "the loss on rows that are not learned is far above that of training, or NaN",
    "hooks.on_version_published": "a consolidation is done",
    "hooks.notify": '"discord://…", "mailto://…", …: needs `pip install \'keepstep[notify]\'`',
    "hooks.notify_on": "for which of these",
    "hooks.notify_template": "in Jinja2: {{ title }}, {{ message }}, {{ job_name }}, … as in the JSON",
    "hooks.timeout_s": "what runs longer is ended; training never waits for it",
    "worker.silence_s": "a worker that proves no progress for so long is ended and tried again",
    "worker.silence_times": "or for so many times what is usual for what it is at, where that is known",
    "worker.silence_min_s": "but not sooner than this",
    "worker.step_silence_min_s": "the same for a step",
}


def config_text(config: Config) -> str:
    """A commented keepstep.toml that reads back as `config`."""
    import tomlkit  # here, not above: only `init` writes, and every other command would pay for the import

    document = tomlkit.document()
    document.add(tomlkit.comment("keepstep: what is learned, from which model, and how."))
    document.add(tomlkit.comment("A file that was begun is finished under the settings that it was begun with;"))
    document.add(tomlkit.comment("a change here holds from the next file on."))
    others = {name: msgspec.to_builtins(getattr(config, name)) for name in OTHERS}
    sections = {**msgspec.to_builtins(config.job), **others}
    del sections["sources"]  # found out when a job is begun
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
            table.add(tomlkit.comment('prompt = "question"      # field names, for rows of any other shape'))
            table.add(tomlkit.comment('completion = "answer"'))
        if name == "data" and config.job.data.validation is None:
            table.add(tomlkit.comment('validation = "held-out.jsonl"   # rows that are never trained on'))
        if name == "checks" and not config.job.checks.rows:
            table.add(tomlkit.comment('rows = { same_role_twice = "off" }   # single rows, by name'))
        if name == "inbox" and config.inbox.high_settle_s is None:
            table.add(tomlkit.comment("high_settle_s = 1.0   # for inbox/high alone; low_settle_s: for inbox/low"))
        document.add(tomlkit.nl())
        document.add(name, table)
    return re.sub(r"\n{3,}", "\n\n", tomlkit.dumps(document))
