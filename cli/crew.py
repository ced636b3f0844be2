"""The worker that a daemon has: at most one, started when there is something to do, kept warm, ended when in doubt."""

from __future__ import annotations

from cli.identity import Identity
from cli.surroundings import Surroundings, Worker
from cli.usual import Usual
from core import deadlines
from core.deadlines import Late, Limits
from events import worker

LONGEST_TURN_S = 5.0
"""Of a turn of the daemon's, as much counts as the worker's silence. What is beyond it is the daemon's own: it was
stopped, or busy, and what the worker said meanwhile is still in the socket."""


class Crew:
    """Orders go through here, each once: effects are asked for again and again."""

    def __init__(self, surroundings: Surroundings, usual: Usual) -> None:
        self._surroundings, self._usual = surroundings, usual
        self.worker: Worker | None = None
        self._watched = deadlines.Watched()
        self._looked_at = 0.0

    def recall(self, me: Identity, journal: str) -> None:
        """Begin with what an earlier daemon knew of the workers of this home."""
        self._watched = self._usual.recall(me, journal)

    def give(self, order: worker.AnyOrder) -> None:
        """Give the order once, to the worker that is up, or to a new one."""
        if self.worker is None:
            self.worker = self._surroundings.start_worker()
            self._watched = deadlines.anew(self._watched)
        if not self.has_had(type(order), order.attempt):
            self.worker.send(order)
            self._watched = deadlines.ordered(self._watched, order)

    def has_had(self, order: type[worker.Order], attempt: int) -> bool:
        """Whether the worker was given this order; or is to yield, and then it would begin again behind its own end."""
        sent = self.worker.sent if self.worker is not None else set()
        return (order, attempt) in sent or (worker.Yield, attempt) in sent

    def tell(self, order: worker.AnyOrder) -> None:
        """Tell the worker, if there is one."""
        if self.worker is not None:
            self.worker.send(order)

    def heard(self, fact: worker.AnyFact) -> None:
        """The worker said something."""
        self._watched = deadlines.heard(self._watched, fact)
        self._usual.keep(self._watched)

    @property
    def is_evaluating(self) -> bool:
        """True if the worker may have died in an evaluation."""
        return deadlines.is_evaluating(self._watched)

    def late(self, now: float, limits: Limits, failures: int, attempt: int | None) -> Late | None:
        """The deadline that the worker has let pass in this attempt, if it has. `now`: monotonic. To be asked in each
        turn. A worker that was not told of the attempt yet was silent for good reason, for however long."""
        turn_s, self._looked_at = min(now - self._looked_at, LONGEST_TURN_S), now
        if self.worker is None:
            return None
        self._watched = deadlines.passed(self._watched, turn_s)
        if self.worker.connected:
            self._watched = deadlines.is_up(self._watched)
        return deadlines.late(self._watched, limits, failures) if self._watched.attempt == attempt else None

    def end(self) -> None:
        """End it: nothing of it may write after this."""
        if self.worker is not None:
            process, self.worker = self.worker, None
            process.end()
            self._usual.keep(self._watched, at_once=True)

    def end_hung(self) -> str:
        """The same, but first it is to say where it stands; where that is to be found."""
        shown = self.worker is not None and self.worker.show_stacks()
        self.end()
        if shown:
            return "the worker was ended; where each of its threads stood is in `keepstep logs`"
        return (
            "the worker did not say where it stands (it is stopped, stuck in the kernel, or not up yet); it was ended"
        )
