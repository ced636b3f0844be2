"""The effect executor: carries out the work that the state still requires.

`METHODS` maps each type of effect to the method that carries it out. An effect may be requested in every turn until its
outcome is journaled, so carrying it out twice has the same result as once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cli.daemon.config_watch import ConfigWatch
from cli.daemon.event_handler import EventHandler
from cli.daemon.resource_monitor import ResourceMonitor
from cli.daemon.schedule import check_resources
from cli.daemon.worker.messages import has_questions, with_sample_plan, with_suites, with_trained_files
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.home.backups import restore_backup
from cli.home.event_store import EventStore
from cli.inbox.accept import finish_arrivals, finish_rejection
from cli.inbox.intake import Intake
from core import commands, effects
from core.effects import next_effects
from core.errors import Refused
from events import messages
from events.settings import Gate
from journal.failpoints import failpoint

CATCH_UP_EVERY_S = 0.2
"""How soon the daemon notices what another process appended to the journal."""

AT_ONCE_S = 0.0
"""The next effect can follow without a wait."""


@dataclass
class EffectExecutor:
    """Carries out effects. Each method returns how long the daemon may wait afterwards, in seconds."""

    store: EventStore
    handler: EventHandler
    supervisor: WorkerSupervisor
    monitor: ResourceMonitor
    watch: ConfigWatch
    intake: Intake
    end_daemon: Callable[[str], None]

    def run(self) -> float:
        """Carry out every effect that the state requires now; return how long the daemon may wait, in seconds."""
        required = next_effects(self.store.state, self.store.home.clock.now())
        return min([CATCH_UP_EVERY_S, *(METHODS[type(effect)](self, effect) for effect in required)])

    def begin_attempt(self, effect: effects.BeginAttempt) -> float:
        """Journal the attempt with the config as the file has it now, if disk and memory allow it."""
        self._check_resources()
        self._finish_arrival(effect.job)
        settings, events = self.watch.job_settings(self.store, effect.job)
        self.handler.handle(events)
        if settings is None:
            return CATCH_UP_EVERY_S
        with suppress(Refused):  # another process changed the state first, or there is no room
            self.handler.execute(commands.StartAttempt(job=effect.job, settings=settings))
        return AT_ONCE_S

    def send(self, effect: effects.SendToWorker) -> float:
        """Send a message to the worker. The state requires it in every turn; it is sent once."""
        match message := effect.message:
            case messages.Prepare():
                self._finish_arrival(message.job)
            case messages.Consolidate() if not self.supervisor.was_sent(messages.Consolidate, message.attempt):
                message = with_trained_files(message, self.store.home, self.watch.config)
            case messages.EvaluateVersion() if not self.supervisor.was_sent(messages.EvaluateVersion, message.attempt):
                message = with_suites(message, self.store.state, self.watch.config)
            case messages.Train() if not self.supervisor.was_sent(messages.Train, message.attempt):
                message = with_sample_plan(message, self.store.home, self.watch.config)
            case messages.Yield() if self.supervisor.worker is None:  # the attempt has no worker: nothing can be lost
                self.handler.execute(messages.Yielded(attempt=message.attempt))
                return CATCH_UP_EVERY_S
        self.supervisor.send_once(message)
        if isinstance(message, messages.Yield):
            failpoint("yield_asked")
        return CATCH_UP_EVERY_S

    def begin_consolidation(self, _effect: effects.BeginConsolidation) -> float:
        """Journal the consolidation, if disk, memory and config allow it."""
        self._check_resources()
        usable, events = self.watch.reload(self.store)
        self.handler.handle(events)
        if not usable:
            return CATCH_UP_EVERY_S
        with suppress(Refused):  # as in `begin_attempt`
            self.handler.execute(commands.StartConsolidation(gate=self._gate()))
        return AT_ONCE_S

    def begin_evaluation(self, _effect: effects.BeginEvaluation) -> float:
        """Journal the evaluation of a version, if disk, memory and config allow it."""
        self._check_resources()
        usable, events = self.watch.reload(self.store)
        self.handler.handle(events)
        if not usable:
            return CATCH_UP_EVERY_S
        with suppress(Refused):  # as in `begin_attempt`
            limits, has_suites = self.watch.config.versions, self._has_suites()
            self.handler.execute(commands.StartEvaluation(settings=limits, has_suites=has_suites))
        return AT_ONCE_S

    def _gate(self) -> Gate | None:
        """What the evaluation of the next version decides; None: there is nothing to evaluate it on. A gate that holds
        must not be passed without an evaluation."""
        gate = self.watch.config.versions.gate
        return gate if gate == "hold" or self._has_suites() else None

    def _has_suites(self) -> bool:
        return bool(self.store.state.evaluations.files) or has_questions(self.store.home)

    def restore_checkpoint(self, effect: effects.RestoreCheckpoint) -> float:
        """Copy the head from its backup."""
        restore_backup(self.store, effect)
        return AT_ONCE_S

    def move_rejected(self, effect: effects.MoveRejected) -> float:
        """Move a rejected file into `rejected/`."""
        self.handler.handle(finish_rejection(self.store, effect.job))
        return AT_ONCE_S

    def wait_until(self, effect: effects.WaitUntil) -> float:
        """Nothing is to be done before a time."""
        return max(0.0, effect.at - self.store.home.clock.now())

    def await_disk_space(self, effect: effects.AwaitDiskSpace) -> float:
        """Check whether the full disk has enough free space again."""
        free_bytes = self.monitor.enough_free_bytes(effect.wanted_bytes)
        if free_bytes is not None and self.store.journal.restore_reserve():
            finish_arrivals(self.store)
            self.handler.execute(commands.ReportDiskFree(free_bytes=free_bytes))
            self.monitor.back_off()
            self.intake.scan_soon()
        return CATCH_UP_EVERY_S

    def stop_process(self, _effect: effects.StopProcess) -> float:
        """End the daemon."""
        self.end_daemon("asked to stop")
        return CATCH_UP_EVERY_S

    def _check_resources(self) -> None:
        self.handler.handle(check_resources(self.store, self.watch.config, self.monitor, at_once=True))

    def _finish_arrival(self, job: str) -> None:
        if not self.store.home.storage.exists(self.store.home.data_file(job)):
            finish_arrivals(self.store)  # a command was killed after it journaled the file and before it named it


METHODS: Mapping[type, Callable[[EffectExecutor, Any], float]] = {
    effects.BeginAttempt: EffectExecutor.begin_attempt,
    effects.SendToWorker: EffectExecutor.send,
    effects.BeginConsolidation: EffectExecutor.begin_consolidation,
    effects.BeginEvaluation: EffectExecutor.begin_evaluation,
    effects.RestoreCheckpoint: EffectExecutor.restore_checkpoint,
    effects.MoveRejected: EffectExecutor.move_rejected,
    effects.AwaitDiskSpace: EffectExecutor.await_disk_space,
    effects.WaitUntil: EffectExecutor.wait_until,
    effects.StopProcess: EffectExecutor.stop_process,
}
