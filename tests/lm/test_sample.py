import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bpetok.errors import IncompatibleError
from lm.config import Config
from lm.errors import CheckpointError, ConfigError
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.sample import generate, load_run
from lm.train import train

PROMPT = [1, 2]


@pytest.fixture(scope="module")
def model() -> GPT2:
    """Untrained, but with weights so large that chances differ and the most likely id changes with the text."""
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=6, layers=1, heads=2, width=16, dropout=0.3), 20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(15)
        model.norm.weight.fill_(1)
    return model


def draw(model: GPT2, *, seed: int = 0, max_new_tokens: int = 12, **settings: float) -> list[int]:
    return list(generate(model, PROMPT, seed=seed, max_new_tokens=max_new_tokens, **settings))


def test_temperature_0_top_k_1_and_a_tiny_top_p_take_the_most_likely_id(model: GPT2) -> None:
    model.eval()
    ids = list(PROMPT)
    for _ in range(12):
        ids.append(int(model(torch.tensor([ids[-6:]]))[0, -1].argmax()))
    assert len(set(ids[2:])) > 2, "else this test would show little"
    assert ids[2:] == draw(model, temperature=0) == draw(model, top_k=1) == draw(model, top_p=1e-9)
    assert draw(model, temperature=1e-4) == ids[2:]


def test_equal_seeds_draw_equal_ids_and_others_other_ids(model: GPT2) -> None:
    assert draw(model, seed=3) == draw(model, seed=3)
    assert len({tuple(draw(model, seed=seed)) for seed in range(8)}) > 1


def test_of_equal_logits_the_lowest_id_is_taken() -> None:
    flat = Bigram(BigramConfig(context=2), 300)
    torch.nn.init.zeros_(flat.table.weight)
    assert list(generate(flat, [5], max_new_tokens=2, temperature=0, seed=0)) == [0, 0]
    assert list(generate(flat, [5], max_new_tokens=2, top_k=1, seed=0)) == [0, 0]


def test_ids_are_drawn_with_the_models_chances() -> None:
    # Chances .5 .3 .15 .05, the same after every id; 2000 draws, each count within four standard deviations.
    chances = [0.5, 0.3, 0.15, 0.05]
    model = Bigram(BigramConfig(context=2), 4)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(chances).log().expand(4, 4))

    def counts(**settings: float) -> Counter[int]:
        return Counter(generate(model, [0], max_new_tokens=2000, seed=1, **settings))

    def check(drawn: Counter[int], expected: list[float]) -> None:
        for id_, chance in enumerate(expected):
            assert abs(drawn[id_] - 2000 * chance) <= 4 * math.sqrt(2000 * chance * (1 - chance)), id_

    check(counts(), chances)
    check(counts(top_k=2), [0.625, 0.375, 0, 0])
    check(counts(top_k=99), chances)
    check(counts(top_p=0.6), [0.625, 0.375, 0, 0])
    check(counts(top_p=1.0), chances)
    # Half the temperature squares the chances: .25 .09 .0225 .0025 over .365.
    check(counts(temperature=0.5), [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365])


def test_the_stop_id_ends_the_text_and_is_not_given_out(model: GPT2) -> None:
    ids = draw(model, temperature=0)
    stop = ids[3]
    assert draw(model, temperature=0, stop_id=stop) == ids[: ids.index(stop)]


def test_ids_come_one_by_one_and_the_models_mode_is_put_back(model: GPT2) -> None:
    model.train()
    ids = generate(model, PROMPT, max_new_tokens=5, seed=0)
    next(ids)
    assert not model.training and torch.is_grad_enabled()
    ids.close()
    assert model.training
    assert len(draw(model, max_new_tokens=0)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prompt_ids": []},
            r"prompt_ids must be one id or more, got \[\]\nhint: begin with the tokenizer's eot_token",
        ),
        ({"prompt_ids": [20]}, r"prompt_ids must be in \[0, 20\), got \[20\]"),
        ({"max_new_tokens": -1}, r"max_new_tokens must be at least 0, got -1"),
        ({"temperature": -0.1}, r"temperature must be finite and at least 0, got -0.1"),
        ({"temperature": math.nan}, r"temperature must be finite and at least 0, got nan"),
        ({"top_k": 0}, r"top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
    ],
)
def test_impossible_settings_are_refused_at_the_call(model: GPT2, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="sample: " + message):
        generate(model, **{"prompt_ids": PROMPT, "max_new_tokens": 1, "seed": 0, **settings})


def test_a_run_is_read_back_from_its_folder_alone(tmp_path: Path, small_run: Callable[..., Config]) -> None:
    result = train(small_run(steps=2), tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    model, tokenizer, config = load_run(tmp_path / "moved", torch.device("cpu"))
    data = dataclasses.replace(config.data, tokenizer=small_run().data.tokenizer)
    assert config.data.tokenizer == (tmp_path / "moved" / "tokenizer.bpetok").resolve()
    assert dataclasses.replace(config, data=data) == small_run(steps=2) and not model.training
    assert model.vocab_size == tokenizer.n_vocab
    ids = list(generate(model, tokenizer.encode_ordinary("The "), max_new_tokens=5, seed=0))
    assert len(ids) == 5 and isinstance(tokenizer.decode(ids), str)
    assert result.steps == 2


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a run must have a checkpoint, got none\nhint: train it first"):
        load_run(tmp_path, torch.device("cpu"))


def test_a_run_with_another_rung_in_its_config_is_refused(tmp_path: Path, small_run: Callable[..., Config]) -> None:
    train(small_run("bigram", steps=1), tmp_path / "a")
    train(small_run("gpt2", steps=1), tmp_path / "b")
    (tmp_path / "a" / "config.toml").replace(tmp_path / "b" / "config.toml")
    with pytest.raises(IncompatibleError, match=r"rung must be bigram, got gpt2"):
        load_run(tmp_path / "b", torch.device("cpu"))
