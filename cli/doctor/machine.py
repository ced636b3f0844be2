"""What `keepstep doctor` looks at around the home: room, memory, the GPU, the libraries."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata

from cli.doctor.context import DoctorContext, Finding, Unknown, failed, passed, size, warned
from cli.doctor.model import model_directory, weights_bytes
from cli.errors import UserError
from cli.machine.gpus import ANSWER_TIMEOUT_S, load_nvml, parse_nvidia_smi, read_gpus
from cli.status.machine import HOT_C, gpu_line
from core.topics.disk import bytes_wanted
from gpu.runtime.memory_limits import memory_of_groups
from projections.machine import GpuView

MEMORY_FULL = 85.0
"""Per cent. Beyond it, the system begins to swap, or ends somebody."""

WHO_USES_IT = "end what else uses memory: `ps aux --sort=-rss` shows it"

GPU_FIELDS = "name,memory.used,memory.total,temperature.gpu"


def disk(context: DoctorContext) -> Finding:
    """Room for the next checkpoint, and for a consolidation."""
    home = context.home
    free = home.storage.free_bytes(home.root)
    try:
        state = context.state
    except Unknown:
        return passed(f"{size(free)} are free; what is wanted is not known while the journal cannot be read")
    wanted = max(bytes_wanted(state), state.disk.full.wanted_bytes if state.disk.full is not None else 0)
    if free < wanted:
        return failed(
            f"{size(free)} are free, and the next checkpoint may want {size(wanted)}",
            "make room; `keepstep checkpoints prune --keep 1` gives up older ones",
        )
    factor = context.config.consolidation.space_factor
    weights = _weights_bytes(context)
    if weights is not None and free < factor * weights:
        return warned(
            f"{size(free)} are free, and a consolidation wants {size(factor * weights)} (space_factor)",
            "make room before the next one; `keepstep backup cleanup --retention-days 7` lists old backups",
        )
    hard = context.config.disk.hard_gb * 1e9
    if free < hard:
        return failed(f"{size(free)} are free, less than [disk] hard_gb", "make room; training goes on by itself then")
    return passed(f"{size(free)} are free; the next checkpoint wants {size(wanted)} at most")


def memory(context: DoctorContext) -> Finding:
    """Enough that the model can be loaded."""
    import psutil

    found = psutil.virtual_memory()
    said = f"{size(found.available)} of {size(found.total)} are available"
    available = min([found.available, *(group.available_bytes for group in memory_of_groups())])
    if available < found.available:
        said += f", {size(available)} within our control group"
    weights = _weights_bytes(context)
    if weights is not None and available < weights and not context.alive:
        return failed(
            f"{said}, and the model alone has {size(weights)}", "end what else uses memory: `ps aux --sort=-rss`"
        )
    if found.percent > MEMORY_FULL:
        return warned(f"{said}: {found.percent:.0f} % are in use", WHO_USES_IT)
    return passed(said)


def _weights_bytes(context: DoctorContext) -> int | None:
    """None: not known, and the check of the model says why."""
    try:
        model = context.config.job.model
        found = model_directory(model.path, context.home.root, model.revision)
        return weights_bytes(found) if found is not None else None
    except (OSError, ValueError, UserError):
        return None


def gpu(context: DoctorContext) -> Finding:
    """What the driver says, by `nvidia-smi`, and by `nvidia-ml-py` where that is installed; torch has its word in the
    rehearsal (`--deep`)."""
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
            f"the driver does not answer: `nvidia-smi` took more than {ANSWER_TIMEOUT_S:.0f} s", "restart the machine"
        )
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip().splitlines() or ["it said nothing"]
        return failed(f"`nvidia-smi` failed: {said[-1]}", "`dmesg | grep -i nvrm` says more; often a restart mends it")
    nvml = load_nvml()  # the driver answers: it can be asked for what `nvidia-smi` does not say
    if nvml is None:
        return judge_gpus(ended.stdout)
    return judge(read_gpus(nvml, _worker_pids(context)))


def judge_gpus(listing: str) -> Finding:
    """What the lines of `nvidia-smi --query-gpu` come to."""
    return judge(parse_nvidia_smi(listing))


def judge(cards: Sequence[GpuView]) -> Finding:
    """What the cards say of themselves, and who else is on them."""
    for card in cards:
        if card.temperature_c is not None and card.temperature_c >= HOT_C:
            return warned(gpu_line(card), "see to its fans and its air")
    for card in cards:
        if card.others:
            return warned(
                f"{gpu_line(card)}: what they use, training cannot", "end them, if they are not wanted: `kill PID`"
            )
    return passed("; ".join(map(gpu_line, cards))) if cards else passed("no GPU: the CPU is used")


def _worker_pids(context: DoctorContext) -> set[int]:
    """Processes of this home, which are no strangers on its card."""
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
    """What is installed is what keepstep asks for; read from the packages, nothing is imported."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("keepstep") or []]
    except metadata.PackageNotFoundError:
        return warned("keepstep is not installed as a package: what it needs is not known", "`pip install -e .`")
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
            wrong.append(f"{each.name} is {version}, wanted {each.specifier}")
    if wrong:
        return failed("; ".join(wrong), f"`{sys.executable} -m pip install --upgrade keepstep`")
    return passed(f"Python {sys.version.split()[0]}, torch {metadata.version('torch')}, and all others as wanted")
