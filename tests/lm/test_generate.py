"""Drawing ids: each rule against Hugging Face's, a batch against its rows alone, the cache against none."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError, NonFiniteError
from lm.generate import (
    NOT_A_NUMBER,
    Sampling,
    Uniforms,
    _first_above,
    chances,
    draw,
    generate,
    generate_batch,
    row_seeds,
    seen,
)
from lm.models.bigram import Bigram, BigramConfig
from lm.models.contract import LanguageModel
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.rnn import RNN, RNNConfig

V = 40
PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [30, 31, 32]]


def loud(model: LanguageModel) -> LanguageModel:
    """With weights so large that chances differ and the likeliest id changes with the text."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if "norm" in name else 12)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return loud(GPT2(GPT2Config(context=10, layers=2, heads=2, width=16, dropout=0.3), V))


@pytest.fixture(scope="module")
def rnn() -> LanguageModel:
    torch.manual_seed(0)
    return loud(RNN(RNNConfig(context=10, embedding=8, hidden=16), V))


def rows_of(
    model: LanguageModel, prompts: Sequence[Sequence[int]], *, seed: int | Sequence[int] = 0, **settings: object
) -> list[list[int]]:
    drawn: list[list[int]] = [[] for _ in prompts]
    for step in generate_batch(model, prompts, **{"max_new_tokens": 25, "seed": seed, **settings}):
        assert len(step) == len(prompts) and any(id_ is not None for id_ in step)
        for ids, id_ in zip(drawn, step, strict=True):
            ids += [] if id_ is None else [id_]
    return drawn


# ---- rules -----------------------------------------------------------------------------------------------------------


