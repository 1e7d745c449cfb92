import math
import os
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpetok.errors import DataError
from lm.autograd import Value
from lm.errors import ConfigError
from lm.microgpt import Adam, Matrix, MicroGPT, MicroGPTConfig, rms_norm, softmax, train

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SMALL = MicroGPTConfig(context=6, width=4, heads=2, layers=2)


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The names of names.txt, shuffled."""
    path = Path(os.environ.get("BPETOK_DATA", "")) / "names.txt"
    if "BPETOK_DATA" not in os.environ or not path.is_file():
        pytest.skip("needs names.txt in the folder that BPETOK_DATA names")
    names = path.read_text().split()
    random.Random(42).shuffle(names)
    return names


def tensor(rows: Matrix) -> Tensor:
    return torch.tensor([[x.data for x in row] for row in rows], dtype=torch.float64, requires_grad=True)


def torch_loss(model: MicroGPT, name: str) -> tuple[Tensor, list[Tensor]]:
    """The same loss, written with tensors, and its leaves in the model's order."""
    token_VC, position_TC, head_VC = tensor(model.token_VC), tensor(model.position_TC), tensor(model.head_VC)
    leaves = [token_VC, position_TC]
    ids_T = torch.tensor(model.ids_of(name))
    time, width, heads = len(ids_T) - 1, model.config.width, model.config.heads

    def norm(x_TC: Tensor) -> Tensor:
        return x_TC / (x_TC.square().mean(1, keepdim=True) + 1e-5).sqrt()

    x_TC = norm(token_VC[ids_T[:-1]] + position_TC[:time])
    for block in model.blocks:
        matrices = [block.query_CC, block.key_CC, block.value_CC, block.project_CC, block.expand_4CC, block.shrink_C4C]
        query, key, value, project, expand, shrink = weights = [tensor(weight) for weight in matrices]
        leaves += weights
        h_TC = norm(x_TC)
        q_HTD, k_HTD, v_HTD = ((h_TC @ w.T).view(time, heads, -1).transpose(0, 1) for w in (query, key, value))
        y_HTD = F.scaled_dot_product_attention(q_HTD, k_HTD, v_HTD, is_causal=True)
        x_TC = x_TC + y_HTD.transpose(0, 1).reshape(time, width) @ project.T
        x_TC = x_TC + torch.relu(norm(x_TC) @ expand.T) @ shrink.T
    return F.cross_entropy(x_TC @ head_VC.T, ids_T[1:]), [*leaves, head_VC]


def test_it_has_4192_parameters_by_its_formula() -> None:
    for config, vocab in [(MicroGPTConfig(), 27), (SMALL, 27)]:
        model = MicroGPT([ALPHABET[: config.context]], config) if vocab != 27 else MicroGPT([ALPHABET], config)
        width = config.width
        formula = 2 * vocab * width + config.context * width + config.layers * 12 * width**2
        assert len(set(model.parameters())) == len(list(model.parameters())) == formula
    assert len(list(MicroGPT([ALPHABET]).parameters())) == 4192


@pytest.mark.parametrize("config", [MicroGPTConfig(), SMALL])
def test_loss_and_gradients_are_torch_s(config: MicroGPTConfig) -> None:
    model = MicroGPT(["ava", ALPHABET], config)
    loss = model.loss("ava")
    loss.backward()
    expected, leaves = torch_loss(model, "ava")
    expected.backward()
    assert loss.data == pytest.approx(expected.item(), abs=1e-12)
    gradients = torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None])
    assert [p.grad for p in model.parameters()] == pytest.approx(gradients.tolist(), abs=1e-9, rel=1e-9)
    assert gradients.abs().max() > 0.01


