import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lm.batches import IGNORE
from lm.linear_loss import head_loss, head_losses
from lm.loss import Objective, token_losses
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.modern import Modern, ModernConfig

V, P, C = 70, 96, 24
CHUNKS = [1, P * 5, P * 7 + 3, P * 1000]  # a row each; rows that divide 33 not; one and a half rows too many; all


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, a head with rubbish in its padding, and targets of which some are masked."""
    generator = torch.Generator().manual_seed(seed)
    x_BTC = torch.randn(3, 11, C, generator=generator)
    head_PC = torch.randn(P, C, generator=generator)
    targets_BT = torch.randint(V, (3, 11), generator=generator)
    targets_BT[1, 4:] = IGNORE
    return x_BTC, head_PC, targets_BT


def plain(x_BTC: Tensor, head_PC: Tensor, targets_BT: Tensor) -> Tensor:
    return token_losses(torch.nn.functional.linear(x_BTC, head_PC)[..., :V], targets_BT)


def loss_and_gradients(total: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [total.detach(), *torch.autograd.grad(total / 17.0, leaves)]


class Sizes(TorchDispatchMode):
    """The most numbers that any tensor made within has."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("chunk", CHUNKS)
def test_in_chunks_the_loss_and_its_gradients_are_those_of_all_logits(chunk: int) -> None:
    x_BTC, head_PC, targets_BT = inputs()
    leaves = [x_BTC.requires_grad_(), head_PC.requires_grad_()]
    expected = loss_and_gradients(plain(x_BTC, head_PC, targets_BT).sum(), *leaves)
    found = loss_and_gradients(head_loss(x_BTC, head_PC, targets_BT, V, chunk=chunk), *leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert (found[2][V:] == 0).all() and (found[1][targets_BT == IGNORE] == 0).all()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_in_chunks_each_targets_loss_is_that_of_all_logits(chunk: int) -> None:
    x_BTC, head_PC, targets_BT = inputs()
    found_BT = head_losses(x_BTC, head_PC, targets_BT, V, chunk=chunk)
    torch.testing.assert_close(found_BT, plain(x_BTC, head_PC, targets_BT), rtol=1e-6, atol=1e-6)
    assert (found_BT[targets_BT == IGNORE] == 0).all()


def test_without_a_target_loss_and_gradients_are_zero() -> None:
    x_BTC, head_PC, targets_BT = inputs()
    leaves = [x_BTC.requires_grad_(), head_PC.requires_grad_()]
    for figure in loss_and_gradients(head_loss(x_BTC, head_PC, torch.full_like(targets_BT, IGNORE), V), *leaves):
        assert (figure == 0).all()


def test_without_a_row_loss_and_gradients_are_zero() -> None:
    head_PC = inputs()[1].requires_grad_()
    x_BTC, targets_BT = torch.zeros(0, 11, C, requires_grad=True), torch.zeros(0, 11, dtype=torch.int64)
    for figure in loss_and_gradients(head_loss(x_BTC, head_PC, targets_BT, V), x_BTC, head_PC):
        assert (figure == 0).all()
    assert head_losses(x_BTC, head_PC, targets_BT, V).shape == (0, 11)


def test_logits_as_large_as_float32_holds_have_a_finite_loss() -> None:
    x_BTC, head_PC, targets_BT = inputs()
    x_BTC = (x_BTC * 1e30).requires_grad_()
    loss, *gradients = loss_and_gradients(head_loss(x_BTC, head_PC.requires_grad_(), targets_BT, V), x_BTC, head_PC)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_a_head_that_is_not_learnt_gets_no_gradient_and_features_do() -> None:
    x_BTC, head_PC, targets_BT = inputs()
    (found,) = torch.autograd.grad(head_loss(x_BTC.requires_grad_(), head_PC, targets_BT, V), x_BTC)
    (expected,) = torch.autograd.grad(plain(x_BTC, head_PC, targets_BT).sum(), x_BTC)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_under_autocast_the_products_are_bfloat16s_and_the_loss_is_near() -> None:
    x_BTC, head_PC, targets_BT = inputs()
    leaves = [x_BTC.requires_grad_(), head_PC.requires_grad_()]
    exact = loss_and_gradients(plain(x_BTC, head_PC, targets_BT).sum(), *leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        usual = loss_and_gradients(plain(x_BTC, head_PC, targets_BT).sum(), *leaves)
        found = loss_and_gradients(head_loss(x_BTC, head_PC, targets_BT, V, chunk=P * 5), *leaves)
        each_BT = head_losses(x_BTC, head_PC, targets_BT, V, chunk=P * 5)
    assert not torch.equal(found[0], exact[0]) and each_BT.dtype == torch.float32
    assert each_BT.sum().item() == pytest.approx(usual[0].item(), rel=1e-5)
    for one, other, true in zip(found, usual, exact, strict=True):
        assert one.dtype == torch.float32
        # About as far from the truth as autocast's own way, which rounds in the same places.
        assert (one - true).norm() <= 1.2 * (other - true).norm() + 1e-6 * true.norm()


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_all_logits_are_never_in_memory() -> None:
    rows, vocab = 64, 4096
    x_BTC, head_PC = torch.randn(1, rows, 8, requires_grad=True), torch.randn(vocab, 8, requires_grad=True)
    targets_BT = torch.randint(vocab, (1, rows))
    chunk = 4 * vocab
    with Sizes() as all_at_once:
        token_losses(x_BTC @ head_PC.T, targets_BT).sum().backward()
    assert all_at_once.largest == rows * vocab  # the test would see them
    with Sizes() as chunked:
        head_loss(x_BTC, head_PC, targets_BT, vocab, chunk=chunk).backward()
        head_losses(x_BTC, head_PC, targets_BT, vocab, chunk=chunk)
    assert chunked.largest == max(chunk, head_PC.numel())


# ---- the objective --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["gpt2", "modern"])
def model(request: pytest.FixtureRequest) -> GPT2 | Modern:
    torch.manual_seed(0)
    if request.param == "gpt2":
        return GPT2(GPT2Config(context=16, layers=1, heads=2, width=16), V)
    return Modern(ModernConfig(context=16, layers=1, heads=2, width=16), V)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("documents", [False, True])
def test_the_objective_is_the_same_whole_and_in_chunks(
    model: GPT2 | Modern, documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_BT = torch.randint(V, (3, 17))
    documents_BT = torch.arange(16).expand(3, 16) // 5 if documents else None
    batch = (ids_BT[:, :-1], ids_BT[:, 1:], documents_BT)
    for parameter in model.parameters():  # projections of zeros would hide what attention reads
        torch.nn.init.normal_(parameter, std=0.1)
    objective = Objective(model)
    whole = objective(*batch)
    whole.backward()
    expected, expected_each = gradients(model), objective(*batch, each=True).detach()
    assert torch.equal(whole, expected_each.sum())
    # What stands before a document is out of its sight.
    assert torch.equal(objective(*batch[:2], each=True).detach(), expected_each) != documents
    monkeypatch.setattr("lm.loss.CHUNK_LOGITS", 500)
    monkeypatch.setattr("lm.linear_loss.CHUNK_LOGITS", 500)
    with Sizes() as sizes:
        total = objective(*batch)
        total.backward()
    assert sizes.largest < 3 * 16 * V  # it did go by chunks
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(objective(*batch, each=True), expected_each, rtol=1e-6, atol=1e-6)
    assert objective(*batch, each=True).requires_grad  # with a gradient it goes the plain way


def test_the_objective_of_a_rung_without_a_head_or_with_one_target_a_row_is_the_plain_loss(
    model: GPT2 | Modern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm.loss.CHUNK_LOGITS", 1)
    ids_BT = torch.randint(V, (3, 17))
    bigram = Bigram(BigramConfig(context=16), V)
    expected_BT = token_losses(bigram(ids_BT[:, :-1]), ids_BT[:, 1:])
    assert torch.equal(Objective(bigram)(ids_BT[:, :-1], ids_BT[:, 1:]), expected_BT.sum())
    assert torch.equal(Objective(bigram)(ids_BT[:, :-1], ids_BT[:, 1:], each=True), expected_BT)
    next_B1 = token_losses(model.next_logits(ids_BT[:, :-1])[:, None], ids_BT[:, -1:])
    assert torch.equal(Objective(model)(ids_BT[:, :-1], ids_BT[:, -1:], each=True), next_B1)


# ---- compiled -------------------------------------------------------------------------------------------------------


# Torch's own tracing makes an instance of the function; inductor uses torch.jit.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_the_chunked_objective_is_one_graph_with_the_same_gradients(
    model: GPT2 | Modern, backend: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm.loss.CHUNK_LOGITS", 500)
    monkeypatch.setattr("lm.linear_loss.CHUNK_LOGITS", 500)
    torch.compiler.reset()
    objective, ids_BT = Objective(model), torch.randint(V, (3, 17))
    compiled = torch.compile(objective, backend=backend, fullgraph=True)
    outcomes = []
    for run in (objective, compiled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = run(ids_BT[:, :-1], ids_BT[:, 1:])
        (total / 3).backward()
        outcomes.append((total.detach(), gradients(model)))
    (eager, eager_gradients), (found, found_gradients) = outcomes
    close = {"rtol": 2e-2, "atol": 2e-2} if autocast else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, eager, **close)
    for name, gradient in found_gradients.items():
        torch.testing.assert_close(gradient, eager_gradients[name], **close)
    torch.compiler.reset()
