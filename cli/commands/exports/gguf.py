"""`keepstep versions export --format gguf`: write a model for llama.cpp and Ollama."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import msgspec

from cli.commands.common import format_size
from cli.commands.exports.model import ModelToExport
from cli.errors import UserError
from cli.home.paths import new_directory
from cli.home.subprocesses import ask, refused
from cli.output.terminal import Row, print_json, print_report, say
from cli.output.times import duration
from gpu.artifacts.commit import staging_of
from gpu.gguf.packages import GgufUnavailable, check_packages
from gpu.ipc.protocol import ExportGguf, GgufExported, Quantization, Refusal


def export_gguf(model: ModelToExport, to: Path, quantization: Quantization, system: str, *, json: bool) -> None:
    """Write the model as a GGUF file with a Modelfile to a new directory. Raises UserError."""
    from gpu.gguf.parts import parts_of

    target = new_directory(model.home, to)
    if '"""' in system:
        raise UserError('--system contains """, which ends a text of a Modelfile', "write it without")
    try:
        check_packages(quantization)
    except GgufUnavailable as error:
        raise UserError(str(error), error.advice) from error
    if not json:
        say(f"converting {model.name} to GGUF ({quantization}), then comparing llama.cpp with transformers", flush=True)
    order = ExportGguf(
        model=model.request(target),
        name=f"{model.name}-{quantization}",
        quantization=quantization,
        system=system,
    )
    try:
        said = ask("gpu.gguf.export", order, otherwise="maybe memory ran out: `free -h` shows how much there is")
    finally:
        for directory in (staging_of(target), parts_of(target)):
            shutil.rmtree(directory, ignore_errors=True)  # left by a child that was killed
    answer = msgspec.json.decode(said, type=GgufExported | Refusal)
    if isinstance(answer, Refusal):
        raise refused(f"{model.name} was not exported", answer, "nothing was written")
    if json:
        print_json(msgspec.to_builtins(answer))
    else:
        _print(answer, model)


def _print(answer: GgufExported, model: ModelToExport) -> None:
    proof = answer.proof
    say(f"{answer.target}/{answer.file}")
    print_report(
        [
            Row("size", f"{format_size(answer.size_bytes)}, {answer.quantization}; {duration(answer.seconds)}"),
            Row("SHA-256", answer.sha256),
            Row("template", f"llama.cpp makes the same tokens of {proof.prompts} dialogues"),
            Row("stops at", ", ".join(answer.stops)),
            Row(
                "answers",
                f"{proof.same_answers} of {proof.prompts} are the same; the same next token at {proof.agreement:.0%} "
                f"of {proof.positions} places",
            ),
            Row("distance", f"{proof.distance:.3f} between log probabilities (at most {proof.tolerance:.2f})"),
        ]
    )
    directory = Path(answer.target)
    if answer.modelfile:
        name = _model_name(model)
        say(f"Ollama:     ollama create {name} -f {shlex.quote(str(directory / 'Modelfile'))} && ollama run {name}")
    else:
        say(f"no Modelfile: {answer.modelfile_problem}")
        say("            llama.cpp uses the template in the file; Ollama would use another one")
    say(f"llama.cpp:  llama-server -m {shlex.quote(str(directory / answer.file))}")


def _model_name(model: ModelToExport) -> str:
    """A name that Ollama accepts: home and version."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{model.home.root.name}-{model.name}".lower()).strip("-")
    return words or "model"
