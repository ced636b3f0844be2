"""`/metrics` for Prometheus: numbers only, no names of files, so no token is needed.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cli.home.paths import Home
from cli.status.machine import machine_now
from cli.status.report import read_current
from events.values import PRIORITIES
from projections.machine import MachineView
from projections.status import CorrectionView, StatusView

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(home: Home) -> bytes:
    """The text that Prometheus reads. Raises journal.errors.JournalError."""
    view, alive = read_current(home)
    registry = CollectorRegistry()
    registry.register(_Collector(view, machine_now(home, alive=alive), alive=alive))
    return generate_latest(registry)


class _Collector:
    """The metrics of one moment."""

    def __init__(self, view: StatusView, machine: MachineView | None, *, alive: bool) -> None:
        self._view = view
        self._machine = machine
        self._alive = alive

    def collect(self) -> Iterator[Metric]:
        """All metrics that are known now."""
        yield from self._training()
        if self._machine is not None:
            yield from self._machine_metrics(self._machine)

    def _training(self) -> Iterator[Metric]:
        view, job = self._view, self._view.job
        yield _gauge("keepstep_up", "1 if the daemon runs.", float(self._alive))
        waits = view.hold is not None or view.full is not None or view.short is not None
        yield _gauge("keepstep_waiting", "1 if work waits for a person, the disk or memory.", float(waits))
        yield _gauge("keepstep_committed_step", "The last committed global step.", view.global_step)
        waiting = GaugeMetricFamily("keepstep_queue_files", "Files that wait.", labels=["priority"])
        for lane in PRIORITIES:
            waiting.add_metric([lane], getattr(view.queue.lanes, lane))
        yield waiting
        files = CounterMetricFamily("keepstep_files", "Finished files.", labels=["result"])
        for name in ("trained", "rejected", "skipped"):
            files.add_metric([name], getattr(view.counts, name))
        yield files
        if job is not None:
            yield _gauge("keepstep_job_progress_ratio", "Progress of the current file.", job.progress)
            if isinstance(job.loss, float):
                yield _gauge("keepstep_loss_nats", "Loss per trained token of the last step.", job.loss)
            if job.tokens_per_s is not None:
                yield _gauge("keepstep_tokens_per_second", "Speed of the last steps.", job.tokens_per_s)
        if view.validation is not None and isinstance(view.validation.loss, float):
            yield _gauge("keepstep_validation_loss_nats", "Loss of the last evaluation.", view.validation.loss)

        if view.self_correction is not None:
            yield from self._correction_metrics(view.self_correction)
        if (samples := view.samples) is not None and samples.answers:
            matched, thinking = samples.matched / samples.answers, samples.thinking / samples.answers
            yield _gauge("keepstep_samples_expected_ratio", "Share of the last samples as expected.", matched)
            yield _gauge("keepstep_samples_thinking_ratio", "Share of the last samples with the think tag.", thinking)
        if (evaluation := view.evaluation) is not None:
            if evaluation.loss is not None:
                yield _gauge("keepstep_held_out_loss_nats", "Mean loss on held-out rows of all files.", evaluation.loss)
            if (questions := evaluation.questions).total:
                right = questions.right / questions.total
                yield _gauge("keepstep_questions_right_ratio", "Share of the questions that are right.", right)
            yield _gauge("keepstep_versions_held", "Versions that wait for a person.", len(evaluation.held))

    def _correction_metrics(self, found: CorrectionView) -> Iterator[Metric]:
        yield _gauge("keepstep_self_correction_rows_waiting", "Rows that wait for a file.", found.waiting)
        yield _gauge("keepstep_self_correction_stopped", "1 if self-correction stopped itself.", bool(found.stopped))
        if found.pass_rate is not None:
            yield _gauge("keepstep_self_correction_right_ratio", "Share of right own answers.", found.pass_rate)
        if found.distinct is not None:
            yield _gauge("keepstep_self_correction_distinct_ratio", "distinct-2 of own answers.", found.distinct)

    def _machine_metrics(self, machine: MachineView) -> Iterator[Metric]:
        yield _gauge("keepstep_memory_available_bytes", "Memory that is available.", machine.memory.available_bytes)
        yield _gauge("keepstep_worker_memory_bytes", "Private memory of the worker.", machine.memory.worker_bytes)
        yield _gauge("keepstep_disk_free_bytes", "Free bytes on the disk of the home.", machine.disk_free_bytes)
        used = GaugeMetricFamily("keepstep_gpu_memory_used_bytes", "Used memory of a GPU.", labels=["gpu"])
        for index, gpu in enumerate(machine.gpus):
            if gpu.memory_used_bytes is not None:
                used.add_metric([str(index)], gpu.memory_used_bytes)
        yield used


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
