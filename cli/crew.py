"""The worker that a daemon has: at most one, started when there is something to do, kept warm, ended when in doubt."""

from __future__ import annotations

from cli.surroundings import Surroundings, Worker
from cli.worker_process import CONNECT_S
from events import worker


class Crew:
    """Orders go through here, each once: effects are asked for again and again."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self.worker: Worker | None = None

    def give(self, order: worker.AnyOrder) -> None:
        """Give the order once, to the worker that is up, or to a new one."""
        if self.worker is None:
            self.worker = self._surroundings.start_worker()
        if not self.has_had(type(order), order.attempt):
            self.worker.send(order)

    def has_had(self, order: type[worker.Order], attempt: int) -> bool:
        """Whether the worker was given this order; or is to yield, and then it would begin again behind its own end."""
        sent = self.worker.sent if self.worker is not None else set()
        return (order, attempt) in sent or (worker.Yield, attempt) in sent

    def tell(self, order: worker.AnyOrder) -> None:
        """Tell the worker, if there is one."""
        if self.worker is not None:
            self.worker.send(order)

    def silent_for(self, now: float, limit_s: float) -> float | None:
        """How long the worker has been silent, if that is too long: seconds. `now`: monotonic."""
        if self.worker is None:
            return None
        silence_s = now - self.worker.last_heard
        return silence_s if silence_s > (limit_s if self.worker.connected else CONNECT_S) else None

    def end(self) -> None:
        """End it: nothing of it may write after this."""
        if self.worker is not None:
            process, self.worker = self.worker, None
            process.end()
