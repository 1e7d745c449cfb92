import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bpetok
from bpetok.errors import DataError, IncompatibleError
from lm.alphabet import BYTES, Alphabet
from lm.config import Config
from lm.errors import CheckpointError, ConfigError, NonFiniteError
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.sample import end_of_text, generate, load_run, write, write_batch
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


# ---- whole texts -----------------------------------------------------------------------------------------------------

ABC = Alphabet("\nabc")


class Recorder(Bigram):
    """A bigram whose next id is almost surely the next one in the alphabet's cycle; it keeps what it was given."""

    def __init__(self, vocab_size: int, *, strength: float = 50.0, context: int = 4) -> None:
        super().__init__(BigramConfig(context=context), vocab_size)
        self.given: list[list[int]] = []
        with torch.no_grad():
            self.table.weight.zero_()
            for id_ in range(vocab_size):
                self.table.weight[id_, (id_ + 1) % vocab_size] = strength

    def next_logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        self.given.append(ids_BT[0].tolist())
        return super().next_logits(ids_BT)


def test_the_end_of_text_is_the_newline_of_an_alphabet_and_the_special_token_of_a_tokenizer() -> None:
    assert end_of_text(ABC) == 0 and end_of_text(Alphabet("\tab\n")) == 3 and end_of_text(BYTES) == 10
    assert end_of_text(Alphabet("abc")) is None
    tokenizer = bpetok.train(["abc"], vocab_size=257, special_tokens=["<|endoftext|>"])
    assert end_of_text(tokenizer) == tokenizer.eot_token
    assert end_of_text(bpetok.train(["abc"], vocab_size=257)) is None


def test_lines_follow_one_another_and_each_begins_anew() -> None:
    model = Recorder(4)
    text = "".join(write(model, ABC, max_new_tokens=10, lines=True, seed=0))
    # abc and its end are four ids; ten are two and a half.
    assert text == "abc\nabc\nab"
    one = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert model.given == [*one, *one, *one[:2]], "never an id of the line before"


@pytest.mark.parametrize("most", range(10))
def test_no_more_ids_are_drawn_than_asked_for_ends_included(most: int) -> None:
    model = Recorder(4)
    text = "".join(write(model, ABC, max_new_tokens=most, lines=True, seed=0))
    assert len(model.given) == most
    # The end of the last line was drawn with the last id; nothing comes behind it.
    assert text == ("abc\n" * 3)[:most].removesuffix("\n" if most % 4 == 0 else "")


def test_each_line_begins_with_the_prompt() -> None:
    model = Recorder(4)
    assert "".join(write(model, ABC, prompt="b", max_new_tokens=5, lines=True, seed=0)) == "bc\nbc\nbc"
    assert model.given == [[0, 2], [0, 2, 3], [0, 2], [0, 2, 3], [0, 2]]


def test_lines_differ_from_each_other_and_equal_seeds_write_the_same() -> None:
    torch.manual_seed(0)
    model = Recorder(4, strength=0.0)

    def text(seed: int) -> str:
        return "".join(write(model, ABC, max_new_tokens=60, lines=True, seed=seed))

    assert text(1) == text(1) != text(2)
    assert len(set(text(1).split("\n"))) > 3
    assert len(text(1)) <= 60


def test_a_text_as_a_whole_goes_on_behind_a_newline() -> None:
    model = Recorder(4)
    assert "".join(write(model, ABC, max_new_tokens=7, seed=0)) == "abc\nabc"
    assert model.given[0] == [0] and model.given[4] == [1, 2, 3, 0]
    assert "".join(write(model, ABC, prompt="a\nb", max_new_tokens=3, seed=0)) == "a\nbc\na"


def test_an_alphabet_without_a_newline_begins_with_the_prompt_or_what_fills_windows() -> None:
    bare = Alphabet("abc")
    model = Recorder(3)
    assert "".join(write(model, bare, max_new_tokens=4, seed=0)) == "bcab"
    assert model.given[0] == [0]
    model = Recorder(3)
    assert "".join(write(model, bare, prompt="b", max_new_tokens=2, seed=0)) == "bca"
    assert model.given[0] == [1]


@pytest.mark.parametrize("lines", [False, True])
def test_a_tokenizers_text_begins_behind_its_end_of_text_and_ends_with_it(lines: bool) -> None:
    tokenizer = bpetok.train(["abc"], vocab_size=256, special_tokens=["<|endoftext|>"])
    ids = [tokenizer.eot_token, *b"ab"]
    model = Recorder(tokenizer.n_vocab)
    with torch.no_grad():
        model.table.weight.zero_()
        for id_, following in zip(ids, [*ids[1:], ids[0]], strict=True):
            model.table.weight[id_, following] = 50.0
    text = "".join(write(model, tokenizer, max_new_tokens=7, lines=lines, seed=0))
    assert text == ("ab\nab\na" if lines else "ab")
    assert model.given[0] == [tokenizer.eot_token]


def test_half_a_character_is_not_written() -> None:
    model = Recorder(256)
    with torch.no_grad():
        model.table.weight.zero_()
        for id_, following in zip([10, *"é🙂".encode()], [*"é🙂".encode(), 10], strict=True):
            model.table.weight[id_, following] = 50.0
    assert list(write(model, BYTES, max_new_tokens=6, seed=0)) == ["", "é", "🙂"]
    assert list(write(model, BYTES, max_new_tokens=4, seed=0)) == ["", "é", "\ufffd"], "the end is an end"


