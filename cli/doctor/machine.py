"""Checks of `keepstep doctor`: disk space, memory, GPUs, libraries."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata

from cli.commands.common import format_size
from cli.config.model_files import weights_bytes
from cli.doctor.context import DoctorContext, Finding, Unreadable, failed, passed, warned
from cli.machine.gpus import ANSWER_TIMEOUT_S, load_nvml, parse_nvidia_smi, read_gpus
from cli.status.machine import HOT_C, gpu_line
from core.topics.disk import bytes_wanted
from core.topics.disk_limits import limits_in_bytes
from gpu.runtime.memory_limits import available_bytes, machine_memory
from projections.machine import GpuView

MEMORY_FULL = 85.0
"""Percent. Above it the system swaps, or its OOM killer ends a process."""

FREE_MEMORY = "end other processes that use memory: `ps aux --sort=-rss` lists them"

GPU_FIELDS = "name,memory.used,memory.total,temperature.gpu"


def disk(context: DoctorContext) -> Finding:
    """Check the disk space for the next checkpoint and for a consolidation."""
    home = context.home
    free = home.storage.free_bytes(home.root)
    try:
        state = context.state
    except Unreadable:
        return passed(f"{format_size(free)} are free; the need is not known, because the journal cannot be read")
    wanted = max(bytes_wanted(state), state.disk.full.wanted_bytes if state.disk.full is not None else 0)
    if free < wanted:
        return failed(
            f"{format_size(free)} are free, and the next checkpoint may need {format_size(wanted)}",
            "free disk space: `keepstep checkpoints prune --keep 1` deletes older checkpoints",
        )
    factor = context.config.consolidation.space_factor
    weights = weights_bytes(context.config.job.model, home.root)
    if weights is not None and free < factor * weights:
        return warned(
            f"{format_size(free)} are free, and a consolidation needs {format_size(factor * weights)} (space_factor)",
            "free disk space first; `keepstep backup cleanup --retention-days 7` lists old backups",
        )
    total = home.storage.total_bytes(home.root)
    limits = limits_in_bytes(state, context.config.disk, total_bytes=total, model_bytes=weights or 0)
    if free < limits.hard:
        return failed(
            f"{format_size(free)} are free, less than [disk] hard_gb ({format_size(limits.hard)})",
            "free disk space; then training continues",
        )
    if free < limits.soft:
        return warned(
            f"{format_size(free)} are free, less than [disk] soft_gb ({format_size(limits.soft)}): keepstep keeps one "
            "checkpoint and one backup",
            "free disk space, or set a lower limit: `keepstep config set disk.soft_gb 1`",
        )
    return passed(f"{format_size(free)} are free; the next checkpoint needs up to {format_size(wanted)}")


def memory(context: DoctorContext) -> Finding:
    """Check that the model fits into memory."""
    found = machine_memory()
    message = f"{format_size(found.available)} of {format_size(found.total)} are available"
    available = available_bytes()
    if available < found.available:
        message += f", {format_size(available)} in the control group"
    weights = weights_bytes(context.config.job.model, context.home.root)
    if weights is not None and available < weights and not context.alive:
        return failed(f"{message}, and the model alone needs {format_size(weights)}", FREE_MEMORY)
    in_use = 100 * (1 - found.available / found.total)
    if in_use > MEMORY_FULL:
        return warned(f"{message}: {in_use:.0f} % are in use", FREE_MEMORY)
    return passed(message)


def gpu(context: DoctorContext) -> Finding:
    """Check the GPUs with `nvidia-smi`, and with `nvidia-ml-py` if it is installed. `--deep` also uses torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return passed("no GPU: the CPU is used")
    try:
        ended = subprocess.run(
            [program, f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return failed(
            f"the GPU driver hangs: `nvidia-smi` took more than {ANSWER_TIMEOUT_S:.0f} s", "restart the machine"
        )
    if ended.returncode != 0:
        output = (ended.stderr or ended.stdout).strip().splitlines() or ["no output"]
        return failed(f"`nvidia-smi` failed: {output[-1]}", "`dmesg | grep -i nvrm` says more; a restart often helps")
    nvml = load_nvml()  # the driver works: nvml knows more than `nvidia-smi`
    if nvml is None:
        return assess_listing(ended.stdout)
    return assess_gpus(read_gpus(nvml, _worker_pids(context)))


def assess_listing(listing: str) -> Finding:
    """The finding about the lines of `nvidia-smi --query-gpu`."""
    return assess_gpus(parse_nvidia_smi(listing))


def assess_gpus(cards: Sequence[GpuView]) -> Finding:
    """The finding about hot GPUs and other processes on them."""
    for card in cards:
        if card.temperature_c is not None and card.temperature_c >= HOT_C:
            return warned(gpu_line(card), "check its fans and its airflow")
    for card in cards:
        if card.others:
            return warned(f"{gpu_line(card)}: training cannot use their memory", "if they are not needed: `kill PID`")
    return passed("; ".join(map(gpu_line, cards))) if cards else passed("no GPU: the CPU is used")


def _worker_pids(context: DoctorContext) -> set[int]:
    """The workers of this home and their children: they may use the GPU."""
    import psutil

    home = str(context.home.root)
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "gpu.worker" in line and home in line:
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return found


def libraries(_: DoctorContext) -> Finding:
    """Check that the installed packages are those that keepstep requires. Imports none of them."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("keepstep") or []]
    except metadata.PackageNotFoundError:
        return warned("keepstep is not installed as a package: its requirements are not known", "`pip install -e .`")
    wrong = []
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each.name} is {version}, required {each.specifier}")
    if wrong:
        return failed("; ".join(wrong), f"`{sys.executable} -m pip install --upgrade keepstep`")
    return passed(f"Python {sys.version.split()[0]}, torch {metadata.version('torch')}, and all packages as required")