def hugging_face(logits_BV: Tensor, ids_BT: Tensor, sampling: Sampling) -> Tensor:
    """chances_BV by transformers' own processors, in the order in which its `generate` applies them."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, whose rules ours are held against")
    steps = [
        transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        transformers.TemperatureLogitsWarper(sampling.temperature),
        *([transformers.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        *([transformers.TopPLogitsWarper(sampling.top_p)] if sampling.top_p else []),
        *([transformers.MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []),
    ]
    for step in steps:
        logits_BV = step(ids_BT, logits_BV)
    return logits_BV.softmax(dim=1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.4},
        {"top_k": 7},
        {"top_k": 10_000},
        {"top_p": 0.7},
        {"top_p": 0.01},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"top_k": 9, "top_p": 0.6},
        {"top_p": 0.9, "min_p": 0.3},
        {"temperature": 1.8, "top_k": 300, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
)
@pytest.mark.parametrize("vocab", [40, 3000])
def test_chances_are_those_of_hugging_face(settings: dict[str, float], vocab: int) -> None:
    generator = torch.Generator().manual_seed(4)
    # The flat rows need more than the first thousand ids for top-p, the steep ones less.
    logits_BV = torch.randn(6, vocab, generator=generator) * torch.tensor([[0.01], [0.3], [1.0], [2.0], [5.0], [20.0]])
    ids_BT = torch.randint(vocab, (6, 9), generator=generator)
    sampling = Sampling(**settings)
    ours = chances(logits_BV, sampling, seen(ids_BT.tolist(), vocab))
    theirs = hugging_face(logits_BV.clone(), ids_BT, sampling)
    assert torch.equal(ours > 1e-12, theirs > 1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


def test_of_equals_at_the_border_the_lower_ids_stay() -> None:
    logits_BV = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]]).log()
    assert chances(logits_BV, Sampling(top_k=3)).tolist() == [[0.25, 0.5, 0.25, 0, 0]]
    assert chances(logits_BV, Sampling(top_p=0.65)).tolist() == [[0.25, 0.5, 0.25, 0, 0]]
    assert chances(logits_BV, Sampling(top_k=3, top_p=0.7)).tolist() == [
        [pytest.approx(1 / 3), pytest.approx(2 / 3), 0, 0, 0]
    ]
    assert chances(logits_BV, Sampling(temperature=0)).tolist() == [[0, 1, 0, 0, 0]]


def test_ids_fall_where_the_sum_of_the_chances_passes_the_uniform_number() -> None:
    # By hand: chances .5 .3 0 .2, borders at .5, .8 and 1.
    logits_BV = torch.tensor([[0.5, 0.3, 0.0, 0.2]]).log()
    last = 1 - 2**-53
    uniforms = torch.tensor([0, 0.49, 0.51, 0.79, 0.81, last], dtype=torch.float64)
    assert draw(logits_BV.expand(6, 4), uniforms, Sampling()).tolist() == [0, 0, 1, 1, 3, 3]
    zeros_first = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).log()
    for uniform in (0.0, 0.5, last):
        assert draw(zeros_first, torch.tensor([uniform], dtype=torch.float64), Sampling()).tolist() == [2]


def test_rounding_never_leads_to_what_was_ruled_out_nor_past_the_end() -> None:
    parts_BN = torch.tensor([[0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    # As a parallel sum may round: it rises at parts of 0, too.
    upto_BN = torch.tensor([[0.5, 0.5 + 1e-16, 1.0, 1.0 + 1e-15]], dtype=torch.float64)
    upto_BN[0, 1] = torch.nextafter(upto_BN[0, 0], upto_BN[0, 2])
    for target, place in ((0.0, 0), (-1e-17, 0), (0.5, 2), (1.0, 2), (2.0, 2)):
        assert _first_above(upto_BN, parts_BN, torch.tensor([[target]], dtype=torch.float64)).tolist() == [[place]]


def test_the_draws_of_many_uniform_numbers_have_the_chances() -> None:
    # 600 ids are more than two of the groups in which sums are taken.
    logits_BV = torch.randn(1, 600, generator=torch.Generator().manual_seed(1)) * 2
    uniforms_B = torch.arange(5_000, dtype=torch.float64) / 5_000
    for sampling in (Sampling(), Sampling(top_k=5), Sampling(top_p=0.8, min_p=0.1), Sampling(temperature=0.3)):
        drawn = draw(logits_BV.expand(5_000, 600), uniforms_B, sampling).bincount(minlength=600) / 5_000
        torch.testing.assert_close(drawn, chances(logits_BV, sampling)[0], rtol=0, atol=4e-4)


def test_a_row_whose_logits_are_no_numbers_gives_no_id() -> None:
    logits_BV = torch.zeros(5, 3)
    logits_BV[1, 2], logits_BV[2, 0], logits_BV[3], logits_BV[4, 1] = math.nan, math.inf, -math.inf, -math.inf
    for sampling in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.5)):
        ids = draw(logits_BV, torch.full((5,), 0.5, dtype=torch.float64), sampling).tolist()
        assert [id_ == NOT_A_NUMBER for id_ in ids] == [False, True, True, True, False]


# ---- batches ---------------------------------------------------------------------------------------------------------

SETTINGS: list[dict[str, float]] = [
    {},
    {"temperature": 0},
    {"top_k": 5, "top_p": 0.9, "temperature": 1.5},
    {"min_p": 0.05, "repetition_penalty": 1.4},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_cache_changes_no_id_past_the_context_either(model: LanguageModel, settings: dict[str, float]) -> None:
    cached = rows_of(model, PROMPTS, **settings)
    assert all(len(ids) == 25 for ids in cached)
    assert cached == rows_of(model, PROMPTS, use_cache=False, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("which", ["model", "rnn"])
def test_a_row_draws_what_it_draws_alone(
    which: str, settings: dict[str, float], request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(which)
    seeds = [5, 6, 5, 99]
    together = rows_of(model, PROMPTS, seed=seeds, **settings)
    for prompt, seed, drawn in zip(PROMPTS, seeds, together, strict=True):
        assert drawn == list(generate(model, prompt, max_new_tokens=25, seed=seed, **settings))


def test_a_long_prompt_is_read_by_its_end(model: LanguageModel) -> None:
    prompt = [i % V for i in range(31)]
    long, cut = (rows_of(model, [ids, [4]]) for ids in (prompt, prompt[-10:]))
    assert long == cut
    assert rows_of(model, [prompt[-10:], [4]], use_cache=False) == cut


def test_rows_end_apart_and_no_longer_cost(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    free = rows_of(model, PROMPTS, max_new_tokens=9)
    stops = {free[0][4], free[1][1], free[2][6]}
    expected = [ids[: next((i for i, id_ in enumerate(ids) if id_ in stops), len(ids))] for ids in free]
    assert len({len(ids) for ids in expected}) >= 3, "else this test would show little"
    read: list[int] = []
    real = type(model).features
    monkeypatch.setattr(
        type(model), "features", lambda self, ids_BT, *rest: read.append(len(ids_BT)) or real(self, ids_BT, *rest)
    )
    assert rows_of(model, PROMPTS, max_new_tokens=9, stop_ids=stops) == expected
    assert read == [4, *(n for n in (sum(len(ids) > step for ids in expected) for step in range(8)) if n)]


def test_all_rows_may_end_at_the_first_step(model: LanguageModel) -> None:
    assert list(generate_batch(model, PROMPTS, max_new_tokens=5, stop_ids=range(V), seed=0)) == []
    assert list(generate_batch(model, PROMPTS, max_new_tokens=0, seed=0)) == []


def test_no_id_is_read_twice_before_the_context_is_full(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    real = type(model).features
    monkeypatch.setattr(
        type(model), "features", lambda self, ids_BT, *rest: widths.append(ids_BT.shape[1]) or real(self, ids_BT, *rest)
    )
    list(generate(model, [1, 2, 3], max_new_tokens=10, seed=0))
    assert widths == [3, 1, 1, 1, 1, 1, 1, 1, 10, 10]
    widths.clear()
    list(generate(model, [1, 2, 3], max_new_tokens=3, seed=0, use_cache=False))
    assert widths == [3, 4, 5]


def test_the_repetition_penalty_counts_the_prompt_and_what_was_drawn() -> None:
    # All logits are equal and positive, so with a penalty the greedy row takes each id once, the lowest first.
    flat = Bigram(BigramConfig(context=2), 6)
    torch.nn.init.ones_(flat.table.weight)
    settings = {"max_new_tokens": 4, "temperature": 0, "seed": 0}
    assert list(generate(flat, [0, 2], repetition_penalty=1.1, **settings)) == [1, 3, 4, 5]
    assert list(generate(flat, [0, 2], **settings)) == [0, 0, 0, 0]
    assert rows_of(flat, [[0, 2], [5]], repetition_penalty=1.1, **settings) == [[1, 3, 4, 5], [0, 1, 2, 3]]


def test_the_seed_of_a_batch_is_its_first_rows_and_the_others_are_drawn_from_it(model: LanguageModel) -> None:
    seeds = [seed for seed, _ in zip(row_seeds(7), range(4), strict=False)]
    assert seeds[0] == 7 and len(set(seeds)) == 4
    assert rows_of(model, PROMPTS, seed=7) == rows_of(model, PROMPTS, seed=seeds)
    assert rows_of(model, PROMPTS[:2], seed=7) == rows_of(model, PROMPTS, seed=7)[:2]
    neighbour = [seed for seed, _ in zip(row_seeds(8), range(4), strict=False)]
    assert not set(seeds) & set(neighbour)
    same = rows_of(model, [[1]] * 4, seed=7)
    assert len({tuple(ids) for ids in same}) == 4


def test_uniform_numbers_are_the_same_alone_in_a_batch_and_ahead() -> None:
    batch, alone = Uniforms([3, 4]), Uniforms([4])
    ahead = Uniforms([3, 4]).first(150)
    for step in range(150):
        assert torch.equal(batch.at(step)[1:], alone.at(step)) and torch.equal(batch.at(step), ahead[step])
    assert ahead.dtype == torch.float64 and ahead.min() >= 0 and ahead.max() < 1 and len(ahead.unique()) == 300
    assert Uniforms([1]).first(0).shape == (0, 1)


def test_the_draws_have_the_models_chances_over_many_rows() -> None:
    # Chances .5 .3 .15 .05 after every id; 3000 rows of one draw, each count within four standard deviations.
    expected = [0.5, 0.3, 0.15, 0.05]
    model = Bigram(BigramConfig(context=2), 4)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(expected).log().expand(4, 4))
    drawn = Counter(ids[0] for ids in rows_of(model, [[0]] * 3000, max_new_tokens=1))
    for id_, chance in enumerate(expected):
        assert abs(drawn[id_] - 3000 * chance) <= 4 * math.sqrt(3000 * chance * (1 - chance)), id_


def test_the_models_mode_is_put_back_also_when_the_iterator_is_closed(model: LanguageModel) -> None:
    model.train()
    steps = generate_batch(model, PROMPTS, max_new_tokens=5, seed=0)
    next(steps)
    assert not model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    steps.close()
    assert model.training
    rows_of(model, PROMPTS)
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, r"prompts must be one or more, got \[\]"),
        ({"prompts": [[1], []]}, r"prompt_ids must be one id or more, got \[\]\nhint: begin with the tokenizer's"),
        ({"prompts": [[1], [V]]}, r"prompt_ids must be in \[0, 40\), got \[40\]"),
        ({"min_p": 1.5}, r"min_p must be in \[0, 1\], got 1.5"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be finite and above 0, got 0.0"),
        ({"repetition_penalty": math.inf}, r"repetition_penalty must be finite and above 0, got inf"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*63\), got -1"),
        ({"seed": [1]}, r"seed must be one number, or 2, one for each prompt, got \[1\]"),
        ({"seed": [1, 2**63]}, r"seed must be in \[0, 2\*\*63\), got \[1, 9223372036854775808\]"),
    ],
)
def test_impossible_settings_are_refused_at_the_call(
    model: LanguageModel, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match="sample: " + message):
        generate_batch(model, **{"prompts": [[1], [2, 3]], "max_new_tokens": 1, "seed": 0, **settings})


def test_a_model_that_has_diverged_is_a_typed_error_and_its_mode_is_put_back() -> None:
    model = Bigram(BigramConfig(context=2), 4).train()
    with torch.no_grad():
        model.table.weight[2] = math.nan
    assert len(list(generate_batch(model, [[0], [1]], max_new_tokens=1, seed=0))) == 1
    with pytest.raises(NonFiniteError, match=r"logits must be numbers, got nan or inf\nhint: the run has diverged"):
        list(generate_batch(model, [[0], [2]], max_new_tokens=1, seed=0))
    assert model.training
