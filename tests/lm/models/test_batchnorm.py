import pytest
import torch

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.batchnorm import BatchNorm, BatchNormMLP, BatchNormMLPConfig

LECTURE = BatchNormMLPConfig(context=16, window=3, embedding=10, hidden=200)


@pytest.fixture
def model() -> BatchNormMLP:
    torch.manual_seed(0)
    return BatchNormMLP(LECTURE, 27)


def test_the_lectures_network_has_12097_parameters_none_of_them_a_hidden_bias(model: BatchNormMLP) -> None:
    assert model.expected_parameters() == sum(parameter.numel() for parameter in model.parameters()) == 12_097
    assert model.hidden.bias is None
    buffers = {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    assert buffers == {"batchnorm.running_mean": (200,), "batchnorm.running_std": (200,)}


def test_the_first_loss_is_the_one_on_paper_for_20_seeds() -> None:
    expected = BatchNormMLP(LECTURE, 27).expected_first_loss()
    for seed in range(20):
        torch.manual_seed(seed)
        model = BatchNormMLP(LECTURE, 27)
        ids_BT = torch.randint(27, (40, 17))
        loss = cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).item()
        assert abs(loss - expected.nats) < 0.02 < expected.tolerance, seed


def test_a_layer_normalises_by_the_standard_deviation_itself() -> None:
    layer = BatchNorm(2)
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    # Means 1 and 20; deviations, by n - 1, sqrt(2) and 10 * sqrt(2).
    out_NH = layer(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    root = 0.5**0.5
    torch.testing.assert_close(out_NH, torch.tensor([[-root, 1 - 2 * root], [root, 1 + 2 * root]]))
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.001, 0.02]))
    torch.testing.assert_close(layer.running_std, torch.tensor([0.999 + 0.001 / root, 0.999 + 0.01 / root]))


def test_in_training_the_examples_see_each_other_and_in_evaluation_they_do_not(model: BatchNormMLP) -> None:
    windows_NW = torch.randint(27, (8, 3))
    other_NW = torch.cat([windows_NW[:4], torch.randint(27, (4, 3))])
    assert not torch.allclose(model.predict(windows_NW)[:4], model.predict(other_NW)[:4])
    model.eval()
    torch.testing.assert_close(model.predict(windows_NW)[:4], model.predict(other_NW)[:4])


def test_evaluation_changes_nothing_and_works_on_one_example(model: BatchNormMLP) -> None:
    model.predict(torch.randint(27, (32, 3)))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.next_logits(torch.tensor([[1, 2, 3]])).isfinite().all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_runs_along_comes_near_the_figures_of_all_examples(model: BatchNormMLP) -> None:
    # At .001 a step the start has lost all weight but e^-8 after 8,000 batches.
    windows_NW = torch.randint(27, (2000, 3))
    with torch.no_grad():
        x_NH = model.hidden(model.flatten(model.embedding(windows_NW)))
        for _ in range(8000):
            model.batchnorm(x_NH[torch.randint(2000, (32,))])
    torch.testing.assert_close(model.batchnorm.running_mean, x_NH.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(model.batchnorm.running_std, x_NH.std(0), rtol=0.05, atol=0)


def test_the_weights_do_not_learn_from_the_size_of_what_is_normalised(model: BatchNormMLP) -> None:
    # Ten times the weights of the hidden layer are the same network: the gradient is a tenth.
    windows_NW, targets_N = torch.randint(27, (64, 3)), torch.randint(27, (64,))
    gradients, losses = [], []
    for scale in (1.0, 10.0):
        with torch.no_grad():
            model.hidden.weight *= scale
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model.predict(windows_NW), targets_N)
        loss.backward()
        gradients.append(model.hidden.weight.grad.clone())
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(gradients[0], 10 * gradients[1], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("key", ["context", "window", "embedding", "hidden"])
def test_impossible_sizes_are_refused(key: str) -> None:
    sizes = {"context": 16, "window": 3, "embedding": 10, "hidden": 200, key: 0}
    with pytest.raises(ConfigError, match=rf"model.{key} must be at least 1, got 0"):
        BatchNormMLPConfig(**sizes)
