import math
from collections.abc import Callable

import pytest
import torch

from lm.config import Config
from lm.errors import ConfigError, NonFiniteError
from lm.models import LADDER
from lm.models.bigram import Bigram, BigramConfig
from lm.models.contract import LanguageModel
from lm.models.gpt2 import GPT2, GPT2Config
from lm.stretches import Stretch, score

V = 9


def drawn(seed: int, count: int, low: int, high: int) -> list[int]:
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def stretches(most: int) -> list[Stretch]:
    """Stretches of all lengths up to `most`, with as many ids to predict as fits the test."""
    found = []
    for length in range(2, most + 1):
        ids = drawn(length, length, 0, V)
        found += [Stretch(ids, first) for first in (1, length // 2 or 1, length - 1)]
    return found


def one_by_one(model: LanguageModel, stretch: Stretch) -> tuple[float, bool]:
    """Each id by itself, from the ids before it: slow, and what the batches are held against."""
    nats, greedy = 0.0, True
    for place in range(stretch.first, len(stretch.ids)):
        logits_V = model(torch.tensor([stretch.ids[:place]]))[0, -1]
        nats -= float(logits_V.double().log_softmax(dim=0)[stretch.ids[place]])
        greedy &= int(logits_V.argmax()) == stretch.ids[place]
    return nats, greedy


@pytest.mark.parametrize("rung", LADDER)
def test_of_every_rung_a_batch_of_stretches_scores_as_each_id_by_itself(
    small_run: Callable[..., Config], rung: str
) -> None:
    torch.manual_seed(0)
    model = LADDER[rung].build(small_run(rung).model, V).train()
    asked = stretches(model.context + 1)
    scores = score(model, asked, tokens=40, greedy=True)
    assert model.training, "the mode is put back"
    model.eval()
    with torch.inference_mode():
        expected = [one_by_one(model, stretch) for stretch in asked]
    assert [one.nats for one in scores] == pytest.approx([nats for nats, _ in expected], abs=1e-4)
    assert [one.greedy for one in scores] == [greedy for _, greedy in expected]
    assert not any(one.cut for one in scores)


def test_the_figures_are_those_computed_by_hand() -> None:
    model = Bigram(BigramConfig(context=3), 4)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]).log().expand(4, 4))
    half, mixed, nothing = score(
        model, [Stretch([3, 0, 0], 1), Stretch([3, 1, 0, 2], 2), Stretch([1, 2], 2)], tokens=9, greedy=True
    )
    assert half.nats == pytest.approx(2 * math.log(2)) and half.greedy
    assert mixed.nats == pytest.approx(4 * math.log(2)) and not mixed.greedy, "0 is the likeliest, 2 is not"
    assert (nothing.nats, nothing.greedy) == (0.0, True), "no ids to predict"


def gpt2(context: int) -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(context=context, layers=2, heads=2, width=16), V).eval()


@pytest.mark.parametrize("tokens", [1, 7, 64, 10**6])
def test_how_many_ids_go_at_once_changes_no_score(tokens: int) -> None:
    model, asked = gpt2(8), stretches(20)
    alone = [score(model, [stretch], tokens=1, greedy=True)[0] for stretch in asked]
    together = score(model, asked, tokens=tokens, greedy=True)
    assert [one.nats for one in together] == pytest.approx([one.nats for one in alone], abs=1e-4)
    assert [(one.greedy, one.cut) for one in together] == [(one.greedy, one.cut) for one in alone]


def test_a_context_too_long_loses_its_beginning_and_says_so() -> None:
    model, ids = gpt2(8), drawn(1, 12, 0, V)
    (long,) = score(model, [Stretch(ids, 10)], tokens=64)
    (kept,) = score(model, [Stretch(ids[3:], 7)], tokens=64)  # 9 ids, 8 of them to read
    assert long.nats == pytest.approx(kept.nats, abs=1e-6)
    assert (long.cut, kept.cut) == (True, False)
    assert long.greedy is None, "it was not asked"


def test_more_ids_to_predict_than_the_context_are_taken_a_context_at_a_time() -> None:
    # As lm-evaluation-harness describes it: inputs P012, 3456 and, for 8 and 9 with a full context before them, 5678.
    model, ids = gpt2(4), [0, *drawn(2, 10, 0, V)]
    (whole,) = score(model, [Stretch(ids, 1)], tokens=64)
    parts = [Stretch(ids[:5], 1), Stretch(ids[4:9], 1), Stretch(ids[6:], 3)]
    assert whole.nats == pytest.approx(sum(one.nats for one in score(model, parts, tokens=64)), abs=1e-5)


def test_progress_is_told_after_each_batch_and_ends_with_all() -> None:
    told: list[tuple[int, int]] = []
    score(gpt2(8), stretches(9), tokens=16, on_progress=lambda done, total: told.append((done, total)))
    assert len(told) > 1 and told == sorted(told) and told[-1] == (24, 24)


def test_no_stretches_have_no_scores() -> None:
    assert score(gpt2(8), [], tokens=64) == []


@pytest.mark.parametrize("first", [0, 4])
def test_a_stretch_without_a_context_is_refused(first: int) -> None:
    with pytest.raises(ConfigError, match=rf"score: first must be in \[1, 3\], the ids of its stretch, got {first}"):
        score(gpt2(8), [Stretch([1, 2, 3], first)], tokens=64)


def test_weights_that_are_no_numbers_have_no_score() -> None:
    model = gpt2(8)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="score: losses must be finite, got nan or infinity"):
        score(model, [Stretch([1, 2], 1)], tokens=64)


@pytest.mark.gpu
def test_on_cuda_the_scores_are_those_of_the_cpu() -> None:
    model, asked = gpt2(8), stretches(20)
    expected = score(model, asked, tokens=64)
    model.to("cuda")
    exact = score(model, asked, tokens=64)
    assert [one.nats for one in exact] == pytest.approx([one.nats for one in expected], abs=1e-3)
    half = score(model, asked, tokens=64, dtype=torch.bfloat16)
    assert [one.nats for one in half] == pytest.approx([one.nats for one in expected], rel=0.05, abs=0.05)
