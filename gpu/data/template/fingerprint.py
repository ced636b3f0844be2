"""The fingerprint of a tokenizer and its chat template."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return the SHA-256 of everything that decides the tokens of a row: tokenizer, special tokens, chat template."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())})
    for part in (own, str(tokenizer.chat_template), special):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