def test_the_update_is_torch_s_adam() -> None:
    ours = [Value(1.0), Value(-2.0)]
    theirs = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    adam, torch_adam = Adam(iter(ours), 0.1), torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        (ours[0] ** 2 * ours[1] + ours[1] ** 3).backward()
        adam.step()
        torch_adam.zero_grad()
        (theirs[0] ** 2 * theirs[1] + theirs[1] ** 3).backward()
        torch_adam.step()
    assert [p.data for p in ours] == pytest.approx(theirs.tolist(), abs=1e-12)
    assert [p.grad for p in ours] == [0, 0]


def test_the_first_loss_is_near_the_log_of_27_and_falls() -> None:
    losses = list(train(MicroGPT([ALPHABET]), ["emma", "olivia", "ava"], steps=12))
    assert losses[0] == pytest.approx(math.log(27), abs=0.3)
    assert sum(losses[9:]) < 0.7 * sum(losses[:3])  # the same three names


@pytest.mark.slow
def test_after_200_names_the_loss_is_well_below_that_of_guessing(names: list[str]) -> None:
    losses = list(train(MicroGPT([ALPHABET]), names, steps=200))
    assert sum(losses[-50:]) / 50 < 2.65  # 2.48 when it was written; by the letters' frequencies alone 2.82


def test_one_name_is_learnt_by_heart_and_said_again() -> None:
    model = MicroGPT(["emma"], MicroGPTConfig(context=5, width=8, heads=2))
    losses = list(train(model, ["emma"], steps=40, rate=0.02))
    assert losses[0] == pytest.approx(math.log(4), abs=0.3) and losses[-1] < 0.05
    assert [model.sample(random.Random(seed)) for seed in range(3)] == ["emma"] * 3


def test_a_position_sees_itself_and_what_stands_before_it_alone() -> None:
    model = MicroGPT([ALPHABET], SMALL)
    one, other = model([0, 5, 9, 3]), model([0, 5, 9, 7])
    for t in range(4):
        assert ([x.data for x in one[t]] == [x.data for x in other[t]]) == (t < 3)
    assert [x.data for x in model([0, 5, 2])[2]] != [x.data for x in model([0, 6, 2])[2]]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, third = (MicroGPT(["ava"], SMALL, seed=seed).loss("ava").data for seed in (1, 1, 2))
    assert first == second != third


class NeverTheEnd(random.Random):
    """Draws the first letter, whatever its chance."""

    def choices(self, *_: object, **__: object) -> list[int]:  # type: ignore[override]
        return [1]


def test_a_sample_ends_at_the_context() -> None:
    assert MicroGPT(["ab"], SMALL).sample(NeverTheEnd()) == "a" * SMALL.context


def test_rms_norm_and_softmax_computed_by_hand() -> None:
    assert [x.data for x in rms_norm([Value(3.0), Value(-4.0)])] == pytest.approx([3 / 12.5**0.5, -4 / 12.5**0.5], 1e-5)
    assert [x.data for x in softmax([Value(800.0), Value(800.0)])] == [0.5, 0.5]


def test_wrong_names_and_ids_are_refused() -> None:
    for wrong in ([], ["ava", ""], ["a.b"]):
        with pytest.raises(DataError, match=r"^MicroGPT: names must be one or more, none empty, none with '\.', got"):
            MicroGPT(wrong)
    model = MicroGPT(["ava"], SMALL)
    with pytest.raises(DataError, match=r"^MicroGPT: characters must be of 'av', got 'e'"):
        model.loss("eva")
    with pytest.raises(DataError, match=r"^MicroGPT: a name must have under 6 characters, got 6"):
        model.loss("avavav")
    for ids in ([], [3], [-1], [0] * 7):
        with pytest.raises(DataError, match=r"^MicroGPT: ids must be 1 to 6 ids below 3, got \["):
            model(ids)
    with pytest.raises(ConfigError, match=r"^MicroGPTConfig: width must be a multiple of heads = 4, got 6"):
        MicroGPTConfig(width=6)
    with pytest.raises(ConfigError, match=r"^MicroGPTConfig: layers must be at least 1, got 0"):
        MicroGPTConfig(layers=0)
