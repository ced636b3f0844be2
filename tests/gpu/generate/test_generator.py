"""A model that answers: the same as in plain transformers, repeatable, and independent of its files once loaded."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from msgspec.structs import replace

from events.generation import ChatMessage, GenerationFinished, GenerationStarted, MemoryBudget, ModelSource, Sampling
from events.settings import FullSettings, JobSettings, ModelSettings
from gpu.errors import CheckpointBroken, CheckpointForeign, ModelUnusable
from gpu.generate.generator import Generator
from gpu.generate.prompt import PromptRefused
from gpu.runtime.arithmetic import autocasts
from tests.gpu.helpers import QLORA, Home, settings
from tests.harness.tiny_model import make_rows, make_tiny_model

BUDGET = MemoryBudget(free_bytes=8 * 10**9)
QUESTION = [ChatMessage("user", "What is 3 and 8?")]
GREEDY = Sampling(greedy=True, max_tokens=24)


class Trained(NamedTuple):
    """A home with a checkpoint of each method."""

    path: Path
    lora: str
    full: str
    qlora: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_directory: Path, rehearsed: Path) -> Trained:
    path = tmp_path_factory.mktemp("generate")
    shutil.copytree(model_directory, path / "model")
    (path / "cache").mkdir()
    (path / "cache" / "rehearsed").symlink_to(rehearsed)
    home = Home(path)
    job = home.add(make_rows(24))
    session = home.new_session()
    lora = home.train_job(session, job, settings(learning_rate=0.05))
    full = home.train_job(session, job, settings(FullSettings(), learning_rate=0.01))
    qlora = home.train_job(session, job, settings(QLORA, learning_rate=0.05))
    return Trained(path, lora, full, qlora)


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Trained:
    """The same, to change."""
    shutil.copytree(trained.path, tmp_path / "home", symlinks=True)
    return trained._replace(path=tmp_path / "home")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before, is_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(is_strict)


def loaded(home: Trained, checkpoint: str | None = None, how: JobSettings | None = None) -> Generator:
    generator = Generator(home.path)
    source = ModelSource(settings=how or settings(), checkpoint=checkpoint)
    generator.load(1, source, "cpu", BUDGET)
    return generator


def answer(
    generator: Generator, sampling: Sampling = GREEDY, messages: Sequence[ChatMessage] = QUESTION, stop_after: int = 999
) -> tuple[str, GenerationFinished, GenerationStarted]:
    begun: list[GenerationStarted] = []
    shown: list[str] = []
    asked = itertools.count(1)
    end = generator.generate(1, messages, sampling, begun.append, shown.append, lambda: next(asked) >= stop_after)
    return "".join(shown), end, begun[0]


def in_transformers(home: Trained, checkpoint: str, *, full: bool) -> str:
    """The answer of the same weights, without keepstep."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = home.path / "checkpoints" / checkpoint
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory if full else home.path / "model", dtype=torch.float32)
    if not full:
        model = PeftModel.from_pretrained(model, directory)
    chat = [{"role": "user", "content": QUESTION[0].content}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    model.eval()
    output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpoint_answers_as_in_plain_transformers(trained: Trained, method: str) -> None:
    checkpoint = getattr(trained, method)
    text, end, begun = answer(loaded(trained, checkpoint))
    assert text == in_transformers(trained, checkpoint, full=method == "full")
    assert text != answer(loaded(trained))[0]
    assert end.finish == ("length" if end.tokens == 24 else "end")
    assert begun.sampling.greedy


def test_model_is_loaded_with_the_method_and_the_dtype_of_its_training(trained: Trained) -> None:
    """Those of the checkpoint's manifest, whatever the config says by now; the base has those of the config."""
    quantized = answer(loaded(trained, trained.qlora))[0]
    assert quantized != answer(loaded(trained))[0]
    half = replace(settings(), model=ModelSettings(path="model", dtype="bfloat16"))
    generator = Generator(trained.path)
    assert generator.load(1, ModelSource(settings=half), "cpu", BUDGET).dtype == "bfloat16"
    assert answer(generator)[1].tokens > 0
    source = ModelSource(settings=half, checkpoint=trained.lora)
    assert generator.load(1, source, "cpu", BUDGET).dtype == "float32"
    assert answer(generator)[0] == answer(loaded(trained, trained.lora))[0]


def test_model_without_a_chat_template_continues_the_text(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model", template=None)
    generator = Generator(tmp_path)
    report = generator.load(1, ModelSource(settings=settings()), "cpu", BUDGET)
    assert not report.has_chat_template
    assert answer(generator)[2].prompt_tokens == len(QUESTION[0].content)


def test_answer_ends_at_the_token_that_ends_a_turn(copy: Trained) -> None:
    """Also where the model's own config names another token, as that of a base model does."""
    for name in ("config.json", "generation_config.json"):
        path = copy.path / "model" / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "eos_token_id": 0}), encoding="utf-8")
    generator = loaded(copy)
    assert generator._loaded is not None
    assert set(generator._loaded.ends) == {0, 2}  # <|pad|>, <|end|>


