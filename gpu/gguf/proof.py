"""Prove that a GGUF file in llama.cpp answers as its model does in transformers. No torch.

Three checks, each of which refuses the file:

- The chat template and the tokenizer: llama.cpp makes the same tokens of each fixed dialogue.
- The stop tokens: each token that ends an answer in training ends one in llama.cpp.
- The weights: at every position of the reference's greedy answers, both expect nearly the same next token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu.errors import WorkerError
from gpu.gguf.client import LlamaServer
from gpu.gguf.reference import ANSWER_TOKENS, ReferenceAnswer, ReferenceAnswers
from gpu.ipc.protocol import GgufProof, Quantization

DISTANCE: Mapping[Quantization, float] = {"f16": 0.05, "q8_0": 0.3, "q4_k_m": 0.8}
"""Largest mean |ln p(llama.cpp) - ln p(transformers)| of the reference's tokens. Several times what rounding causes in
a model of 135 million weights, which suffers more than a large one: docs/guides/use-in-ollama.md has the figures."""

AGREEMENT: Mapping[Quantization, float] = {"f16": 0.9, "q8_0": 0.7, "q4_k_m": 0.5}
"""Smallest fraction of positions at which both expect the same token most."""

CONTEXT_TOKENS = 1024
"""More than any of the dialogues has with its answer, also with one token a byte."""

SHOWN = 8
"""Tokens that a message shows where two prompts begin to differ."""


class ProofFailed(WorkerError):
    """A GGUF file does not answer as the model that it was made of."""


def prove(path: Path, reference: ReferenceAnswers, quantization: Quantization) -> GgufProof:
    """Return how well the file agrees with the reference. Raises ProofFailed, LlamaFailed."""
    with LlamaServer(path, CONTEXT_TOKENS) as server:
        for answer in reference.answers:
            _check_prompt(server, answer, templated=reference.has_chat_template)
        _check_stops(server, reference)
        return _check_weights(server, reference.answers, quantization)


def _check_prompt(server: LlamaServer, answer: ReferenceAnswer, *, templated: bool) -> None:
    if templated:
        found = server.encode_prompt([{"role": role, "content": text} for role, text in answer.dialogue])
    else:
        found = server.encode("\n\n".join(text for _, text in answer.dialogue))
    if found == answer.prompt:
        return
    place = next(
        (index for index, pair in enumerate(zip(found, answer.prompt, strict=False)) if pair[0] != pair[1]),
        min(len(found), len(answer.prompt)),
    )
    what = "the chat template or the tokenizer" if templated else "the tokenizer"
    raise ProofFailed(
        f"{what} in the file is wrong: llama.cpp makes other tokens of {answer.dialogue[-1][1]!r} than transformers. "
        f"From token {place + 1} on it has {found[place : place + SHOWN]} instead of "
        f"{answer.prompt[place : place + SHOWN]}"
    )


def _check_stops(server: LlamaServer, reference: ReferenceAnswers) -> None:
    if not reference.ends:
        raise ProofFailed(
            "the model has no token that ends an answer, so llama.cpp and Ollama would not stop. "
            "Name it: eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"
        )
    prompt = reference.answers[0].prompt
    for token, text in reference.ends.items():
        if not server.stops_at(prompt, token):
            raise ProofFailed(
                f"llama.cpp does not stop at {text!r} (token {token}), which ends an answer of this model. "
                "Make it the eos_token of tokenizer_config.json"
            )


def _check_weights(server: LlamaServer, answers: Sequence[ReferenceAnswer], quantization: Quantization) -> GgufProof:
    distances: list[float] = []
    agreed = same = 0
    for answer in answers:
        for place, (token, expected) in enumerate(zip(answer.tokens, answer.log_probabilities, strict=True)):
            found = server.next_token(answer.prompt + answer.tokens[:place])
            least = min(found.log_probabilities.values())
            distances.append(abs(found.log_probabilities.get(token, least) - expected))
            agreed += found.token == token
        same += server.answer(answer.prompt, ANSWER_TOKENS)[: len(answer.tokens)] == answer.tokens
    proof = GgufProof(
        prompts=len(answers),
        same_answers=same,
        positions=len(distances),
        agreement=agreed / len(distances),
        distance=sum(distances) / len(distances),
        tolerance=DISTANCE[quantization],
    )
    if not proof.distance <= DISTANCE[quantization] or proof.agreement < AGREEMENT[quantization]:
        raise ProofFailed(
            f"llama.cpp does not answer as transformers does: they expect the same next token at "
            f"{proof.agreement:.0%} of {proof.positions} places (at least {AGREEMENT[quantization]:.0%} with "
            f"{quantization}), and their log probabilities differ by {proof.distance:.2f} on average (at most "
            f"{DISTANCE[quantization]:.2f})"
        )
    return proof
