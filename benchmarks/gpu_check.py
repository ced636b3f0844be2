"""Check keepstep's promises on a GPU, and measure its speed there: `make gpu-check`.

    bash benchmarks/gpu_check.sh [--device cuda|cpu] [--tiny] [--only PART] [--out FILE]

Each part runs in a separate process with a time limit. A part that fails, hangs or crashes does not stop the others.
The table goes to the terminal and to FILE (by default, after a whole run on a GPU, into docs/gpu.md). The exit code is
0 if every part passed that could run, 1 if one failed, 2 if there is no such device. docs/gpu.md says what each part
checks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu.worker import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


MODULE = "benchmarks.gpu_parts"
"""Runs one part."""


class Part(NamedTuple):
    """A part that runs in a separate process."""

    budget_s: float
    """Seconds after which it is killed: twice its usual time."""
    what: str


PARTS = {
    "machine": Part(40, "the device, and that its arithmetic repeats"),
    "exact": Part(110, "a run cut at any step ends with the bits of one that was not"),
    "evaluation": Part(30, "an evaluation changes nothing"),
    "memory": Part(50, "a step that does not fit into memory is run again in parts"),
    "killed": Part(150, "`keepstep run`, its worker and itself killed with -9"),
    "qlora": Part(35, "the same promises with weights in 4 bits"),
    "speed-qwen3": Part(60, "LoRA in the shape of Qwen3-0.6B"),
    "speed-llama": Part(75, "LoRA in the shape of Llama-3.2-1B"),
    "speed-full": Part(90, "all weights in the shape of Qwen3-0.6B"),
}
"""The parts, in the order in which they run."""

TOTAL_S = 460.0
"""Seconds for all parts. A part that has not begun by then fails with "no time left"."""

QUICK = ("machine", "evaluation")
"""The parts that the tests of this script run."""

PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"


class Row(NamedTuple):
    """One line of the table of checks."""

    part: str
    check: str
    result: str
    seconds: float
    note: str


class Speed(NamedTuple):
    """One line of the table of speeds."""

    training: str
    loop: str
    tokens_per_s: float
    share: float
    """Ratio to the tokens/s of the bare loop."""
    peak_bytes: int


class Findings(NamedTuple):
    """The results of all parts."""

    rows: list[Row]
    speeds: list[Speed]
    machine: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print and write the tables, and return the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few steps: seconds, not minutes")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="run this part alone; may be repeated")
    parser.add_argument("--out", type=Path, help="write the tables here")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all parts together")
    options = parser.parse_args(arguments)
    environment = _environment(options.device)
    if options.device == "cuda" and not _has_cuda(environment):
        print("torch sees no CUDA device here. `--device cpu --tiny` runs what a CPU can show.", file=sys.stderr)
        return 2
    parts = [name for name in PARTS if options.only is None or name in options.only]
    began = time.monotonic()
    findings = Findings([], [], {})
    for name in parts:
        left = options.seconds - (time.monotonic() - began)
        _run(name, min(PARTS[name].budget_s, left), options, environment, findings)
    seconds = time.monotonic() - began
    text = page(findings, options.device, tiny=options.tiny, seconds=seconds)
    print(f"\n{text}")
    whole = options.device == "cuda" and not options.tiny and options.only is None
    if options.out is not None:
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(f"# keepstep: GPU check\n\n{text}", encoding="utf-8")
        except OSError as error:
            print(f"the tables above are not in {options.out}: {error.strerror}", file=sys.stderr)
            return 1
    elif whole:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    return exit_code(findings.rows)


def exit_code(rows: Sequence[Row]) -> int:
    """Return 0 if something passed and nothing failed, else 1."""
    results = [row.result for row in rows]
    return 0 if PASSED in results and FAILED not in results else 1


def _environment(device: str) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {
        **os.environ,
        **ENVIRONMENT,
        "HF_HUB_OFFLINE": "1",  # no part may wait for a network
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
    return {**found, "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else found


def _has_cuda(environment: dict[str, str]) -> bool:
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], env=environment, check=False).returncode == 0


def _run(
    name: str, budget_s: float, options: argparse.Namespace, environment: dict[str, str], findings: Findings
) -> None:
    """Run one part in a separate process group. Collect each line that it printed, even if it was killed."""
    part = PARTS[name]
    print(f"{name}: {part.what}", flush=True)
    if budget_s < 5:
        findings.rows.append(Row(name, "-", FAILED, 0.0, "no time left"))
        return
    command = [
        sys.executable,
        "-m",
        MODULE,
        name,
        options.device,
        *(["--tiny"] if options.tiny else []),
    ]
    began, last_output = time.monotonic(), ""
    with tempfile.TemporaryDirectory(prefix="keepstep-gpu-") as directory, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, directory],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=budget_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            last_output = f"no end after {budget_s:.0f} s"
        errors.seek(0)
        trace = errors.read()
    lines = _received(name, said, findings)
    if process.returncode != 0:
        last_output = last_output or (trace.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        sys.stderr.write(trace[-4000:])
        findings.rows.append(Row(name, "the whole part", FAILED, time.monotonic() - began, last_output))
    elif not lines:
        findings.rows.append(Row(name, "-", FAILED, time.monotonic() - began, "it said nothing"))


def _received(name: str, said: str, findings: Findings) -> int:
    """Collect the output of a part. Return the number of checks."""
    count = 0
    for line in said.splitlines():
        if not line.startswith("{"):
            continue
        fact = json.loads(line)
        if "machine" in fact:
            findings.machine.update(fact["machine"])
        elif "training" in fact:
            findings.speeds.append(Speed(**fact))
        else:
            row = Row(name, fact["check"], fact["result"], fact["seconds"], fact["note"])
            print(f"  {row.result:<8} {row.check} ({row.seconds:.1f} s) {row.note}", flush=True)
            findings.rows.append(row)
            count += 1
    return count


def page(findings: Findings, device: str, *, tiny: bool, seconds: float) -> str:
    """Return the tables as Markdown."""
    counts = ", ".join(
        f"{sum(row.result == result for row in findings.rows)} {result}" for result in (PASSED, FAILED, NOT_RUN)
    )
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, `--device {device}{' --tiny' if tiny else ''}`, {seconds:.0f} s: "
        f"{counts}.",
        "",
        "; ".join(f"{name} {value}" for name, value in findings.machine.items()),
        "",
        "| part | check | result | seconds | note |",
        "| --- | --- | --- | ---: | --- |",
        *(
            f"| {row.part} | {row.check} | {row.result} | {row.seconds:.1f} | {row.note.replace('|', '/')} |"
            for row in findings.rows
        ),
    ]
    if findings.speeds:
        lines += [
            "",
            "| training | loop | tokens/s | of the bare loop | peak memory, GB |",
            "| --- | --- | ---: | ---: | ---: |",
            *(
                f"| {each.training} | {each.loop} | {each.tokens_per_s:,.0f} | {each.share:.2f} | "
                f"{each.peak_bytes / 1e9:.2f} |"
                for each in findings.speeds
            ),
        ]
    return "\n".join(lines) + "\n"


def replaced(text: str, table: str) -> str:
    """Return the page with `table` between its marks. Raises ValueError where it has none."""
    before, found, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (found and ends):
        raise ValueError(f"{PAGE.name} has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
