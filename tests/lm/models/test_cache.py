"""Both caches against the forward pass without one: the same logits at every position, however a row is fed."""

import random
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError
from lm.models import LADDER, Rung
from lm.models.cache import KeyValueCache, StaticCache, _mask
from lm.models.contract import CausalTransformer
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.modern import Modern, ModernConfig

V, CONTEXT = 37, 24
Cache = KeyValueCache | StaticCache
Make = Callable[..., Cache]


RUNGS: dict[str, Callable[[], CausalTransformer]] = {
    "gpt2": lambda: GPT2(GPT2Config(context=CONTEXT, layers=3, heads=2, width=16, dropout=0.2), V),
    "modern": lambda: Modern(ModernConfig(context=CONTEXT, layers=3, heads=2, width=16), V),
}


@pytest.fixture(scope="module", params=RUNGS)
def model(request: pytest.FixtureRequest) -> CausalTransformer:
    """Untrained, but with weights so large that positions and attention count."""
    torch.manual_seed(0)
    made = RUNGS[request.param]().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("project.weight"):
                torch.nn.init.normal_(parameter, std=0.2)  # the modern rung's begin at zero
            elif "norm" not in name:
                parameter.mul_(8)
    return made


def test_every_rung_that_can_have_a_cache_is_here() -> None:
    found = {name for name, rung in LADDER.items() if issubclass(model_class(rung), CausalTransformer)}
    assert found == RUNGS.keys()


def model_class(rung: Rung) -> type:
    found: type = getattr(import_module(rung.module), rung.model_name)
    return found


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def growing(model: CausalTransformer, *, rows: int, starts: list[int] | None = None, **settings: int) -> Cache:
    return KeyValueCache.for_model(model, rows=rows, starts=starts or (), **settings)


def static(model: CausalTransformer, *, rows: int, starts: list[int] | None = None, **settings: int) -> Cache:
    cache = StaticCache(model, rows=rows, **settings)
    cache.clear(starts or ())
    return cache


both = pytest.mark.parametrize("make", [growing, static])


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def fed(model: CausalTransformer, cache: Cache, ids_BT: Tensor, pieces: list[int]) -> Tensor:
    """logits_BTV of a row fed in pieces of these sizes."""
    assert sum(pieces) == ids_BT.shape[1]
    return torch.cat([model.logits(model.features(part, cache)) for part in ids_BT.split(pieces, dim=1)], dim=1)


def random_pieces(total: int, seed: int) -> list[int]:
    draws, pieces = random.Random(seed), []
    while sum(pieces) < total:
        pieces.append(draws.randint(1, min(7, total - sum(pieces))))
    return pieces


def check(got_TV: Tensor, expected_TV: Tensor) -> None:
    torch.testing.assert_close(got_TV, expected_TV, rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize(
    "pieces",
    [[CONTEXT], [1] * CONTEXT, [5] + [1] * (CONTEXT - 5), *(random_pieces(CONTEXT, seed) for seed in range(6))],
)
def test_every_position_has_the_logits_of_a_pass_without_a_cache(
    model: CausalTransformer, make: Make, pieces: list[int]
) -> None:
    ids_BT = random_ids(3, CONTEXT)
    expected_BTV = model(ids_BT)
    assert expected_BTV.std(dim=1).mean() > 0.1, "else this test would show little"
    check(fed(model, make(model, rows=3), ids_BT, pieces), expected_BTV)


@both
@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 5, 1, 1, 6], *(random_pieces(20, seed) for seed in range(4))])
def test_padding_on_the_left_changes_no_logits_of_a_row(
    model: CausalTransformer, make: Make, pieces: list[int]
) -> None:
    # The third row's padding is whole pieces of its own, where pieces are short.
    starts = [0, 3, 13, 19]
    ids_BT = random_ids(4, 20)
    logits_BTV = fed(model, make(model, rows=4, starts=starts), ids_BT, pieces)
    for row, start in enumerate(starts):
        check(logits_BTV[row, start:], model(ids_BT[row : row + 1, start:])[0])


def test_no_row_of_a_mask_is_empty_as_some_kernels_make_nan_of_that() -> None:
    mask_B1TS = _mask(torch.arange(2, 6), 8, torch.tensor([0, 3, 5, 7]))
    assert mask_B1TS.shape == (4, 1, 4, 8) and bool(mask_B1TS.any(dim=3).all())
    assert mask_B1TS[2, 0].int().tolist() == [
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
    ]


@both
def test_what_stands_in_the_padding_is_not_read(model: CausalTransformer, make: Make) -> None:
    ids_BT = random_ids(2, 12)
    other_BT = ids_BT.clone()
    other_BT[1, :5] = (other_BT[1, :5] + 1) % V
    pieces = [9, 1, 1, 1]
    one, other = (fed(model, make(model, rows=2, starts=[0, 5]), ids, pieces) for ids in (ids_BT, other_BT))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1, 5:], other[1, 5:])
    assert not torch.equal(one[1, :5], other[1, :5])


def test_the_same_step_has_the_same_bits_in_a_cache_of_any_capacity(model: CausalTransformer) -> None:
    ids_BT = random_ids(1, 9)
    one, other = (fed(model, growing(model, rows=1, capacity=size), ids_BT, [4, 1, 1, 1, 1, 1]) for size in (9, 24))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 2], [2, 3], [3], [1]])
