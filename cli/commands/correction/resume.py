"""`keepstep self-correction resume`: journal that self-correction starts again."""

from __future__ import annotations

from contextlib import closing

from cli.config.schema import load_config
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.output.terminal import say
from core.commands import ResumeSelfCorrection
from core.topics.evaluation.self_correction import why_not_now


def resume_correction(home: Home) -> None:
    """Resume it. Raises core.errors.Refused if it has not stopped."""
    config = load_config(home.config, storage=home.storage)
    with closing(EventStore.open(home)) as store:
        store.execute(ResumeSelfCorrection())
        why = why_not_now(store.state)
    off = "; it is off: `keepstep config set self_correction.kind=rejection`"
    then = off if config.self_correction.kind == "off" else f"; {why}" if why else ""
    say(f"self-correction is resumed; rounds before this are no longer compared with{then}")
