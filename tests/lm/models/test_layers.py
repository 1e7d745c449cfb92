import pytest
import torch
from torch import nn

from lm.models.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_an_embedding_gives_each_ids_row_and_a_row_gets_the_gradients_of_all_its_places() -> None:
    layer = Embedding(5, 3)
    ids = torch.tensor([[4, 0, 4], [1, 4, 0]])
    out = layer(ids)
    assert torch.equal(out, nn.functional.embedding(ids, layer.weight))
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[:, 0].tolist() == [2, 1, 0, 0, 3]


def test_a_linear_layer_is_the_product_and_then_the_bias() -> None:
    weight, bias, x = torch.randn(4, 6), torch.randn(6), torch.randn(2, 3, 4)
    assert torch.equal(Linear(weight, bias=bias)(x), x @ weight + bias)
    assert torch.equal(Linear(weight)(x), x @ weight)
    assert [name for name, _ in Linear(weight).named_parameters()] == ["weight"]
    twin = nn.Linear(4, 6)
    twin.load_state_dict({"weight": weight.T, "bias": bias})
    torch.testing.assert_close(Linear(weight, bias=bias)(x), twin(x))


@pytest.mark.parametrize("shape", [(32, 5), (8, 4, 5), (2, 3, 4, 5)])
def test_batchnorm_is_torchs_but_for_bessels_correction(shape: tuple[int, ...]) -> None:
    ours, twin = BatchNorm1d(5), nn.BatchNorm1d(5)
    n = torch.tensor(shape[:-1]).prod().item()
    for _ in range(3):
        x = torch.randn(shape) * 3 + 1
        flat = x.reshape(-1, 5)
        expected = (flat - flat.mean(0)) / torch.sqrt(flat.var(0, unbiased=True) + 1e-5)
        torch.testing.assert_close(ours(x).reshape(-1, 5), expected, rtol=0, atol=1e-5)
        # torch divides by n where this divides by n - 1; what runs along is by n - 1 in both.
        torch.testing.assert_close(ours(x).reshape(-1, 5) * (n / (n - 1)) ** 0.5, twin(flat), rtol=0, atol=1e-4)
        twin(flat)  # `ours` has seen it twice as well
        torch.testing.assert_close(ours.running_mean, twin.running_mean)
        torch.testing.assert_close(ours.running_var, twin.running_var)
    ours.eval(), twin.eval()
    torch.testing.assert_close(ours(x).reshape(-1, 5), twin(flat))


def test_batchnorm_follows_the_batches_in_training_alone() -> None:
    layer = BatchNorm1d(2, momentum=0.25)
    x = torch.tensor([[0.0, 10.0], [2.0, 30.0]])
    layer(x)
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.25, 5.0]))
    torch.testing.assert_close(layer.running_var, torch.tensor([0.75 + 0.5, 0.75 + 50.0]))
    layer.eval()
    before = layer.running_mean.clone()
    one = layer(x[:1])
    torch.testing.assert_close(one, (x[:1] - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps))
    assert torch.equal(layer.running_mean, before)
    assert not layer.running_mean.requires_grad and {"running_mean", "running_var"} <= layer.state_dict().keys()


def test_batchnorm_scales_and_shifts_last() -> None:
    layer = BatchNorm1d(3)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.beta.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    out = layer(torch.randn(50, 3))
    torch.testing.assert_close(out.mean(0), layer.beta.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0), layer.gamma.detach(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_neighbours_are_joined_in_their_order(n: int) -> None:
    x_NTC = torch.randn(4, 6, 5)
    out = FlattenConsecutive(n)(x_NTC)
    expected = torch.cat([x_NTC[:, first::n] for first in range(n)], dim=2)
    assert torch.equal(out, expected.squeeze(1)) and out.ndim == (2 if n == 6 else 3)


def test_a_time_that_is_no_multiple_cannot_be_joined() -> None:
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        FlattenConsecutive(4)(torch.randn(2, 6, 5))