def test_the_settings_of_the_draws_are_handed_on() -> None:
    model = Recorder(4, strength=0.5)
    settings: list[dict[str, float]] = [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}]
    texts = ["".join(write(model, ABC, max_new_tokens=40, seed=0, **one)) for one in settings]
    assert set(texts) == {"abc\n" * 10}
    batches = [write_batch(model, ABC, [""], max_new_tokens=40, seed=0, **one)[0].text for one in settings]
    assert set(batches) == {"abc\n" * 10}
    flat = Recorder(4, strength=0.0)
    penalised = {"max_new_tokens": 3, "temperature": 0, "repetition_penalty": 1.5, "seed": 0}
    torch.nn.init.ones_(flat.table.weight)
    assert "".join(write(flat, ABC, **penalised)) == write_batch(flat, ABC, [""], **penalised)[0].text == "abc"
    with pytest.raises(ConfigError, match=r"sample: temperature must be finite and at least 0, got -1"):
        list(write(model, ABC, max_new_tokens=4, seed=0, temperature=-1))


def test_a_prompt_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(DataError, match=r"alphabet: character 1 must be one of '\\nabc', got 'Z'"):
        list(write(Recorder(4), ABC, prompt="aZ", max_new_tokens=4, seed=0))


def test_a_prompt_alone_is_written_where_nothing_may_be_drawn() -> None:
    for lines in (False, True):
        assert "".join(write(Recorder(4), ABC, prompt="ab", max_new_tokens=0, lines=lines, seed=0)) == "ab"


def test_a_text_that_is_not_read_to_its_end_leaves_the_model_in_its_mode() -> None:
    model = Recorder(4).train()
    text = write(model, ABC, max_new_tokens=9, lines=True, seed=0)
    assert [next(text), next(text)] == ["", "a"] and not model.training
    text.close()
    assert model.training


def test_neighbouring_seeds_share_no_lines() -> None:
    torch.manual_seed(0)
    model = Recorder(4, strength=0.0)
    one, other = ("".join(write(model, ABC, max_new_tokens=300, lines=True, seed=seed)) for seed in (1, 2))
    long = {line for line in one.split("\n") if len(line) > 5}
    assert long and not long & set(other.split("\n"))
    assert "".join(write(model, ABC, max_new_tokens=9, lines=True, seed=2**63 - 1)), "the highest seed has lines, too"


def test_of_a_prompt_of_several_lines_the_model_sees_the_last_where_lines_are_documents() -> None:
    model = Recorder(4)
    assert "".join(write(model, ABC, prompt="b\na", max_new_tokens=2, lines=True, seed=0)) == "b\nabc"
    assert model.given[0] == [0, 1]


def test_the_documents_of_a_batch_are_the_lines_of_a_text_with_its_seed() -> None:
    torch.manual_seed(0)
    model = Recorder(4, strength=0.0)
    lines = "".join(write(model, ABC, prompt="a", max_new_tokens=300, lines=True, seed=3)).split("\n")[:6]
    samples = write_batch(model, ABC, ["a"] * 6, max_new_tokens=100, lines=True, seed=3)
    assert [one.text for one in samples] == lines and all(one.ended for one in samples)
    assert [one.ids for one in samples] == [tuple(ABC.encode_ordinary(line[1:])) for line in lines]


def test_a_batch_has_a_document_for_each_prompt_whether_it_ended_or_not() -> None:
    model = Recorder(4)
    counts: list[int] = []
    samples = write_batch(model, ABC, ["b", "", "c\na"], max_new_tokens=2, lines=True, seed=0, on_step=counts.append)
    assert [one.text for one in samples] == ["bc", "ab", "c\nabc"]
    assert [one.ended for one in samples] == [True, False, False] and counts == [3, 2]
    whole = write_batch(model, ABC, ["a\nb", "c"], max_new_tokens=3, seed=0)
    assert [one.text for one in whole] == ["a\nbc\na", "c\nab"] and not any(one.ended for one in whole)
    with pytest.raises(ConfigError, match=r"sample: prompts must be one or more, got \[\]"):
        write_batch(model, ABC, [], max_new_tokens=3, seed=0)


def test_a_batch_stops_a_tokenizers_texts_at_their_end_of_text() -> None:
    tokenizer = bpetok.train(["abc"], vocab_size=256, special_tokens=["<|endoftext|>"])
    model = Recorder(tokenizer.n_vocab)
    with torch.no_grad():
        model.table.weight.zero_()
        for id_, following in zip([*b"ab", tokenizer.eot_token], [*b"b", tokenizer.eot_token, *b"a"], strict=True):
            model.table.weight[id_, following] = 50.0
    samples = write_batch(model, tokenizer, ["", "b"], max_new_tokens=7, seed=0)
    assert [(one.text, one.ids, one.ended) for one in samples] == [("ab", tuple(b"ab"), True), ("b", (), True)]


def test_drawn_ids_are_counted_as_they_come() -> None:
    counted: list[int] = []
    text = "".join(write(Recorder(4), ABC, max_new_tokens=10, lines=True, seed=0, on_id=counted.append))
    assert text == "abc\nabc\nab" and counted == [1, 2, 3, 1, 2, 3, 1, 2]


def test_a_model_that_has_diverged_is_a_typed_error() -> None:
    model = Recorder(4)
    with torch.no_grad():
        model.table.weight.fill_(float("nan"))
    with pytest.raises(
        NonFiniteError, match=r"sample: the model's logits must be numbers, got nan or inf\nhint: the run"
    ):
        list(write(model, ABC, max_new_tokens=4, seed=0))
