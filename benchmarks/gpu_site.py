"""Make keepstep importable for a Python that has torch, without a network: `python gpu_site.py WHEELS SITE`.

Installs into SITE the wheels in WHEELS whose packages this Python lacks, and writes keepstep's own metadata there, by
which it knows its version. Uses the standard library and pip alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Carry out the command line. Exits with a reason if a package is missing in both places."""
    wheels, site = Path(sys.argv[1]), Path(sys.argv[2])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = missing(project["dependencies"])
    if wanted:
        found = {normal(path.name.split("-")[0]): path for path in sorted(wheels.glob("*.whl"))}
        absent = sorted(name for name in wanted if name not in found)
        if absent:
            sys.exit(
                f"{sys.executable} lacks {', '.join(absent)}, and {wheels}/ has no wheel of it. Where there is a "
                "network: `make gpu-wheels`, then bring .wheels/ here."
            )
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
        ended = subprocess.run([*command, *(str(found[name]) for name in wanted)], check=False)
        if ended.returncode != 0:
            sys.exit(
                f"the wheels in {wheels}/ do not fit {sys.executable}: `make gpu-wheels` makes them for Python 3.12"
            )
    info = site / f"keepstep-{project['version']}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: keepstep\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


def missing(requirements: list[str]) -> list[str]:
    """Return the names of the required packages that this Python lacks.

    >>> missing(["torch-that-nobody-has>=2", "pip"])
    ['torch-that-nobody-has']
    """
    names = []
    for text in requirements:
        name = normal(re.split(r"[^\w.-]", text, maxsplit=1)[0])
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            if name != "backports-zstd" or sys.version_info < (3, 14):
                names.append(name)
    return names


def normal(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
