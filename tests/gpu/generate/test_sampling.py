"""Where the values of sampling come from."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from events.generation import Sampling
from gpu.generate.sampling import TOKENS_MAX, choose_sampling, generation_config


def test_model_without_a_config_is_greedy() -> None:
    used = choose_sampling(Sampling(), GenerationConfig())
    assert (used.greedy, used.temperature, used.max_tokens) == (True, None, TOKENS_MAX)


def test_values_of_the_model_are_the_defaults() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, max_new_tokens=33)
    used = choose_sampling(Sampling(), config)
    assert (used.greedy, used.temperature, used.top_p, used.top_k, used.max_tokens) == (False, 0.6, 0.9, 20, 33)


def test_request_precedes_the_model() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20)
    used = choose_sampling(Sampling(temperature=1.5, top_k=0, max_tokens=7, seed=3), config)
    assert (used.temperature, used.top_p, used.top_k, used.max_tokens, used.seed) == (1.5, 0.9, 0, 7, 3)


@pytest.mark.parametrize("asked", [{"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 5}])
def test_request_for_sampling_makes_a_greedy_model_sample(asked: dict[str, Any]) -> None:
    assert not choose_sampling(Sampling(**asked), GenerationConfig()).greedy


@pytest.mark.parametrize("asked", [{"greedy": True}, {"temperature": 0.0}, {"temperature": 1e-40}])
def test_greedy_request_precedes_a_model_that_samples(asked: dict[str, Any]) -> None:
    assert choose_sampling(Sampling(**asked), GenerationConfig(do_sample=True, temperature=0.6)).greedy


def test_new_seeds_differ() -> None:
    seeds = {choose_sampling(Sampling(), GenerationConfig()).seed for _ in range(4)}
    assert len(seeds) > 1


def test_config_of_the_model_is_copied() -> None:
    """The next answer starts from the model's own values again."""
    config = GenerationConfig(do_sample=True, temperature=0.6, repetition_penalty=1.2)
    made = generation_config(config, choose_sampling(Sampling(greedy=True), config), 5, [2], 0)
    assert (made.do_sample, made.max_new_tokens, made.eos_token_id, made.repetition_penalty) == (False, 5, [2], 1.2)
    assert (config.do_sample, config.temperature) == (True, 0.6)
