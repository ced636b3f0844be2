"""Detect the machine that a new home is made for: processors, memory, GPUs, and what the libraries can use of them.

Loads no torch and no driver: `keepstep init` answers within a second or two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cli.machine.gpus import MIB
from gpu.runtime.memory_limits import total_bytes

NVIDIA_SMI_TIMEOUT_S = 5.0
"""`nvidia-smi` answers within a second; a driver that hangs would otherwise hold up `init`."""

NATIVE_BF16 = 8.0
"""The compute capability (Ampere) from which NVIDIA GPUs compute in bfloat16:
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities."""

NO_BUILD_FOR_GPUS = "the installed torch is built without CUDA, so keepstep trains on the CPU"


class Gpu(NamedTuple):
    """A GPU as the driver reports it."""

    name: str
    memory_bytes: int
    capability: float | None = None
    """Its compute capability; None: unknown."""

    @property
    def has_bf16(self) -> bool:
        """True if it computes in bfloat16."""
        return self.capability is not None and self.capability >= NATIVE_BF16


class Machine(NamedTuple):
    """Resources that training can use."""

    cores: int
    memory_bytes: int
    """Memory of the machine, or of the control group with the lowest limit."""
    gpu: Gpu | None = None
    """The one that training uses: the first that is visible."""
    has_bitsandbytes: bool = False
    note: str = ""
    """Why a GPU is not used; "": nothing to say."""


def detect_machine() -> Machine:
    """Detect this machine."""
    gpus, note = _usable_gpus(os.environ)
    memory = total_bytes()
    return Machine(
        cores=os.cpu_count() or 1,
        memory_bytes=memory,
        gpu=gpus[0] if gpus else None,
        has_bitsandbytes=find_spec("bitsandbytes") is not None,
        note=note,
    )


def _usable_gpus(environment: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that training can use, and why it does not use those that are there."""
    gpus, problem = find_gpus()
    if not gpus:
        return (), problem
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = visible_gpus(gpus, visible)
        if not gpus:
            return (), f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    return (gpus, "") if torch_has_cuda() else ((), NO_BUILD_FOR_GPUS)


def visible_gpus(gpus: tuple[Gpu, ...], visible: str) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order. A GPU that is named by its UUID counts as the first."""
    found = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        if (name.isdecimal() and int(name) >= len(gpus)) or name == "-1":
            break  # CUDA ignores what follows an invalid one
        found.append(gpus[int(name)] if name.isdecimal() else gpus[0])
    return tuple(found)


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that `nvidia-smi` lists, and why they cannot be listed; "": there is nothing to say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), ""
    command = [program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return (), "`nvidia-smi` does not answer; `keepstep doctor` says more"
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no output"]
        return (), f"`nvidia-smi` fails: {lines[-1]}"
    return parse_gpus(ended.stdout), ""


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """The GPUs of a listing of name, memory (MiB) and compute capability. A GPU without its memory is left out.

    >>> parse_gpus("NVIDIA H100, 81559, 9.0")
    (Gpu(name='NVIDIA H100', memory_bytes=85520809984, capability=9.0),)
    """
    found = []
    for line in listing.splitlines():
        name, _, rest = line.partition(",")
        memory, _, capability = (part.strip() for part in rest.partition(","))
        if memory.isdecimal():
            known = capability.replace(".", "", 1).isdecimal()
            found.append(Gpu(name.strip(), int(memory) * MIB, float(capability) if known else None))
    return tuple(found)


def torch_has_cuda() -> bool:
    """True if the installed torch is built for CUDA. Reads its `version.py`: an import would take seconds."""
    spec = find_spec("torch")
    source = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    if source is None or not source.exists():
        return False
    lines = source.read_text(encoding="utf-8").splitlines()
    return any(line.startswith("cuda") and not line.rstrip().endswith("= None") for line in lines)


def local_zone(
    environment: Mapping[str, str] = os.environ,
    localtime: Path = Path("/etc/localtime"),
    timezone: Path = Path("/etc/timezone"),
) -> str:
    """The name of the machine's time zone, such as "Europe/Berlin"; "UTC" if it has none that is known."""
    names = [environment.get("TZ", "").removeprefix(":")]
    if not names[0]:
        names.append(str(localtime.resolve()).partition("zoneinfo/")[2])
        names.append(timezone.read_text(encoding="utf-8", errors="replace").strip() if timezone.is_file() else "")
    found = next((name for name in names if is_zone(name)), "UTC")
    return "UTC" if found == "Etc/UTC" else found


def is_zone(name: str) -> bool:
    """True if the system knows a time zone of this name."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return bool(name) and ZoneInfo(name) is not None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
