"""Each event of self-correction as text for a person."""

from __future__ import annotations

from core.topics.evaluation import self_correction
from events import kinds
from events.kinds import AnyEvent


def correction_text(event: AnyEvent) -> str | None:
    """The text about an event of self-correction; None: it is another event."""
    match event:
        case kinds.SelfCorrectionAnswered():
            return self_correction.described(event)
        case kinds.SelfCorrectionPutOff():
            return self_correction.put_off_text(event)
        case kinds.SelfCorrectionFailed():
            return f"no self-correction after step {event.step}: {event.message}; training continues"
        case kinds.SelfCorrectionAbandoned():
            return f"the worker failed in a round of self-correction ({event.failure}); the job continues without them"
        case kinds.SelfCorrectionFileStarted():
            return f"self-correction has enough rows: {event.name} is queued when nothing trains"
        case kinds.SelfCorrectionFileQueued():
            return (
                f"{event.name}: {event.rows} rows of own answers, {event.references} reference rows, {event.replayed} "
                "rows of earlier files"
            )
        case kinds.SelfCorrectionStopped():
            return (
                f"self-correction stopped: {event.message}\n→ look at its answers: `keepstep self-correction`; to "
                "start it again: `keepstep self-correction resume`"
            )
        case kinds.SelfCorrectionResumed():
            return "self-correction is resumed"
        case _:
            return None
