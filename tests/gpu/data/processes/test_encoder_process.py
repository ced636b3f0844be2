"""An encoder process answers over its pipes."""

from __future__ import annotations

import io
import subprocess
import sys

import msgspec
import pytest

from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.plan.chunk import Chunk, ChunkEncoder, EncodedChunk
from gpu.data.processes.encoder_process import EncoderOrder, Ready, receive, send
from gpu.data.read.record import Record
from gpu.data.template.fingerprint import tokenizer_sha256
from tests.gpu.helpers import Home
from tests.harness.tiny_model import make_rows, make_tokenizer

CHUNK = Chunk([Record(number, line) for number, line in enumerate(make_rows(3).splitlines(), 1)])


def order(home: Home, model: str = "model") -> EncoderOrder:
    return EncoderOrder(home=str(home.path), settings=job_settings(model), format_name="prompt_completion")


def job_settings(model: str = "model") -> JobSettings:
    return JobSettings(model=ModelSettings(path=model))


def started(
    what: EncoderOrder, *, module: tuple[str, ...] = ("-m", "gpu.data.processes.encoder_process")
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", *module, msgspec.json.encode(what).decode()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_an_encoder_says_who_it_is_and_encodes_until_its_input_ends(home: Home) -> None:
    child = started(order(home))
    assert child.stdin is not None
    assert child.stdout is not None
    assert receive(child.stdout, Ready) == Ready(tokenizer_sha256=tokenizer_sha256(make_tokenizer()))
    expected = ChunkEncoder(Encoder(make_tokenizer(), DataSettings()), job_settings(), "prompt_completion")(CHUNK)
    for _ in range(2):
        send(child.stdin, CHUNK)
        assert receive(child.stdout, EncodedChunk) == expected
    child.stdin.close()
    assert child.wait(30) == 0
    assert child.stdout.read() == b""
    child.stdout.close()


def test_an_encoder_ends_with_its_parent(home: Home) -> None:
    """It ends in the middle of a message too, and if nobody reads its answer."""
    for asked in (b"\xff\0\0", b""):
        child = started(order(home))
        assert child.stdin is not None
        assert child.stdout is not None
        receive(child.stdout, Ready)
        child.stdout.close()
        send(child.stdin, CHUNK)
        child.stdin.write(asked)
        child.stdin.close()
        assert child.wait(30) == 0


def test_an_encoder_loads_no_torch(home: Home) -> None:
    program = (
        "import atexit, sys; import gpu.data.processes.encoder_process; "
        "atexit.register(lambda: print('torch' in sys.modules and sys.modules['torch'] is not None, file=sys.stderr)); "
        "gpu.data.processes.encoder_process.main()"
    )
    command = [sys.executable, "-P", "-c", program, msgspec.json.encode(order(home)).decode()]
    ended = subprocess.run(command, input=b"", capture_output=True, check=True)
    assert ended.stderr.decode().split()[-1] == "False"
    assert receive(io.BytesIO(ended.stdout), Ready) == Ready(tokenizer_sha256=tokenizer_sha256(make_tokenizer()))


def test_an_encoder_without_a_tokenizer_says_why(home: Home) -> None:
    child = started(order(home, "./nowhere"))
    said, _ = child.communicate()
    ready = receive(io.BytesIO(said), Ready)
    assert ready is not None
    assert "there is no model" in ready.problem


@pytest.mark.parametrize("cut", [0, 3, 8, 20])
def test_a_message_that_is_cut_is_the_end(cut: int) -> None:
    whole = io.BytesIO()
    send(whole, CHUNK)
    assert receive(io.BytesIO(whole.getvalue()), Chunk) == CHUNK
    assert receive(io.BytesIO(whole.getvalue()[:cut]), Chunk) is None