@pytest.mark.parametrize("starts", [[0, 0, 0, 0], [2, 0, 7, 4]])
def test_rows_that_are_kept_go_on_as_if_they_had_been_alone(
    model: CausalTransformer, kept: list[int], starts: list[int]
) -> None:
    ids_BT = random_ids(4, 16)
    cache = KeyValueCache.for_model(model, rows=4, starts=starts, capacity=16)
    fed(model, cache, ids_BT[:, :9], [8, 1])
    cache.keep(kept)
    assert cache.rows == len(kept) and cache.length == 9 - min(starts[row] for row in kept)
    logits_BTV = fed(model, cache, ids_BT[kept, 9:], [1, 2, 3, 1])
    for place, row in enumerate(kept):
        check(logits_BTV[place], model(ids_BT[row : row + 1, starts[row] :])[0, 9 - starts[row] :])


def test_columns_that_nobody_needs_are_given_back(model: CausalTransformer) -> None:
    # A row of 6 behind 10 columns of padding has the whole context before it again, once it is alone.
    ids_BT = random_ids(2, 16)
    cache = KeyValueCache.for_model(model, rows=2, starts=[0, 10])
    fed(model, cache, ids_BT, [16])
    cache.keep([1])
    rest_BT = random_ids(1, CONTEXT - 6, seed=2)
    logits_BTV = fed(model, cache, rest_BT, [1] * (CONTEXT - 6))
    assert cache.length == cache.capacity == CONTEXT
    check(logits_BTV[0], model(torch.cat([ids_BT[1:, 10:], rest_BT], dim=1))[0, 6:])


def test_no_mask_is_made_where_none_is_needed(model: CausalTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[bool] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Tensor, attn_mask: Tensor | None, **settings: float) -> Tensor:
        masks.append(attn_mask is not None)
        return real(*args, attn_mask=attn_mask, **settings)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)

    def masked(starts: list[int], pieces: list[int]) -> list[bool]:
        masks.clear()
        fed(model, growing(model, rows=2, starts=starts), random_ids(2, sum(pieces)), pieces)
        assert masks == [one for one in masks[:: model.layers] for _ in range(model.layers)], "alike in all layers"
        return masks[:: model.layers]

    assert masked([0, 0], [6, 1, 1]) == [False, False, False]
    assert masked([0, 0], [3, 2, 1]) == [False, True, False]
    assert masked([0, 2], [6, 1]) == [True, True]


@both
def test_a_cache_that_was_cleared_or_made_anew_knows_nothing_of_before(model: CausalTransformer, make: Make) -> None:
    ids_BT = random_ids(2, 10)
    cache = make(model, rows=2)
    fed(model, cache, random_ids(2, 17, seed=5), [17])
    cache = make(model, rows=2) if isinstance(cache, KeyValueCache) else cache
    if isinstance(cache, StaticCache):
        cache.clear()
    check(fed(model, cache, ids_BT, [6, 1, 3]), model(ids_BT))


def test_a_cache_has_the_dtype_of_the_weights() -> None:
    torch.manual_seed(0)
    model = RUNGS["gpt2"]().eval().to(torch.bfloat16)
    ids_BT = random_ids(2, 9)
    for make in (growing, static):
        logits_BTV = fed(model, make(model, rows=2), ids_BT, [5, 1, 3])
        assert logits_BTV.dtype == torch.bfloat16
        torch.testing.assert_close(logits_BTV, model(ids_BT), rtol=0.05, atol=0.05)


@both
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, r"cache: rows must be at least 1, got 0"),
        ({"rows": 1, "capacity": 25}, r"cache: capacity must be at least 1 and at most the context of 24, got 25"),
        ({"rows": 1, "capacity": 0}, r"cache: capacity must be at least 1 and at most the context of 24, got 0"),
    ],
)
def test_an_impossible_cache_is_refused(
    model: CausalTransformer, make: Make, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(model, **settings)


def test_what_a_cache_cannot_take_is_refused(model: CausalTransformer) -> None:
    with pytest.raises(ConfigError, match=r"cache: starts must be 2, one for each row, got 3"):
        growing(model, rows=2, starts=[1, 0, 0])
    with pytest.raises(ConfigError, match=r"cache: starts must be in \[0, 4\), got \[4\]"):
        growing(model, rows=1, starts=[4], capacity=4)
    cache = growing(model, rows=2, capacity=5)
    fed(model, cache, random_ids(2, 4), [4])
    with pytest.raises(ConfigError, match=r"cache: columns must be at most the capacity of 5, got 6"):
        model.features(random_ids(2, 2), cache)
    with pytest.raises(ConfigError, match=r"cache: rows must be 2, as it was made for, got 1"):
        model.features(random_ids(1, 1), cache)
    assert model.features(random_ids(2, 1), cache).shape == (2, 1, 16), "what was refused left no trace"


def test_gradients_are_refused(model: CausalTransformer) -> None:
    with torch.inference_mode(False), pytest.raises(ConfigError, match=r"gradients must be switched off.*\nhint: read"):
        model.features(random_ids(1, 2).clone(), growing(model, rows=1))
