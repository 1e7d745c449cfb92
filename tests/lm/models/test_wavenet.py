"""The tree, and the same as dilated convolutions."""

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.dilated import DilatedWaveNet, DilatedWaveNetConfig
from lm.models.wavenet import WaveNet, WaveNetConfig

LECTURE = {"context": 16, "levels": 3, "embedding": 24, "hidden": 128}
"""Part 5's sizes."""

Twins = tuple[WaveNet, DilatedWaveNet]


def twins_of(levels: int, context: int) -> Twins:
    """The two over the same weights, and with running figures that are not those of the start."""
    sizes = {"context": context, "levels": levels, "embedding": 5, "hidden": 7}
    torch.manual_seed(levels)
    tree = WaveNet(WaveNetConfig(**sizes), 11)
    with torch.no_grad():
        for _ in range(5):
            tree(torch.randint(11, (16, context)))
        for parameter in tree.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    dilated = DilatedWaveNet(DilatedWaveNetConfig(**sizes), 11)
    dilated.load_state_dict(tree.state_dict())
    return tree, dilated


@pytest.fixture(scope="module", params=[(1, 5), (2, 12), (3, 12), (4, 6)], ids=lambda sizes: f"{sizes[0]} levels")
def twins(request: pytest.FixtureRequest) -> Twins:
    return twins_of(*request.param)


def random_ids(*shape: int) -> Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(2))


# ---- the tree --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WaveNet, DilatedWaveNet])
def test_the_lectures_network_has_76579_parameters(kind: type[WaveNet | DilatedWaveNet]) -> None:
    config = WaveNetConfig if kind is WaveNet else DilatedWaveNetConfig
    model = kind(config(**LECTURE), 27)
    assert model.expected_parameters() == sum(parameter.numel() for parameter in model.parameters()) == 76_579
    assert model.window == 8


def test_the_first_loss_is_the_one_on_paper_for_20_seeds() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = WaveNet(WaveNetConfig(**LECTURE), 27)
        ids_BT = torch.randint(27, (40, 17))
        loss = cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).item()
        assert abs(loss - model.expected_first_loss().nats) < 0.02 < model.expected_first_loss().tolerance, seed


def test_a_tree_joins_neighbours_two_by_two() -> None:
    tree, _ = twins_of(2, 4)
    tree.eval()

    def join(level: int, left: Tensor, right: Tensor) -> Tensor:
        _, linear, batchnorm, tanh = tree.levels[level]
        return tanh(batchnorm(torch.cat([left, right]) @ linear.weight))

    a, b, c, d = tree.embedding(torch.tensor([3, 1, 4, 1]))
    expected_V = tree.head(join(1, join(0, a, b), join(0, c, d)))
    torch.testing.assert_close(tree.next_logits(torch.tensor([[3, 1, 4, 1]]))[0], expected_V)


@pytest.mark.parametrize("key", ["context", "levels", "embedding", "hidden"])
def test_impossible_sizes_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.{key} must be at least 1, got 0"):
        WaveNetConfig(**{**LECTURE, key: 0})
    with pytest.raises(ConfigError, match=r"model.levels must be at most 16, a window of 65,536, got 17"):
        DilatedWaveNetConfig(**{**LECTURE, "levels": 17})


# ---- the tree is the convolutions ------------------------------------------------------------------------------------


def test_the_two_have_the_same_names_and_shapes_of_weights(twins: Twins) -> None:
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in twins]
    assert shapes[0] == shapes[1]
    assert [name for name, _ in twins[0].named_parameters()] == [name for name, _ in twins[1].named_parameters()]


def test_equal_seeds_give_the_two_equal_weights() -> None:
    models = []
    for kind, config in ((WaveNet, WaveNetConfig), (DilatedWaveNet, DilatedWaveNetConfig)):
        torch.manual_seed(9)
        models.append(kind(config(**LECTURE), 27))
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(tree, dilated) for tree, dilated in pairs)


def test_in_evaluation_the_logits_are_equal_at_every_length(twins: Twins) -> None:
    tree, dilated = (model.eval() for model in twins)
    with torch.no_grad():
        for time in range(1, tree.context + 1):
            ids_BT = random_ids(6, time)
            torch.testing.assert_close(dilated(ids_BT), tree(ids_BT), rtol=0, atol=1e-6)
            torch.testing.assert_close(dilated.next_logits(ids_BT), tree.next_logits(ids_BT), rtol=0, atol=1e-6)


def test_in_evaluation_the_gradients_are_equal(twins: Twins) -> None:
    ids_BT = random_ids(4, twins[0].context + 1)
    for model in twins:
        model.eval().zero_grad()
        cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).backward()
    for (name, tree), dilated in zip(twins[0].named_parameters(), twins[1].parameters(), strict=True):
        assert tree.grad is not None and dilated.grad is not None and tree.grad.abs().sum() > 0, name
        torch.testing.assert_close(dilated.grad, tree.grad, rtol=0, atol=1e-6, msg=name)


def test_in_training_they_differ_since_batchnorm_sees_a_node_once_or_once_for_each_window() -> None:
    for levels, differ in ((1, False), (2, True)):
        tree, dilated = (model.train() for model in twins_of(levels, 12))
        ids_BT = random_ids(8, 12)
        equal = torch.allclose(tree(ids_BT), dilated(ids_BT), atol=1e-4)
        assert equal is not differ, f"{levels} levels"


def test_a_dilated_row_costs_fewer_products_than_its_trees() -> None:
    tree, dilated = twins_of(3, 12)
    rows: dict[str, int] = {}
    for name, model in (("tree", tree), ("dilated", dilated)):
        for level in model.levels:
            level[1].register_forward_hook(
                lambda layer, inputs, out, name=name: rows.update({name: rows.get(name, 0) + out[..., 0].numel()})
            )
        model.eval()(random_ids(1, 12))
    # 12 windows of 4 + 2 + 1 nodes; level l of the row has the 12 positions and what levels above look back on.
    assert rows == {"tree": 12 * 7, "dilated": (12 + 6) + (12 + 4) + 12}
