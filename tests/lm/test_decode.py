"""The static decoder against `lm.generate`, which is what it means."""

import math

import pytest
import torch

from lm.decode import CHUNK, StaticDecoder, decoding_copy
from lm.errors import ConfigError, NonFiniteError
from lm.generate import Sampling, generate_batch
from lm.models.contract import CausalTransformer
from lm.models.gpt2 import GPT2, GPT2Config

V, CONTEXT = 40, 64
PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7]]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_k=7, temperature=1.3),
    Sampling(top_p=0.8, repetition_penalty=1.3),
    Sampling(min_p=0.1),
]


@pytest.fixture(scope="module")
def model() -> CausalTransformer:
    torch.manual_seed(0)
    made = GPT2(GPT2Config(context=CONTEXT, layers=2, heads=2, width=16, dropout=0.3), V)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.mul_(1 if "norm" in name else 12)
    return made


def expected(
    model: CausalTransformer, prompts: list[list[int]], sampling: Sampling, **settings: object
) -> list[list[int | None]]:
    return list(generate_batch(model, prompts, **vars(sampling), **settings))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_its_ids_are_those_of_generate_batch(model: CausalTransformer, sampling: Sampling) -> None:
    decoder = StaticDecoder(model, rows=3, sampling=sampling, compiled=False)
    for steps, seed in ((58, 0), (CHUNK, 1), (CHUNK + 1, 2), (1, 3), (0, 4)):
        drawn = list(decoder.generate(PROMPTS, max_new_tokens=steps, seed=seed))
        assert drawn == expected(model, PROMPTS, sampling, max_new_tokens=steps, seed=seed)
        assert len(drawn) == steps


def test_rows_end_apart_and_nothing_is_given_out_behind_an_end(model: CausalTransformer) -> None:
    free = expected(model, PROMPTS, Sampling(), max_new_tokens=40, seed=0)
    stops = {free[20][0], free[3][1], free[33][2]}
    settings = {"max_new_tokens": 40, "seed": 0, "stop_ids": stops}
    drawn = list(StaticDecoder(model, rows=3, compiled=False).generate(PROMPTS, **settings))
    assert drawn == expected(model, PROMPTS, Sampling(), **settings)
    assert None in drawn[-1] and drawn[-1].count(None) < 3


# torch's compiler warns of torch's own code when it is imported.
compiles = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_compiled_step_draws_the_same_ids(model: CausalTransformer, sampling: Sampling, rows: int) -> None:
    torch.compiler.reset()
    decoder = StaticDecoder(model, rows=rows, sampling=sampling)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for steps, seed in ((50, 0), (20, 1)):
            drawn = list(decoder.generate(PROMPTS[-rows:], max_new_tokens=steps, seed=seed))
            assert drawn == expected(model, PROMPTS[-rows:], sampling, max_new_tokens=steps, seed=seed)


def test_the_copy_has_its_own_weights_and_the_models_logits(model: CausalTransformer) -> None:
    ids_BT = torch.tensor(PROMPTS[1:2])
    model.train()
    with torch.no_grad():
        for unfused in (False, True):
            copied = decoding_copy(model, unfused=unfused)
            assert not copied.training and model.training
            assert not any(parameter.requires_grad for parameter in copied.parameters())
            torch.testing.assert_close(copied(ids_BT), model.eval()(ids_BT), rtol=1e-5, atol=1e-5)
            copied.head_PC.zero_()
            assert model.head_PC.abs().sum() > 0
            model.train()
        assert decoding_copy(model, dtype=torch.bfloat16).head_PC.dtype == torch.bfloat16


def test_what_cannot_be_done_is_refused_at_the_call(model: CausalTransformer) -> None:
    decoder = StaticDecoder(model, rows=2, capacity=8, compiled=False)
    settings = {"max_new_tokens": 1, "seed": 0}
    with pytest.raises(ConfigError, match=r"decode: prompts must be 2, as the decoder was made for, got 3"):
        decoder.generate(PROMPTS, **settings)
    with pytest.raises(ConfigError, match=r"prompt_ids must be in \[0, 40\), got \[40\]"):
        decoder.generate([[1], [V]], **settings)
    with pytest.raises(
        ConfigError, match=r"decode: prompt and new ids must be at most 9 together, got 10\nhint: lm.gen"
    ):
        decoder.generate(PROMPTS[:2], max_new_tokens=3, seed=0)
    with pytest.raises(ConfigError, match=r"sample: seed must be one number, or 2, one for each prompt, got \[1\]"):
        decoder.generate(PROMPTS[:2], max_new_tokens=1, seed=[1])
    with pytest.raises(ConfigError, match=r"cache: capacity must be at least 1 and at most the context of 64, got 65"):
        StaticDecoder(model, rows=2, capacity=65)
    assert len(list(decoder.generate(PROMPTS[:2], max_new_tokens=2, seed=0))) == 2


def test_two_iterators_at_a_time_are_refused(model: CausalTransformer) -> None:
    decoder = StaticDecoder(model, rows=1, compiled=False)
    one = decoder.generate([[1]], max_new_tokens=60, seed=0)
    next(one)
    next(decoder.generate([[1]], max_new_tokens=60, seed=0))
    with pytest.raises(
        ConfigError, match=r"iterators of a decoder must be read one after the other, got 'two at a time'"
    ):
        list(one)


def test_a_model_that_has_diverged_is_a_typed_error() -> None:
    model = GPT2(GPT2Config(context=8, layers=1, heads=1, width=4), V)
    with torch.no_grad():
        model.norm.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"logits must be numbers, got nan or inf"):
        next(StaticDecoder(model, rows=1, compiled=False).generate([[1]], max_new_tokens=2, seed=0))


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@compiles
@pytest.mark.gpu
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("rows", "compiled"), [(1, False), (3, False), (1, True), (3, True)])
def test_replayed_graphs_draw_the_ids_of_generate_batch(
    model: CausalTransformer, sampling: Sampling, rows: int, compiled: bool
) -> None:
    model = decoding_copy(model).cuda()
    decoder = StaticDecoder(model, rows=rows, sampling=sampling, dtype=torch.float32, compiled=compiled)
    for steps, seed in ((57, 0), (CHUNK, 1), (20, 2)):
        drawn = list(decoder.generate(PROMPTS[-rows:], max_new_tokens=steps, seed=seed))
        assert drawn == expected(model, PROMPTS[-rows:], sampling, max_new_tokens=steps, seed=seed)


@pytest.mark.gpu
def test_on_cuda_the_weights_are_bfloat16_unless_told(model: CausalTransformer) -> None:
    model = decoding_copy(model).cuda()
    decoder = StaticDecoder(model, rows=3, sampling=Sampling(temperature=0), compiled=False)
    assert decoder._model.head_PC.dtype == torch.bfloat16
    drawn = list(decoder.generate(PROMPTS, max_new_tokens=30, seed=0))
    assert len(drawn) == 30 and all(0 <= id_ < V for step in drawn for id_ in step if id_ is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("use_cache", [False, True])
def test_generate_batch_on_cuda_draws_the_ids_of_the_cpu(model: CausalTransformer, use_cache: bool) -> None:
    settings = {"max_new_tokens": CONTEXT + 10, "seed": 0, "use_cache": use_cache}
    here = expected(model, PROMPTS, Sampling(top_k=9), **settings)
    there = expected(decoding_copy(model).cuda(), PROMPTS, Sampling(top_k=9), **settings)
    # Sums round otherwise there: once in a while an id may fall otherwise, and what follows it.
    assert here[:20] == there[:20]
