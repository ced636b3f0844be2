"""Old events: the names that kinds had before, and the shapes that they had in earlier versions.

Stored bytes never change. The codec reads an old kind under its present name (`ALIASES`), and lifts an old version to
the next one step by step (`UPCASTERS`). It writes only present kinds and versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

ALIASES: Mapping[str, str] = {
    "batch_set_aside": "batch_skipped",
    "config_mended": "config_fixed",
    "consolidation_dropped": "consolidation_cancelled",
    "evaluation_given_up": "evaluation_abandoned",
    "micro_batch_halved": "microbatch_split",
    "partial_swept": "leftover_deleted",
    "watch_cost_measured": "overhead_measured",
}
"""Old kind → present kind. An old kind is never given to another event."""

SETTINGS_ALIASES: Mapping[tuple[str, str], str] = {
    ("checks", "learned_before"): "trained_before",
    ("checks", "learned_before_max"): "trained_before_max",
    ("hooks", "on_batch_set_aside"): "on_batch_skipped",
}
"""(section, old key) → present key, in keepstep.toml and in the settings of a job."""


def _renamed(fields: Fields, old: str, new: str) -> Fields:
    return {new if name == old else name: value for name, value in fields.items()}


def _unchanged(fields: Fields) -> Fields:
    """The new fields have defaults that say what the earlier version meant."""
    return fields


def _storage_exhausted_v1(fields: Fields) -> Fields:
    """Version 1 did not say how many bytes were wanted: any free space will do."""
    return {**fields, "wanted_bytes": 0}


def _checkpoint_pruned_v1(fields: Fields) -> Fields:
    """Version 1 did not say how many bytes were freed; `checkpoint_committed` has it."""
    return {**fields, "size_bytes": 0}


def _attempt_started_v4(fields: Fields) -> Fields:
    """Version 4 had no [evaluation]: nothing was evaluated."""
    return {**fields, "settings": {**fields["settings"], "evaluation": {"rows": 0}}}


def with_present_settings(settings: Fields) -> Fields:
    """The stored settings of a job, under the present names of their keys."""
    present = dict(settings)
    for (section, old), new in SETTINGS_ALIASES.items():
        if isinstance(present.get(section), dict):
            present[section] = _renamed(present[section], old, new)
    return present


def _attempt_started_v6(fields: Fields) -> Fields:
    """Version 6 had other names for some settings."""
    return {**fields, "settings": with_present_settings(fields["settings"])}


def _file_enqueued_v1(fields: Fields) -> Fields:
    """Version 1 had no second pass over the same bytes."""
    return {**fields, "again": False}


def _file_enqueued_v2(fields: Fields) -> Fields:
    return _renamed(fields, "again", "retrain")


def _consolidation_requested_v1(fields: Fields) -> Fields:
    return _renamed(fields, "night", "scheduled_for")


def _backup_created_v1(fields: Fields) -> Fields:
    return _renamed(fields, "version", "base")


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("attempt_started", 1): _unchanged,  # had no `use_rslora`, `use_dora`, `keep_every_steps`
    ("attempt_started", 2): _unchanged,  # had no `qlora`, and in [data] no `long`, `bad_rows`, `packing`
    ("attempt_started", 3): _unchanged,  # had no [guard]
    ("attempt_started", 4): _attempt_started_v4,
    ("attempt_started", 5): _unchanged,  # had no [model] revision
    ("attempt_started", 6): _attempt_started_v6,
    ("attempt_started", 7): _unchanged,  # in [training] no `min_learning_rate_ratio`, `warmup_ratio`, `betas`, `eps`
    ("attempt_started", 8): _unchanged,  # in [training] no `kernels`, `gradient_checkpointing`
    ("attempt_started", 9): _unchanged,  # in [evaluation] no `files`, `rows_per_file`, `job_rows`, `job_questions`
    ("backup_created", 1): _backup_created_v1,
    ("checkpoint_pruned", 1): _checkpoint_pruned_v1,
    ("consolidation_finished", 1): _unchanged,  # the head always moved to the version
    ("consolidation_requested", 1): _consolidation_requested_v1,
    ("consolidation_started", 1): _unchanged,  # no version was evaluated
    ("file_enqueued", 1): _file_enqueued_v1,
    ("file_enqueued", 2): _file_enqueued_v2,
    ("job_prepared", 1): _unchanged,  # dropped and split no rows, and did not say how much padding there is
    ("storage_exhausted", 1): _storage_exhausted_v1,
    ("training_started", 1): _unchanged,  # did not say what is trained of the model
}
"""(present kind, version) → a pure function from the fields of that version to those of the next. A kind that is not in
it is still at version 1."""
