"""`keepstep serve`: what it prints can be pasted, and it takes its process with it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from cli.errors import UserError
from cli.home.paths import Home
from cli.serve import serve
from cli.serve.serve import instructions, serve_models
from tests.waiting import eventually, is_alive

ROOT = Path(__file__).parents[3]


@contextmanager
def serving(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`keepstep serve` in a separate process, whose process that generates text starts quickly."""
    program = f"import sys; sys.executable = {sys.executable!r}; from cli.main import main; main()"
    python = str(Path(sys.prefix) / "bin" / "python")
    command = [python, "-P", "-c", program, "serve", "--home", str(home), "--device", "cpu", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pasted(process: subprocess.Popen[str]) -> dict[str, str]:
    """The variables that a shell has after the lines that it prints."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(8)]
    exports = "".join(line for line in lines if line.startswith("  export "))
    found = subprocess.run(["sh", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in found.splitlines() if line.startswith("OPENAI_"))


def test_printed_lines_lead_to_the_models_until_ctrl_c(consolidated_once: Path, warm: None) -> None:
    with serving(consolidated_once, "--port", "0") as process:
        variables = pasted(process)
        client = OpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"], timeout=120)
        answer = client.chat.completions.create(
            model="head", messages=[{"role": "user", "content": "Hello"}], max_tokens=3
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        (generating,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert said.count("\n") == 1
        assert "head: step-00000004-attempt-0003 on v001 on the CPU, float32" in said
        assert not is_alive(generating.pid)
    key = consolidated_once / "run" / serve.TOKEN
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_killed_server_takes_its_process_with_it(consolidated_once: Path, warm: None) -> None:
    with serving(consolidated_once, "--port", "0") as process:
        variables = pasted(process)
        client = OpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"], timeout=120)
        stream = client.chat.completions.create(
            model="head", messages=[{"role": "user", "content": "Hello"}], max_tokens=480, stream=True
        )
        next(iter(stream))
        (generating,) = psutil.Process(process.pid).children()
        process.kill()
        eventually(lambda: not is_alive(generating.pid))


def test_lines_fit_a_terminal() -> None:
    lines = instructions(
        "http://127.0.0.1:8000/v1", Path("/home/me/my models/run/serve-token"), [f"v{n:03}" for n in range(99)]
    )
    assert max(map(len, lines)) <= 80
    assert "'/home/me/my models/run/serve-token'" in "\n".join(lines)
    assert "v000, v001, v002, v003, v004, …, v098" in lines[0]


def serve_here(home: Home, host: str = "127.0.0.1", port: int | None = 0) -> None:
    serve_models(home, host, port, (), "cpu", waiting_max=1, keep_loaded_s=1.0)


def test_address_for_others_needs_the_names_that_may_be_used(home: Home) -> None:
    with pytest.raises(UserError, match="lets other machines reach this API") as caught:
        serve_here(home, "0.0.0.0")
    assert "--allowed-host NAME" in caught.value.advice


def test_taken_port_is_a_sentence(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            serve_here(home, port=taken.getsockname()[1])


def test_missing_package_is_named_with_the_line_that_installs_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "cli.web.server", raising=False)
    with pytest.raises(UserError, match="not installed: uvicorn") as caught:
        serve_here(home)
    assert caught.value.advice == "install it: `pip install 'keepstep[serve]'`"


def test_web_process_loads_no_torch() -> None:
    from tests.test_architecture import loaded_by

    assert loaded_by("import cli.serve.app, cli.serve.engine, cli.serve.serve, uvicorn") == set()
