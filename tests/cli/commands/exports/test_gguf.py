"""`versions export` and `checkpoints export`: options that do not fit, what is missing, and what is said at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cli.commands.exports.gguf as gguf
from cli.commands.exports.model import ModelToExport
from cli.errors import UserError
from cli.home.paths import Home
from gpu.artifacts.commit import staging_of
from gpu.gguf.packages import GgufUnavailable
from gpu.gguf.parts import parts_of
from gpu.ipc.protocol import ExportGguf, GgufExported, GgufProof, Refusal
from tests.cli.commands.test_checkpoints import keepstep

PROOF = GgufProof(prompts=5, same_answers=4, positions=80, agreement=0.95, distance=0.04, tolerance=0.15)


def exported(target: Path, **changed: Any) -> GgufExported:
    values: dict[str, Any] = {
        "target": str(target),
        "file": "v001-q8_0.gguf",
        "size_bytes": 144_810_976,
        "sha256": "ab" * 32,
        "quantization": "q8_0",
        "stops": ("<|im_end|>",),
        "modelfile": True,
        "proof": PROOF,
        "seconds": 61.0,
    }
    return GgufExported(**{**values, **changed})


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[ExportGguf]]:
    """`ask(answer)`: the process of the export gives this answer; the orders that it received."""

    def answers(answer: Any) -> list[ExportGguf]:
        orders: list[ExportGguf] = []

        def run(module: str, order: ExportGguf, *, otherwise: str) -> bytes:
            assert (module, bool(otherwise)) == ("gpu.gguf.export", True)
            orders.append(order)
            return msgspec.json.encode(answer)

        monkeypatch.setattr(gguf, "ask", run)
        monkeypatch.setattr(gguf, "check_packages", lambda _: None)
        return orders

    return answers


def model(home: Home) -> ModelToExport:
    return ModelToExport(home, "v001", None, "v001")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--format", "gguf", "--dtype", "float16"), "use --quantize"),
        (("--quantize", "q8_0"), "needs --format gguf"),
        (("--system", "Be brief."), "needs --format gguf"),
        (("--format", "gguf", "--quantize", "q5_0"), "q5_0"),
        (("--format", "onnx"), "onnx"),
    ],
)
@pytest.mark.parametrize("command", [("versions", "export", "v001"), ("checkpoints", "export")])
def test_options_of_the_other_format_are_usage_errors(
    home: Home, tmp_path: Path, command: tuple[str, ...], options: tuple[str, ...], says: str
) -> None:
    code, said = keepstep(home, *command, "--to", str(tmp_path / "out"), *options)
    assert code == 2
    assert says in " ".join(said.split())


def test_missing_package_is_said_before_any_process_starts(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise GgufUnavailable("xllamacpp is not installed", "install it: `pip install 'keepstep[gguf]'`")

    monkeypatch.setattr(gguf, "check_packages", missing)
    with pytest.raises(UserError, match="xllamacpp is not installed") as refused:
        gguf.export_gguf(model(home), tmp_path / "out", "q8_0", "", json=False)
    assert "keepstep[gguf]" in str(refused.value.advice)


def test_report_has_size_proof_and_the_next_commands(
    home: Home, tmp_path: Path, ask: Callable[[Any], list[ExportGguf]], capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "my models" / "out"
    orders = ask(exported(target))
    gguf.export_gguf(model(home), target, "q8_0", "Be brief.", json=False)
    (order,) = orders
    assert (order.name, order.quantization, order.system) == ("v001-q8_0", "q8_0", "Be brief.")
    assert order.model.target == str(target)
    said = capsys.readouterr().out
    for line in (
        "144.8 MB, q8_0; 1 min 1 s",
        "ab" * 32,
        "4 of 5 are the same; the same next token at 95% of 80 places",
        f"ollama create home-v001 -f '{target}/Modelfile' && ollama run home-v001",
        f"llama-server -m '{target}/v001-q8_0.gguf'",
    ):
        assert line in said


def test_template_that_ollama_cannot_express_is_said(
    home: Home, tmp_path: Path, ask: Callable[[Any], list[ExportGguf]], capsys: pytest.CaptureFixture[str]
) -> None:
    ask(exported(tmp_path / "out", modelfile=False, modelfile_problem="it writes the date"))
    gguf.export_gguf(model(home), tmp_path / "out", "q8_0", "", json=False)
    said = capsys.readouterr().out
    assert "no Modelfile: it writes the date" in said
    assert "ollama create" not in said


def test_json_has_the_whole_answer(
    home: Home, tmp_path: Path, ask: Callable[[Any], list[ExportGguf]], capsys: pytest.CaptureFixture[str]
) -> None:
    ask(exported(tmp_path / "out"))
    gguf.export_gguf(model(home), tmp_path / "out", "q8_0", "", json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["sha256"], said["proof"]["agreement"]) == ("ab" * 32, 0.95)


def test_refusal_ends_the_command_with_its_reason(
    home: Home, tmp_path: Path, ask: Callable[[Any], list[ExportGguf]]
) -> None:
    ask(Refusal(problem="llama.cpp does not stop at '<fin>'"))
    with pytest.raises(UserError, match=r"v001 was not exported: llama\.cpp does not stop at '<fin>'"):
        gguf.export_gguf(model(home), tmp_path / "out", "q8_0", "", json=False)


def test_system_prompt_that_would_end_the_modelfiles_text_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='contains """'):
        gguf.export_gguf(model(home), tmp_path / "out", "q8_0", 'a """ b', json=False)


def test_interrupted_export_leaves_nothing(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"

    def interrupted(*_: object, **__: object) -> bytes:
        for directory in (staging_of(target), parts_of(target)):
            directory.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "ask", interrupted)
    monkeypatch.setattr(gguf, "check_packages", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        gguf.export_gguf(model(home), target, "q8_0", "", json=False)
    assert [*tmp_path.iterdir()] == [home.root]
