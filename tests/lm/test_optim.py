import pytest
import torch

from lm.config import OptimizerConfig
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.optim import SGD, adamw, build, set_learning_rate

CONFIG = OptimizerConfig(lr=0.5, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = GPT2(GPT2Config(context=4, layers=1, heads=1, width=8), 10)
    optimizer = adamw(model, CONFIG)
    decaying, resting = optimizer.param_groups
    assert (decaying["weight_decay"], resting["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert all(names[parameter].endswith(".weight") and parameter.dim() == 2 for parameter in decaying["params"])
    assert all("norm" in names[parameter] or "bias" in names[parameter] for parameter in resting["params"])
    assert len(decaying["params"]) + len(resting["params"]) == len(names)
    assert all((group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6) for group in optimizer.param_groups)


def test_a_model_of_matrices_only_has_one_group() -> None:
    assert len(adamw(Bigram(BigramConfig(context=4), 5), CONFIG).param_groups) == 1


def test_the_first_update_is_the_one_computed_by_hand() -> None:
    # After one step of Adam the means are unbiased: the update is lr * sign(gradient), decay apart.
    model = Bigram(BigramConfig(context=4), 2)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    optimizer = adamw(model, CONFIG)
    model.table.weight.grad = torch.tensor([[0.3, -0.3], [9.0, -9.0]])
    optimizer.step()
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (1 - 0.5 * 0.1) + torch.tensor([[-0.5, 0.5], [-0.5, 0.5]])
    torch.testing.assert_close(model.table.weight.detach(), expected, rtol=0, atol=1e-5)


def test_a_new_rate_holds_for_every_group() -> None:
    optimizer = adamw(GPT2(GPT2Config(context=4, layers=1, heads=1, width=8), 10), CONFIG)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, pytest.approx(0.25)]


def test_the_update_is_the_fused_one_since_mkls_square_roots_differ_between_runs() -> None:
    assert adamw(Bigram(BigramConfig(context=4), 5), CONFIG).defaults["fused"] is True


# ---- plain descent ---------------------------------------------------------------------------------------------------


def test_plain_descent_is_the_lectures_line_to_the_last_bit() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(2000), torch.randn(2000)
    found, twin = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    found.grad = twin.grad = gradient
    expected = start.clone()
    for _ in range(3):
        SGD([found], lr=0.1).step()
        torch.optim.SGD([twin], lr=0.1).step()
        expected += -0.1 * gradient
    assert torch.equal(found, expected)
    torch.testing.assert_close(twin.detach(), expected)


def test_plain_descent_keeps_nothing_decays_nothing_and_leaves_alone_what_has_no_gradient() -> None:
    config = OptimizerConfig(kind="sgd", lr=0.5, weight_decay=0.9, grad_clip=0.0)
    model = GPT2(GPT2Config(context=4, layers=1, heads=1, width=8), 10)
    optimizer = build(model, config)
    assert isinstance(optimizer, SGD)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    model(torch.tensor([[1, 2, 3]]))[0, 0, 0].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name] + -0.5 * parameter.grad), name
    assert not optimizer.state and all(len(group["params"]) == len(before) for group in optimizer.param_groups)


def test_a_new_rate_holds_for_plain_descent() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = SGD([parameter], lr=0.5)
    parameter.grad = torch.tensor([2.0])
    set_learning_rate(optimizer, 0.25)
    optimizer.step()
    assert parameter.item() == 0.5


def test_adamw_is_what_a_config_names_unless_told_otherwise() -> None:
    model = Bigram(BigramConfig(context=4), 5)
    assert type(build(model, CONFIG)) is torch.optim.AdamW
    assert type(build(model, OptimizerConfig(kind="sgd", lr=1.0))) is SGD
