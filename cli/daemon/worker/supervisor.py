"""The worker supervisor: starts the daemon's one worker when there is work, keeps it warm, and ends it."""

from __future__ import annotations

from cli.daemon.ports import Ports, Worker
from cli.daemon.worker.latency_stats import LatencyStats
from cli.home.identity import Identity
from core import deadlines
from core.deadlines import Late, Limits
from events import messages

LONGEST_TURN_S = 5.0
"""At most this much of a turn counts as silence of the worker. A longer turn means that the daemon was stopped or busy;
what the worker sent meanwhile is still in the socket."""


class WorkerSupervisor:
    """Sends each message to the worker once, although effects are requested again and again."""

    def __init__(self, ports: Ports, stats: LatencyStats) -> None:
        self._ports, self._stats = ports, stats
        self.worker: Worker | None = None
        self._watched = deadlines.Watched()
        self._checked_at = 0.0

    def load_latencies(self, identity: Identity, journal: str) -> None:
        """Load the latencies that an earlier daemon of this home measured."""
        self._watched = self._stats.load(identity, journal)

    def send_once(self, order: messages.AnyOrder) -> None:
        """Send a message, unless it was sent already. Starts a worker if none runs."""
        if self.worker is None:
            self.worker = self._ports.start_worker()
            self._watched = deadlines.restarted(self._watched)
        if not self.was_sent(type(order), order.attempt):
            self.worker.send(order)
            self._watched = deadlines.ordered(self._watched, order)

    def was_sent(self, order: type[messages.Order], attempt: int) -> bool:
        """True if the worker got this message, or was asked to yield: a message after that would restart an attempt."""
        sent = self.worker.sent if self.worker is not None else set()
        return (order, attempt) in sent or (messages.Yield, attempt) in sent

    def send(self, order: messages.AnyOrder) -> None:
        """Send a message to the worker, if one runs."""
        if self.worker is not None:
            self.worker.send(order)

    def observe(self, fact: messages.AnyFact) -> None:
        """Note a message of the worker as a sign of progress."""
        self._watched = deadlines.received(self._watched, fact)
        self._stats.save(self._watched)

    @property
    def phase(self) -> messages.WorkerPhase:
        """The phase of the worker's last sign of life.

        A thread of the worker may write a checkpoint at the same time as an evaluation, because both follow the same
        step. A worker that dies then counts as one that died in the evaluation: else a crash that every evaluation
        causes fails the job. A worker that hangs names its phase: `Late.phase`.
        """
        return self._watched.phase

    def missed_deadline(self, now: float, limits: Limits, failures: int, attempt: int | None) -> Late | None:
        """The deadline that the worker missed in this attempt; None: it missed none.

        `now`: monotonic seconds. To be called in every turn. A worker that does not know the attempt yet had nothing to
        do, so its silence does not count.
        """
        turn_s, self._checked_at = min(now - self._checked_at, LONGEST_TURN_S), now
        if self.worker is None:
            return None
        self._watched = deadlines.passed(self._watched, turn_s)
        if self.worker.connected:
            self._watched = deadlines.is_up(self._watched)
        return deadlines.late(self._watched, limits, failures) if self._watched.attempt == attempt else None

    def end(self) -> None:
        """Kill the worker, if one runs; it writes nothing after this."""
        if self.worker is not None:
            process, self.worker = self.worker, None
            process.end()
            self._stats.save(self._watched, at_once=True)

    def end_hung(self) -> str:
        """Have the worker log its stack traces, then end it. Returns what was done, for the user."""
        logged = self.worker is not None and self.worker.show_stacks()
        self.end()
        if logged:
            return "the worker was ended; `keepstep logs` has the stack of each of its threads"
        return "the worker was ended; it logged no stacks (it was stopped, stuck in the kernel, or still starting)"
