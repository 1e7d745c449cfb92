import math

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.modern import HEAD_STD, Modern, ModernConfig, Turning, rms_norm
from lm.models.reading import PAST, Past

SMALL = ModernConfig(context=16, layers=3, heads=2, width=64)


def woken(config: ModernConfig = SMALL, vocab: int = 70) -> Modern:
    """A model whose projections are not zero, so that what is behind them shows."""
    torch.manual_seed(0)
    model = Modern(config, vocab)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("project.weight"):
                parameter.normal_(std=0.1)
    return model.eval()


class From:
    """The past, at positions that begin elsewhere."""

    def __init__(self, *start: int) -> None:
        self.start_B1 = torch.tensor(start)[:, None]

    def positions(self, ids_BT: Tensor) -> Tensor:
        positions_BT = torch.arange(ids_BT.shape[1]) + self.start_B1
        return positions_BT[0] if len(positions_BT) == 1 else positions_BT

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        return Past().attend(layer, q_BHTD, k_BHTD, v_BHTD, dropout=dropout)


def test_at_gpt2s_sizes_it_has_its_matrices_and_a_head_more() -> None:
    with torch.device("meta"):
        model = Modern(ModernConfig(context=1024, layers=12, heads=12, width=768), 50_257)
    assert model.expected_parameters() == sum(p.numel() for p in model.parameters()) == 162_201_600
    # 12 * 12 * 768**2 in the blocks, as GPT-2 has without biases and norms.
    assert sum(p.numel() for p in model.blocks.parameters()) == 84_934_656


def test_it_has_matrices_and_nothing_else() -> None:
    assert {parameter.dim() for parameter in Modern(SMALL, 70).parameters()} == {2}


def test_weights_are_drawn_as_it_says() -> None:
    torch.manual_seed(0)
    for name, parameter in Modern(SMALL, 1000).named_parameters():
        if name.endswith("project.weight"):
            assert (parameter == 0).all(), name
            continue
        outer = {"token_embedding.weight": 1.0, "head.weight": HEAD_STD}
        real = parameter[:1000] if name in outer else parameter
        # The standard deviation of n normals is known to 1 / sqrt(2n); four of those.
        expected = outer.get(name, 1 / math.sqrt(64))
        assert real.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * real.numel())), name


def test_untrained_blocks_leave_the_stream_as_it_is() -> None:
    torch.manual_seed(0)
    model = Modern(SMALL, 70)
    ids_BT = torch.randint(70, (2, 16))
    torch.testing.assert_close(model.features(ids_BT), rms_norm(model.token_embedding(ids_BT)))


def test_padding_of_the_vocabulary_gets_no_gradient_and_changes_no_loss() -> None:
    torch.manual_seed(0)
    padded = Modern(SMALL, 70)
    plain = Modern(ModernConfig(context=16, layers=3, heads=2, width=64, vocab_multiple=1), 70)
    weights = padded.state_dict()
    outer = ("token_embedding.weight", "head.weight")
    assert all(weights[name].shape == (128, 64) for name in outer)
    plain.load_state_dict({**weights, **{name: weights[name][:70] for name in outer}})
    ids_BT = torch.randint(70, (2, 17))
    losses = [cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]) for model in (padded, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    losses[0].backward()
    for name in outer:
        weight = padded.get_parameter(name)
        assert weight.grad is not None and weight.grad[70:].abs().max() == 0 and weight[70:].abs().max() == 0


# ---- rotary positions ------------------------------------------------------------------------------------------------


def test_turning_is_a_product_of_complex_numbers() -> None:
    torch.manual_seed(0)
    x_BHTD = torch.randn(2, 3, 5, 8)
    found_BHTD = Turning(PAST, torch.zeros(2, 5, dtype=torch.int64), 8).turned(x_BHTD)
    angles_TE = torch.arange(5)[:, None] * 10_000 ** -(torch.arange(4) / 4)
    pairs = torch.complex(x_BHTD[..., :4], x_BHTD[..., 4:]) * torch.polar(torch.ones(5, 4), -angles_TE)
    torch.testing.assert_close(found_BHTD, torch.cat((pairs.real, pairs.imag), dim=-1))


def test_a_product_of_turned_vectors_knows_their_distance_and_not_their_place() -> None:
    torch.manual_seed(0)
    q_D, k_D = torch.randn(2, 8)
    products = {}
    for start in (0, 3, 500):
        turning = Turning(From(start), torch.zeros(1, 16, dtype=torch.int64), 8)
        q_TD, k_TD = (turning.turned(x_D.expand(1, 1, 16, 8))[0, 0] for x_D in (q_D, k_D))
        products[start] = torch.stack([q_TD[9] @ k_TD[9 - back] for back in range(10)])
    assert products[0].std() > 0.1
    for start in (3, 500):
        torch.testing.assert_close(products[start], products[0], rtol=0, atol=1e-3)


def test_far_into_a_text_neighbours_are_still_told_apart() -> None:
    # In bfloat16 the positions 4096 and 4097 are one number.
    turning = Turning(From(4096), torch.zeros(1, 2, dtype=torch.int64), 8)
    first_D, second_D = turning.turned(torch.ones(1, 1, 2, 8))[0, 0]
    assert (first_D - second_D).abs().max() > 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = Turning(From(4096), torch.zeros(1, 2, dtype=torch.int64), 8)
        assert torch.equal(again.turned(torch.ones(1, 1, 2, 8))[0, 0], torch.stack((first_D, second_D)))


def test_logits_do_not_depend_on_where_a_row_begins() -> None:
    model, ids_BT = woken(), torch.randint(70, (2, 16))
    expected = model.features(ids_BT)
    torch.testing.assert_close(model.features(ids_BT, From(100)), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.features(ids_BT, From(7, 100)), expected, rtol=0, atol=1e-4)


def test_the_order_of_the_ids_before_it_counts_for_a_position() -> None:
    # One layer: in more of them causality alone tells which of two ids came first.
    model = woken(ModernConfig(context=16, layers=1, heads=2, width=64))
    ids_BT = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]])
    first_C, second_C = model.features(ids_BT)[:, -1]
    assert (first_C - second_C).abs().max() > 1e-3


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_attention_gets_vectors_of_one_length_and_one_dtype() -> None:
    seen: list[tuple[Tensor, ...]] = []

    class Looking(Past):
        def attend(self, layer: int, *q_k_v: Tensor, dropout: float = 0.0) -> Tensor:  # type: ignore[override]
            seen.append(q_k_v)
            return super().attend(layer, *q_k_v, dropout=dropout)

    model = woken()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.features(torch.randint(70, (2, 16)), Looking())
    assert len(seen) == 3
    for q_BHTD, k_BHTD, v_BHTD in seen:
        assert q_BHTD.dtype == k_BHTD.dtype == v_BHTD.dtype == torch.bfloat16
        for part_BHTD in (q_BHTD, k_BHTD):
            lengths = part_BHTD.float().norm(dim=-1)
            torch.testing.assert_close(lengths, torch.full_like(lengths, math.sqrt(32)), rtol=0.01, atol=0)


def test_recomputing_gives_the_same_gradients() -> None:
    ids_BT = torch.randint(70, (2, 17))
    gradients = []
    for recompute in (False, True):
        model = woken().train()
        model.recompute = recompute
        cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, r"model.width must be a multiple of 2 \* model.heads = 6, got 64"),
        ({"heads": 64}, r"model.width must be a multiple of 2 \* model.heads = 128, got 64"),
        ({"layers": 0}, r"model.layers must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModernConfig(**{"context": 16, "layers": 3, "heads": 2, "width": 64, **wrong})
