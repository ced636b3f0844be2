"""[hooks]: what can run a command or send a notification, and the settings."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

from events.settings import Section

HookTrigger = Literal[
    "job_finished",
    "job_rejected",
    "job_failed",
    "attempt_failed",
    "batch_skipped",
    "micro_batch_split",
    "held",
    "disk_low",
    "memory_low",
    "diverged",
    "damaged",
    "recovered",
    "version_published",
    "validation_alert",
    "version_worse",
    "version_held",
]
"""What can run a hook."""


class HookSettings(Section, frozen=True, kw_only=True):
    """[hooks] Commands to run and notifications to send when something happens. "": none.

    A command is split as a shell would (quotes hold words together) and run without a shell. It gets a summary as JSON
    on its standard input, and in its environment (docs/guides/when-something-fails.md).
    """

    on_job_finished: str = ""
    on_job_rejected: str = ""
    on_job_failed: str = ""
    on_attempt_failed: str = ""
    on_batch_skipped: str = ""
    on_micro_batch_split: str = ""
    on_held: str = ""
    on_disk_low: str = ""
    on_memory_low: str = ""
    on_diverged: str = ""
    on_damaged: str = ""
    on_recovered: str = ""
    on_version_published: str = ""
    on_validation_alert: str = ""
    on_version_worse: str = ""
    on_version_held: str = ""
    notify: tuple[str, ...] = ()
    """Targets of notifications, as apprise URLs (`pip install 'keepstep[notify]'`): "discord://…", "mailto://…"."""
    notify_on: tuple[HookTrigger, ...] = get_args(HookTrigger)
    notify_template: str = "{{ message }}"
    """The text of a notification, in Jinja2; the fields are those of the summary."""
    timeout_s: Annotated[float, Meta(gt=0.0)] = 30.0
    """End a command that runs longer."""
