"""Homes that an earlier keepstep wrote: unpack one, ask it questions through the command line, continue it.

Each `NAME.tar.zst` next to this file holds a home; `NAME.json` says what is in it and which bits follow from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}
"""With `portable/sitecustomize.py`, these make all x86-64 processors with AVX2 compute the same bits. README.md says
which of the variables change bits."""

DECIDES_BITS = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "device",
    "device_name",
    "cpu_capability",
    "threads",
    "deterministic",
    "arithmetic",
)
"""What keepstep records of an attempt's environment that must be equal for equal bits. `cpu` is not among them: that is
what PORTABLE is for."""

PATIENCE_S = 240
"""For one command: below the time limit of a test, so that its output is shown."""

SMALL = {zstd.CompressionParameter.compression_level: 19, zstd.CompressionParameter.window_log: 24}
"""A window of 16 MiB sees the whole home, in which most files are there several times."""


def unpack(archive: Path, root: Path) -> Path:
    """Unpack the home below `root` with its modes and times, owned by the caller. Returns its directory."""

    def owned(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
        return member.replace(uid=os.getuid(), gid=os.getgid(), uname="", gname="", deep=False)

    with zstd.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(root, filter=owned)
    return root / "home"


def pack(home: Path, archive: Path) -> None:
    """Write `home` into `archive`. The same home gives the same bytes."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        return member.replace(uid=0, gid=0, uname="", gname="", deep=False)

    with zstd.open(archive, "wb", options=SMALL) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:  # type: ignore[call-overload]
        tar.add(home, "home", filter=anonymous)


def environment() -> dict[str, str]:
    """The environment of every process that works on an old home."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSTEP_")}
    return {**own, **PORTABLE, "PYTHONPATH": f"{HERE / 'portable'}{os.pathsep}{ROOT}"}


def keepstep(home: Path, *words: str, code: int | None = 0) -> str:
    """Run a command of keepstep, which must exit with `code` (None: 0 or 1). Returns its standard output."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli", *words, "--home", str(home)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode in ({0, 1} if code is None else {code}), (
        f"keepstep {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    assert "Traceback" not in done.stderr
    return done.stdout


def asked(home: Path, *words: str) -> Any:
    """Run a command with --json. Returns what it printed."""
    return json.loads(keepstep(home, *words, "--json"))


def tensors_sha256(directory: Path, *files: str) -> str:
    """SHA-256 of the tensors in safetensors files: name, type, shape and bytes of each, in the order of their names."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for file in files:
        with safe_open(directory / file, "numpy") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name)
                digest.update(f"{file} {name} {tensor.dtype} {tensor.shape}\n".encode())
                digest.update(tensor.tobytes())
    return digest.hexdigest()


def journal_events(home: Path) -> list[dict[str, Any]]:
    """Every event of the journal, as it is on disk."""
    lines = keepstep(home, "journal", "tail", "-n", "1000000", "--json").splitlines()
    return [json.loads(line)["event"] for line in lines]


def facts(home: Path) -> dict[str, Any]:
    """What the journal says of the home, by names that no later keepstep may change."""
    status, versions, head = asked(home, "status"), asked(home, "versions", "list", "--all"), asked(home, "lineage")
    failed = [each["name"] for each in status["failed"]]
    running = status["job"]
    return {
        "last_record": status["seq"],
        "step": status["global_step"],
        "counts": status["counts"],
        "failed": failed,
        "running": {"name": running["name"], "step": running["step"]} if running else None,
        "held": {each["name"]: each["held"] for each in asked(home, "queue", "--all") if each["name"] not in failed},
        "head": versions["head"],
        "versions": {each["id"]: each["global_step"] for each in versions["versions"]},
        "left": [each["checkpoint"]["id"] for each in versions["detached"]],
        "trained": [[part["name"], part["global_from"] + 1, part["global_to"]] for part in head["parts"]],
    }


def verified(home: Path) -> dict[str, Any]:
    """Read every byte that the journal names. Returns what is there and good."""
    journal = asked(home, "journal", "verify")
    assert journal["verdict"] == "clean"
    assert asked(home, "lineage", "--verify")["good"]
    assert asked(home, "doctor", "--deep")["good"]  # it reads every byte of the versions, and loads the model
    return {
        "records": journal["records"],
        "segments": journal["segments"],
        "checkpoints": [each["id"] for each in asked(home, "checkpoints", "verify")["checkpoints"] if each["good"]],
        "backups": [each["id"] for each in asked(home, "backup", "verify") if each["good"]],
    }


def train(home: Path) -> dict[str, str]:
    """Train every file that is left. Returns the SHA-256 of the weights and the optimizer's state after each one."""
    keepstep(home, "run", "--until-idle")
    names = {part["job"]: part["name"] for part in asked(home, "lineage")["parts"]}
    last = {names[each["job"]]: Path(each["path"]) for each in asked(home, "checkpoints")}
    return {
        name: tensors_sha256(path, "adapter_model.safetensors", "optimizer.safetensors") for name, path in last.items()
    }


def consolidate(home: Path) -> dict[str, str]:
    """Make a version of what was trained. Returns the SHA-256 of its weights, by its name."""
    keepstep(home, "consolidate", "-d", "made of an old home")
    keepstep(home, "run", "--until-idle")
    version = asked(home, "versions", "list")["versions"][-1]
    return {version["id"]: tensors_sha256(Path(version["path"]), "model.safetensors")}


def what_decides_bits(home: Path) -> dict[str, str]:
    """Return what the newest attempt recorded of its environment, as far as it decides bits."""
    found = [event["environment"] for event in journal_events(home) if "environment" in event][-1]
    return {name: found[name] for name in DECIDES_BITS}