def test_same_seed_gives_the_same_answer(trained: Trained) -> None:
    generator = loaded(trained, trained.lora)
    one, again, other = (answer(generator, Sampling(temperature=1.5, max_tokens=16, seed=s))[0] for s in (1, 1, 2))
    assert one == again != other


def test_answer_ends_when_it_is_stopped_and_the_next_one_is_whole(trained: Trained) -> None:
    generator = loaded(trained)
    whole = answer(generator)[0]
    _, end, _ = answer(generator, stop_after=3)
    assert (end.finish, end.tokens) == ("stopped", 3)
    assert answer(generator)[0] == whole


def test_loaded_checkpoint_may_be_deleted(copy: Trained) -> None:
    """As retention does while the model answers."""
    generator = loaded(copy, copy.lora)
    before = answer(generator)[0]
    shutil.rmtree(copy.path / "checkpoints")
    shutil.rmtree(copy.path / "model")
    assert answer(generator)[0] == before


def test_model_in_memory_is_not_loaded_again(trained: Trained) -> None:
    generator = Generator(trained.path)
    source = ModelSource(settings=settings())
    first = generator.load(1, source, "cpu", BUDGET)
    second = generator.load(2, source, "cpu", BUDGET)
    assert (second.request, second.seconds, second.dtype) == (2, 0.0, first.dtype)
    assert first.seconds > 0


@pytest.fixture(params=["lora", "qlora", "bf16", "full"])
def adapters(request: pytest.FixtureRequest, trained: Trained, tmp_path: Path) -> tuple[Trained, JobSettings, str, str]:
    """A home, the settings of a method, and two checkpoints of it."""
    how = {
        "lora": settings(learning_rate=0.05),
        "qlora": settings(QLORA, learning_rate=0.05),
        "bf16": settings(learning_rate=0.05, precision="bf16"),
        "full": settings(FullSettings(), learning_rate=0.01),
    }[request.param]
    how = replace(how, model=replace(how.model, dtype="bfloat16")) if request.param == "bf16" else how
    shutil.copytree(trained.path, tmp_path / "home", symlinks=True)
    home = Home(tmp_path / "home")
    session, job = home.new_session(), home.add(make_rows(16, 50))
    first = home.train_job(session, job, how)
    second = home.train_job(session, home.add(make_rows(16, 90)), how)
    return trained._replace(path=tmp_path / "home"), how, first, second


