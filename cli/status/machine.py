"""The machine in `keepstep status`: one line for the machine and one for each GPU."""

from __future__ import annotations

import time

from cli.home.paths import Home
from cli.output.terminal import ATTENTION, Row
from projections.machine import GpuProcessView, GpuView, MachineView, read_machine

OLD_S = 30.0
"""A daemon measures every few seconds; an older measurement is from a daemon that died or hangs."""

GB = 1e9
MB = 1e6

HOT_C = 90
"""GPUs begin to throttle at this temperature."""


def machine_now(home: Home, *, alive: bool) -> MachineView | None:
    """The last measurement of a running daemon; else a quick measurement made here, None if that fails."""
    shown = read_machine(home.machine, storage=home.storage)
    if alive and shown is not None and abs(time.time() - shown.at) <= OLD_S:
        return shown
    from cli.machine.measure import measure_once  # no daemon runs, or it has just started

    try:
        return measure_once(home.root, home.storage)
    except OSError:
        return None


def machine_rows(view: MachineView | None) -> list[Row]:
    """The rows of the machine."""
    if view is None:
        return []
    rows = [Row("machine", machine_line(view))]
    if view.gpu_problem is not None:
        rows.append(Row("GPU", view.gpu_problem, ATTENTION))
    rows += [Row("GPU", gpu_line(gpu), ATTENTION if needs_attention(gpu) else "") for gpu in view.gpus]
    return rows


def machine_line(view: MachineView) -> str:
    """Processors, memory, disk, disk traffic."""
    memory = view.memory
    used = memory.total_bytes - memory.available_bytes
    worker = f", worker {memory.worker_bytes / GB:.1f} GB" if memory.worker_bytes else ""
    parts = [
        f"{view.cores} cores" if view.cpu is None else f"CPU {view.cpu:.0%} of {view.cores} cores",
        f"memory {used / GB:.1f} of {memory.total_bytes / GB:.1f} GB ({used / max(1, memory.total_bytes):.0%}{worker})",
    ]
    if memory.groups:
        least = min(memory.groups, key=lambda group: group.available_bytes)
        used = least.total_bytes - least.available_bytes
        parts.append(f"{used / GB:.1f} of {least.total_bytes / GB:.1f} GB in the control group")
    if memory.swap_used_bytes:
        parts.append(f"swap {memory.swap_used_bytes / GB:.1f} GB")
    if memory.pressure:
        parts.append(f"{memory.pressure:.0%} of the time stalled for memory")
    parts.append(f"{view.disk_free_bytes / GB:.1f} GB of disk free")
    if view.read_bytes_per_s is not None and view.written_bytes_per_s is not None:
        parts.append(f"read {view.read_bytes_per_s / MB:.1f}, written {view.written_bytes_per_s / MB:.1f} MB/s")
    return ", ".join(parts)


def gpu_line(gpu: GpuView) -> str:
    """A GPU, and the other processes on it."""
    parts = []
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        parts.append(f"{gpu.memory_used_bytes / GB:.1f} of {gpu.memory_total_bytes / GB:.1f} GB in use")
    if gpu.utilisation is not None:
        parts.append(f"{gpu.utilisation:.0%} busy")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C" + (", hot: it throttles" if gpu.temperature_c >= HOT_C else ""))
    if gpu.others:
        parts.append(f"other processes: {', '.join(map(_process, gpu.others))}")
    return f"{gpu.name}: {', '.join(parts) or 'no data'}"


def needs_attention(gpu: GpuView) -> bool:
    """True if the GPU is hot or other processes use it."""
    return bool(gpu.others) or (gpu.temperature_c is not None and gpu.temperature_c >= HOT_C)


def _process(process: GpuProcessView) -> str:
    memory = f", {process.memory_bytes / GB:.1f} GB" if process.memory_bytes is not None else ""
    return f"{process.name or 'a process'} (pid {process.pid}{memory})"
