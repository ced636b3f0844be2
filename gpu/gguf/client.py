"""Ask a GGUF file questions through llama.cpp's own server. No torch.

The endpoints: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from gpu.errors import WorkerError

ANSWER_S = 600.0
"""The slowest answer that is waited for: one token of a large model on a busy machine."""

CANDIDATES = 64
"""Tokens whose probabilities llama.cpp reports for a position."""


CERTAIN = 1e4
"""A bias that makes a token the only one that can be drawn."""


class LlamaFailed(WorkerError):
    """llama.cpp could not load the file, or ended while it was asked."""


class NextToken(NamedTuple):
    """What llama.cpp expects at one position."""

    token: int
    """The most probable token."""
    log_probabilities: Mapping[int, float]
    """Natural logarithms, of the most probable `CANDIDATES` tokens."""


class LlamaServer:
    """A server for one GGUF file. A context manager: the process lives as long as the block."""

    def __init__(self, path: Path, context_tokens: int) -> None:
        self._path = path
        self._context_tokens = context_tokens
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._log = self._stack.enter_context(tempfile.TemporaryFile())
        threads = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-P", "-m", "gpu.gguf.server", str(self._path), str(self._context_tokens), str(threads)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._stack.callback(self._end)
        assert self._process.stdout is not None
        address = self._process.stdout.readline().decode().strip()
        if not address:
            raise self._failed()
        self._address = urlsplit(address)
        self._plain = self.encode("a")[-1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def encode_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a dialogue, with the chat template in the file, as the server's chat endpoint makes
        them."""
        text = self._post("/apply-template", {"messages": [dict(each) for each in messages]})["prompt"]
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt that is text."""
        return [*self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]]

    def next_token(self, ids: Sequence[int]) -> NextToken:
        """Return what follows these tokens."""
        # The server reports no probabilities with an end token, or with half a character. So a plain token is drawn;
        # the probabilities are those before this bias.
        said = self._complete(ids, n_predict=1, n_probs=CANDIDATES, logit_bias=[[self._plain, CERTAIN]])
        (position,) = said["completion_probabilities"]
        top = {each["id"]: float(each["logprob"]) for each in position["top_logprobs"]}
        return NextToken(max(top, key=lambda token: top[token]), top)

    def answer(self, ids: Sequence[int], tokens_max: int) -> list[int]:
        """Return the greedy answer to a prompt, with the token that ends it."""
        return [*self._complete(ids, n_predict=tokens_max)["tokens"]]

    def stops_at(self, ids: Sequence[int], token: int) -> bool:
        """True if `token` ends an answer: it is made certain, and no further one may follow."""
        said = self._complete(ids, n_predict=3, logit_bias=[[token, CERTAIN]])
        return said["stop_type"] == "eos" and said["tokens"] in ([token], [])

    def properties(self) -> Mapping[str, Any]:
        """Return the properties of the model as the server reports them."""
        return self._request("GET", "/props", None)

    def _complete(self, ids: Sequence[int], **options: Any) -> Mapping[str, Any]:
        return self._post(
            "/completion",
            {"prompt": [*ids], "temperature": 0.0, "return_tokens": True, "cache_prompt": True, **options},
        )

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=ANSWER_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed() from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            problem = said.get("error", {}).get("message", said) if isinstance(said, dict) else said
            raise LlamaFailed(f"llama.cpp refused {path}: {' '.join(str(problem).split())}")
        return dict(said)

    def _failed(self) -> LlamaFailed:
        self._end()
        self._log.seek(0)
        lines = self._log.read().decode(errors="backslashreplace").strip().splitlines()
        code = self._process.returncode
        reason = lines[-1] if lines else f"its process ended with {code}"
        return LlamaFailed(reason if reason.startswith("llama.cpp") else f"llama.cpp ended: {reason}")

    def _end(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