def test_weights_in_memory_are_used_again_with_the_same_bits(
    adapters: tuple[Trained, JobSettings, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers with its adapter switched off, another checkpoint with its own trained weights."""
    home, how, *checkpoints = adapters
    base: list[str | None] = [] if isinstance(how.method, FullSettings) else [None]  # there its weights are replaced
    alone = {name: scores(loaded(home, name, how)) for name in (*base, *checkpoints)}
    assert len({answer.tobytes() for answer in alone.values()}) == len(alone)
    generator = loaded(home, checkpoints[0], how)
    monkeypatch.setattr("gpu.generate.generator.build", None)  # nothing is loaded again
    monkeypatch.setattr("gpu.generate.generator.load_weights", None)
    for name in (*base, checkpoints[1], *base, checkpoints[0], checkpoints[1]):
        generator.load(2, ModelSource(settings=how, checkpoint=name), "cpu", BUDGET)
        assert scores(generator).tobytes() == alone[name].tobytes()


def scores(generator: Generator) -> Any:
    """The logits of a prompt, as the model answers it."""
    held = generator._loaded
    assert held is not None
    ids = torch.tensor([held.encoder.encode_prompt([{"role": "user", "content": "What is 3 and 8?"}])])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocasts(held.arithmetic)):
        return held.model(input_ids=ids).logits.float().numpy()


def test_base_in_another_form_is_loaded_again(trained: Trained) -> None:
    """A config that changed since the training: the base has the data type and the method of the config."""
    generator = loaded(trained, trained.lora)
    half = replace(settings(), model=ModelSettings(path="model", dtype="bfloat16"))
    assert generator.load(2, ModelSource(settings=half), "cpu", BUDGET).dtype == "bfloat16"
    generator = loaded(trained, trained.full)
    generator.load(2, ModelSource(settings=settings(FullSettings())), "cpu", BUDGET)
    assert answer(generator)[0] == answer(loaded(trained))[0]


def test_checkpoint_that_is_damaged_leaves_no_model(copy: Trained) -> None:
    """The weights in memory are those of nothing that has a name, so nothing answers."""
    generator = loaded(copy)
    generator.load(2, ModelSource(settings=settings(), checkpoint=copy.lora), "cpu", BUDGET)
    generator.load(3, ModelSource(settings=settings()), "cpu", BUDGET)
    shutil.rmtree(copy.path / "checkpoints")
    with pytest.raises(CheckpointBroken):
        generator.load(4, ModelSource(settings=settings(), checkpoint=copy.lora), "cpu", BUDGET)


def test_answer_ends_before_a_stop_text(trained: Trained) -> None:
    generator = loaded(trained, trained.lora)
    varied = Sampling(temperature=1.5, seed=1, max_tokens=24)
    whole = answer(generator, varied)[0]
    middle = whole[len(whole) // 2 :][:3]
    shown: list[str] = []
    end = generator.generate(1, QUESTION, varied, lambda _: None, shown.append, lambda: False, stop=("no such", middle))
    assert "".join(shown) == whole[: whole.index(middle)]
    assert end.finish == "stop_text"
    assert middle in answer(generator, replace(varied, max_tokens=end.tokens))[0]
    assert end.tokens < 24  # the generation ended there too


def test_dialogue_that_must_not_be_shortened_is_refused(trained: Trained) -> None:
    generator = loaded(trained)
    long = [ChatMessage("user", "x" * 300), ChatMessage("assistant", "y" * 200), ChatMessage("user", "z" * 200)]
    with pytest.raises(PromptRefused, match=r"the dialogue has 7\d\d tokens") as caught:
        generator.generate(1, long, GREEDY, lambda _: None, lambda _: None, lambda: False, shorten=False)
    assert caught.value.about == "context"


def test_answer_leaves_the_threads_to_training(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the model is in memory already; afterwards it has all of them again."""
    monkeypatch.setattr("gpu.generate.generator.core_count", lambda: 5)
    generator, threads = Generator(trained.path), []
    for trains, training_threads in ((False, 3), (True, 3), (False, 3), (True, 0), (True, 5), (False, 0)):
        source = ModelSource(settings=settings(threads=training_threads), checkpoint=None)
        generator.load(1, source, "cpu", replace(BUDGET, daemon_runs=True, trains=trains))
        threads.append(torch.get_num_threads())
    assert threads == [3, 2, 3, 1, 1, 5]


def test_number_of_threads_does_not_change_an_answer(trained: Trained) -> None:
    generator = loaded(trained, trained.lora)
    found = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.add(scores(generator).tobytes())
    assert len(found) == 1


def test_damaged_checkpoint_is_refused(copy: Trained) -> None:
    path = copy.path / "checkpoints" / copy.lora / "adapter_model.safetensors"
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointBroken, match="SHA-256"):
        loaded(copy, copy.lora)


def test_missing_checkpoint_is_refused(trained: Trained) -> None:
    with pytest.raises(CheckpointBroken, match="its directory is missing"):
        loaded(trained, "step-00000099-attempt-0001")


def test_checkpoint_on_another_base_is_refused(copy: Trained) -> None:
    shutil.rmtree(copy.path / "model")
    make_tiny_model(copy.path / "model", seed=8)
    with pytest.raises(CheckpointForeign, match="is not the one that it was trained on"):
        loaded(copy, copy.lora)


def test_missing_model_is_refused(copy: Trained) -> None:
    (copy.path / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match="safetensors"):
        loaded(copy)


def test_context_of_the_model_limits_the_dialogue(trained: Trained) -> None:
    generator = loaded(trained)
    long = [ChatMessage("user", "x" * 200), ChatMessage("assistant", "y" * 200), ChatMessage("user", "z" * 200)]
    _, end, begun = answer(generator, Sampling(greedy=True, max_tokens=100), long)
    assert begun.dropped == (0, 1)
    assert begun.prompt_tokens + end.tokens <= 512
