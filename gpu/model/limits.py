"""The limits of a model: the rows of its embedding, and the longest text. Read from its files, without loading it.

A token id or a position beyond its table ends a step with "index out of range". So rows are checked against both before
any of them is trained. The shapes of the weights decide, or `config.json` if the weights are not downloaded yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import MsgspecError, Struct

from gpu.artifacts.tensors import read_header
from gpu.model.base import weights_files
from gpu.model.files import CONFIG
from journal.durable import read_file

TOKENIZER = "tokenizer.json"

_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|tokens_embed|shared|embeddings|transformer\.w)"
    r"\.weight$"
)
"""Names of the token embedding: Llama, GPT-2, BLOOM, GPT-NeoX, InternLM, GPT, T5, Mamba, CTRL."""

_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|positions_embed)\.weight$")
"""Names of the table of trained positions."""

_OTHER_TOWERS = re.compile(r"(^|[._])(vision|visual|audio|image|speech|encoder|draft)")
"""Parts of a model that do not process the text."""

_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
"""Names of the number of positions in `config.json`, the most common first."""

_TABLES = {"gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "opt", "biogpt", "gptj", "codegen", "ctrl", "mpt", "bert"}
"""Model types with exactly the positions of `config.json`: a table of vectors, of sines (GPT-J, CTRL) or of distances
(MPT)."""

_AFTER_PADDING = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "data2vec-text",
    "xmod",
}
"""Model types whose first position is the one after `pad_token_id`."""

_RESERVED = {"opt": 2, "biogpt": 2, "bart": 2, "mbart": 2, "plbart": 2}
"""By model type: rows of the table that no position of a text uses."""


class ModelLimits(Struct, frozen=True, kw_only=True):
    """The limits of a model. None: unknown, or unlimited."""

    embedding_rows: int | None = None
    """Token ids must be below this."""
    positions: int | None = None
    """Longest text, in tokens; a longer one raises an error: positions come from a table."""
    trained_positions: int | None = None
    """For a model that computes positions (RoPE): it accepts longer texts, but was not trained on them."""

    def longest(self, max_length: int) -> int:
        """Return the longest allowed row in tokens, if the settings allow `max_length`."""
        return max_length if self.positions is None else min(max_length, self.positions)


UNLIMITED = ModelLimits()


def read_limits(directory: Path) -> ModelLimits:
    """Return the limits of the model in `directory`. Raises OSError, ValueError if its `config.json` cannot be read."""
    if not (directory / CONFIG).exists():
        return UNLIMITED
    config = read_text_config(directory)
    shapes = read_shapes(directory)
    kind = config.get("model_type")
    stated = next((config[name] for name in _NAMES if _is_count(config.get(name))), None)
    padding = config.get("pad_token_id")
    first = padding + 1 if kind in _AFTER_PADDING and isinstance(padding, int) else 0
    rows = _rows(shapes, _POSITIONS, stated)
    positions = None
    if rows is not None:
        positions = min(rows - (first or _RESERVED.get(str(kind), 0)), stated or rows)
    elif kind in _TABLES | _AFTER_PADDING and stated is not None:
        positions = stated - first
    trained = None if positions is not None or stated is None else max(stated, _scaled_positions(config))
    vocabulary = config["vocab_size"] if _is_count(config.get("vocab_size")) else None
    return ModelLimits(
        embedding_rows=_rows(shapes, _EMBEDDING, vocabulary) or vocabulary,
        positions=positions,
        trained_positions=trained,
    )


def find_vocabulary_problem(directory: Path, limits: ModelLimits) -> tuple[str, bool] | None:
    """Return how the tokenizer in `directory` exceeds the embedding; None if all tokens fit, or it is unknown.

    The flag is True if every text is affected: a token that begins or ends texts is out of range. Raises OSError,
    ValueError.
    """
    rows = limits.embedding_rows
    if rows is None:
        return None
    config, vocabulary = read_text_config(directory), _vocabulary(directory)
    special = {
        **{f"{name} of {CONFIG}": token for name in _SPECIAL_IDS for token in _ids(config.get(name))},
        **{f"{name} of the tokenizer": token for name, token in _special_tokens(directory, vocabulary).items()},
    }
    for name, token in special.items():
        if token >= rows:
            return f"the {name} is {token}, and the embedding of the model has {rows:,} rows", True
    count = max(vocabulary.values(), default=-1) + 1
    if count <= rows:
        return None
    return f"the tokenizer has {count:,} tokens, and the embedding of the model has {rows:,} rows", False


_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_text_config(directory: Path) -> Mapping[str, Any]:
    """Return the settings in `config.json` for the part of the model that reads text. Raises OSError, ValueError."""
    whole = json.loads(read_file((directory / CONFIG).resolve()))
    if not isinstance(whole, dict):
        raise ValueError(f"{CONFIG} is not a JSON object")  # noqa: TRY004 - the file is wrong, not its caller
    inner = (whole.get(name) for name in ("text_config", "language_config", "llm_config"))
    return {**whole, **next((part for part in inner if isinstance(part, dict)), {})}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ids(value: object) -> Iterator[int]:
    """Yield the token ids of a setting: one, or a list of them."""
    yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def _scaled_positions(config: Mapping[str, Any]) -> int:
    """Return the number of positions with RoPE scaling, as in YaRN: https://arxiv.org/abs/2309.00071. 0: not scaled."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        return 0
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int | float):
        return 0
    return int(factor * original)


Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(directory: Path) -> Shapes:
    """Return the shapes of all tensors on this machine. Damaged files are reported when the model is loaded."""
    found: dict[str, tuple[int, ...]] = {}
    with suppress(OSError, ValueError, MsgspecError):
        for name in weights_files(directory):
            if (directory / name).exists():
                found |= {key: tensor.shape for key, tensor in read_header((directory / name).resolve()).items()}
    return found


def _rows(shapes: Shapes, name: re.Pattern[str], expected: int | None) -> int | None:
    """Return the rows of the table with such a name; of several, the one with `expected` rows, else the largest."""
    tables = [key for key, shape in shapes.items() if len(shape) == 2 and name.search(key)]
    own = {shapes[key][0] for key in tables if not _OTHER_TOWERS.search(key)}
    return expected if expected in own else max(own, default=None)


def _vocabulary(directory: Path) -> dict[str, int]:
    """Return the ids of the tokens in `tokenizer.json`; {} if there is none."""
    if not (directory / TOKENIZER).exists():
        return {}
    content = json.loads(read_file((directory / TOKENIZER).resolve()))
    pieces = content["model"].get("vocab", {})
    if isinstance(pieces, list):  # Unigram: pairs of a token and its score, in the order of their ids
        pieces = {piece[0]: index for index, piece in enumerate(pieces)}
    return {**pieces, **{token["content"]: token["id"] for token in content.get("added_tokens") or ()}}


def _special_tokens(directory: Path, vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of the tokens that begin and end texts."""
    path = directory / "tokenizer_config.json"
    config = json.loads(read_file(path.resolve())) if path.exists() else {}
    named = {name: config.get(name) for name in ("bos_token", "eos_token")}
    words = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: vocabulary[word] for name, word in words.items() if isinstance(word, str) and word in vocabulary}
