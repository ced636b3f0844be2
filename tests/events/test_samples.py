"""Values of samples: what is journaled is bounded."""

from __future__ import annotations

import msgspec
import pytest

from events.codec import encode
from events.kinds import SamplesGenerated
from events.samples import (
    ANSWER_BYTES,
    EXPECTED_BYTES,
    PROMPT_BYTES,
    PROMPTS_MAX,
    SampleAnswer,
    SamplesSettings,
    clipped,
)


def test_a_text_is_cut_between_characters() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "…"
    assert clipped("€" * 100, 32) == "€" * 9 + "…"
    assert clipped("\ud800", 10) == "?"


def test_the_largest_record_stays_below_a_megabyte() -> None:
    """Every character escaped, in every answer."""
    answer = SampleAnswer(
        prompt_id="0" * 12,
        prompt=clipped("\0" * 9999, PROMPT_BYTES),
        expected=clipped("\0" * 9999, EXPECTED_BYTES),
        answer=clipped("\0" * 9999, ANSWER_BYTES),
        match=False,
        thinks=False,
        tokens=8192,
        finish="length",
    )
    event = SamplesGenerated(
        job="a" * 64,
        attempt=1,
        global_step=1,
        step=1,
        asked=False,
        answers=(answer,) * PROMPTS_MAX,
        match="normalized",
        think_tag="<think>",
        temperature=0.0,
        seed=1,
        tokens=1,
        seconds=1.0,
    )
    assert len(encode(event)) < 1.4e6
    plain = SampleAnswer(
        **{**msgspec.structs.asdict(answer), "prompt": "p" * 400, "expected": "e" * 1000, "answer": "a" * 2000}
    )
    assert len(encode(msgspec.structs.replace(event, answers=(plain,) * PROMPTS_MAX))) < 256_000


@pytest.mark.parametrize("prompts", [0, 64, "p.jsonl", "64.jsonl"])
def test_prompts_are_a_number_or_a_file(prompts: object) -> None:
    assert msgspec.convert({"prompts": prompts}, SamplesSettings).prompts == prompts


@pytest.mark.parametrize("prompts", [-1, 65, "", "65", True])
def test_other_prompts_are_refused(prompts: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"prompts": prompts}, SamplesSettings)
