"""The fingerprint covers everything that decides the tokens of a row."""

from __future__ import annotations

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import Text
from gpu.data.template.fingerprint import tokenizer_sha256
from tests.harness.tiny_model import MARKED_TEMPLATE, make_tokenizer


def test_the_fingerprint_follows_tokenizer_and_template() -> None:
    assert tokenizer_sha256(make_tokenizer()) == tokenizer_sha256(make_tokenizer())
    assert tokenizer_sha256(make_tokenizer()) != tokenizer_sha256(make_tokenizer(MARKED_TEMPLATE))
    larger = make_tokenizer()
    larger.add_tokens(["keepstep"])
    assert tokenizer_sha256(larger) != tokenizer_sha256(make_tokenizer())


def test_the_fingerprint_does_not_change_with_use() -> None:
    tokenizer = make_tokenizer()
    before = tokenizer_sha256(tokenizer)
    Encoder(tokenizer, DataSettings(max_length=64)).encode(Text(1, "words"))
    assert tokenizer_sha256(tokenizer) == before
