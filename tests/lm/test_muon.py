import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lm.checkpoint import State, load, save
from lm.config import OptimizerConfig
from lm.errors import ConfigError
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.modern import Modern, ModernConfig
from lm.muon import Muon, orthogonalized
from lm.optim import build, set_learning_rate

CONFIG = OptimizerConfig(kind="muon", lr=3e-3, matrix_lr=0.02, momentum=0.95, weight_decay=0.1)
V = 20


def matrices(*groups: dict[str, object], lr: float = 0.1, weight_decay: float = 0.0) -> Muon:
    usual = {
        "kind": "muon",
        "momentum": 0.9,
        "weight_decay": weight_decay,
        "parts": 1,
        "lr": lr,
        "dtype": torch.float32,
    }
    return Muon([{**usual, **group} for group in groups], lr=lr)


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Parameter(torch.randn(shape, generator=generator))
    made.grad = torch.randn(shape, generator=generator)
    return made


def small_model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(context=8, layers=2, heads=2, width=16), V)


def backward(model: nn.Module, seed: int = 0) -> None:
    ids_BT = torch.randint(V, (4, 9), generator=torch.Generator().manual_seed(seed))
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten()).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        backward(model, seed=step)
        set_learning_rate(optimizer, 3e-3 / (step + 1))
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


# ---- Newton-Schulz --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_vectors_stay_and_singular_values_become_about_1(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u_RK, _, v_KC = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values_K = torch.logspace(0, -2, 16)
    updates_RC = u_RK * values_K @ v_KC
    found_RC = orthogonalized(updates_RC[None], dtype=dtype)[0]
    assert found_RC.dtype == dtype
    found_K = (u_RK.T @ found_RC.float() @ v_KC.T).diagonal()
    assert found_K.min() > 0.6 and found_K.max() < 1.3  # the post's plot: 0.7 to 1.2; bfloat16 adds a little
    off_RC = found_RC.float() - u_RK * found_K @ v_KC
    assert off_RC.abs().max() < (1e-5 if dtype == torch.float32 else 0.05)


def test_matrices_do_not_mix_nor_does_their_scale_count() -> None:
    torch.manual_seed(0)
    updates_NRC = torch.randn(3, 8, 8)
    together = orthogonalized(updates_NRC * torch.tensor([1e-12, 1.0, 1e12])[:, None, None])
    assert together[0].norm() < 0.1  # smaller than any gradient: left nearly alone, not blown up
    alone = orthogonalized(updates_NRC[1:2])[0]
    for found in together[1:]:
        assert 0.6 < torch.linalg.svdvals(found)[0] < 1.3
    torch.testing.assert_close(together[1], alone, rtol=0, atol=1e-5)


def test_a_matrix_of_zeros_stays_one() -> None:
    assert (orthogonalized(torch.zeros(2, 4, 6)) == 0).all()


def test_the_update_is_that_of_torchs_own_muon_where_it_has_one() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip(f"torch {torch.__version__} has no torch.optim.Muon")
    for shape in ((16, 16), (48, 16), (16, 48)):
        ours, theirs = parameter(*shape), parameter(*shape)
        optimizers = [
            matrices({"params": [ours]}, lr=0.02, weight_decay=0.1),
            torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.9),
        ]
        start = ours.detach().clone()
        for step in range(3):
            for one, optimizer in zip((ours, theirs), optimizers, strict=True):
                one.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
                optimizer.step()
        # Theirs computes in bfloat16 on the CPU too: 8 bits, five iterations.
        assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


# ---- the step -------------------------------------------------------------------------------------------------------


def test_the_step_is_the_one_written_down_in_the_post() -> None:
    one = parameter(12, 4)
    optimizer = matrices({"params": [one]}, lr=0.1, weight_decay=0.5)
    weight, buffer = one.detach().clone(), torch.zeros(12, 4)
    for seed in range(3):
        one.grad = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
        buffer = 0.9 * buffer + 0.1 * one.grad
        direction = orthogonalized((0.1 * one.grad + 0.9 * buffer)[None])[0]
        weight = weight * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(12 / 4) * direction
        optimizer.step()
        torch.testing.assert_close(one.detach(), weight, rtol=0, atol=1e-5)


def test_parts_under_each_other_are_matrices_of_their_own() -> None:
    whole = parameter(24, 8)
    parts = [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    matrices({"params": [whole], "parts": 3}).step()
    matrices({"params": parts}).step()
    torch.testing.assert_close(whole.detach(), torch.cat(parts).detach(), rtol=0, atol=1e-6)
    again = parameter(24, 8)
    matrices({"params": [again]}).step()
    assert (again - whole).abs().max() > 0.01


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    one, other = parameter(8, 8), parameter(8, 8, seed=1)
    other.grad = None
    before = other.detach().clone()
    optimizer = matrices({"params": [one, other]}, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(other, before) and other not in optimizer.state


def test_beside_muon_the_rest_takes_torchs_adamw_bit_for_bit() -> None:
    ours, theirs = small_model(), small_model()
    optimizer = build(ours, CONFIG)
    assert isinstance(optimizer, Muon)
    inner = {name for name, p in ours.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    outer = [(name, p) for name, p in theirs.named_parameters() if name not in inner]
    groups = [
        {"params": [p for _, p in outer if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for _, p in outer if p.dim() < 2], "weight_decay": 0.0},
    ]
    twin = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        backward(ours, seed=step)
        gradients = {name: p.grad.clone() for name, p in ours.named_parameters()}
        for name, p in outer:
            p.grad = gradients[name]
        for one in (optimizer, twin):
            set_learning_rate(one, 3e-3 / (step + 1))
            one.step()
    assert all(torch.equal(p, ours.get_parameter(name)) for name, p in outer)


@pytest.mark.parametrize("rung", ["gpt2", "modern"])
def test_matrices_of_the_blocks_are_muons_and_all_else_is_adamws(rung: str) -> None:
    model = small_model() if rung == "gpt2" else Modern(ModernConfig(context=8, layers=2, heads=2, width=16), V)
    names = {p: name for name, p in model.named_parameters()}
    found = {
        (group["kind"], group.get("parts"), group["weight_decay"]): {names[p] for p in group["params"]}
        for group in build(model, CONFIG).param_groups
    }
    blocks = [f"blocks.{layer}." for layer in range(2)]
    assert found.pop(("muon", 3, 0.1)) == {f"{block}attention.qkv.weight" for block in blocks}
    inner = ("attention.project.weight", "feedforward.expand.weight", "feedforward.project.weight")
    assert found.pop(("muon", 1, 0.1)) == {block + name for block in blocks for name in inner}
    outer = {"token_embedding.weight", "position_embedding.weight" if rung == "gpt2" else "head.weight"}
    assert found.pop(("adamw", None, 0.1)) == outer
    rest = found.pop(("adamw", None, 0.0), set())
    assert not found and (rung == "gpt2") == bool(rest)
    assert all(name.endswith("bias") or "norm" in name for name in rest)


def test_the_schedule_scales_the_matrices_rate_as_it_does_the_others() -> None:
    optimizer = build(small_model(), CONFIG)
    set_learning_rate(optimizer, 3e-3 / 4)
    rates = {group["kind"]: group["lr"] for group in optimizer.param_groups}
    assert rates["adamw"] == 3e-3 / 4  # to the last bit
    assert rates["muon"] == pytest.approx(0.02 / 4)


def test_in_a_run_of_bfloat16_muons_products_are_bfloat16s_too() -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = small_model()
        start = weights(model)
        train(model, build(model, CONFIG, dtype), range(1))
        found.append(weights(model))
    name = "blocks.0.feedforward.expand.weight"
    moved = (found[0][name] - start[name]).norm()
    assert 0 < (found[1][name] - found[0][name]).norm() < 0.15 * moved
    assert found[1][name].dtype == torch.float32


def test_a_model_without_blocks_has_nothing_for_muon() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.kind must be adamw or sgd for a Bigram, got 'muon'"):
        build(Bigram(BigramConfig(context=4), V), CONFIG)


# ---- found_inf ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["muon", "adamw", "sgd"])
def test_a_step_that_was_called_off_changes_nothing_and_leaves_no_trace(kind: str) -> None:
    config = OptimizerConfig(kind=kind, lr=3e-3)  # type: ignore[arg-type]
    runs = []
    for called_off in (False, True):
        model = small_model()
        optimizer = build(model, config)
        train(model, optimizer, range(2))
        if called_off:
            before = weights(model)
            backward(model, seed=9)
            for p in model.parameters():
                p.grad.flatten()[0] = math.nan
                p.grad.flatten()[1] = math.inf
            optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
            optimizer.step()
            assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
            optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
        train(model, optimizer, range(2, 4))
        runs.append(weights(model))
    assert all(torch.equal(tensor, runs[0][name]) for name, tensor in runs[1].items())


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    unbroken = small_model()
    train(unbroken, build(unbroken, CONFIG), range(6))
    first = small_model()
    optimizer = build(first, CONFIG)
    train(first, optimizer, range(3))
    state = State(step=3, tokens=0, rung="gpt2", fingerprint="f", config="", batches={})
    checkpoint = save(tmp_path, first, optimizer, state)
    second = small_model()
    again = build(second, CONFIG)
    load(checkpoint, second, again, rung="gpt2", fingerprint="f")
    train(second, again, range(3, 6))
    expected = weights(unbroken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(second).items())


# ---- shared out -----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of the logits, a view; a run shares out its objective
@pytest.mark.usefixtures("alone_in_a_group")
def test_a_shared_out_parameter_takes_the_step_of_a_whole_one() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole, shared = small_model(), small_model()
    fully_shard(shared, mesh=init_device_mesh("cpu", (1,)))
    for model in (whole, shared):
        train(model, build(model, CONFIG), range(2))
    for name, p in shared.named_parameters():
        torch.testing.assert_close(p.full_tensor(), whole.get_parameter(name), rtol=0, atol=1e-6)


def _rank(rank: int, folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 3)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=3)
    model = small_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (3,)))  # 3 ranks: 16 rows do not divide by them
    optimizer = build(model, CONFIG)
    train(model, optimizer, range(2))
    optimizer.found_inf = torch.tensor(1.0)
    train(model, optimizer, range(2, 3))
    full = {name: p.full_tensor() for name, p in model.named_parameters()}
    if rank == 0:
        torch.save(full, folder / "full.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shared_out_over_three_processes_the_steps_are_those_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(tmp_path,), nprocs=3)
    whole = small_model()
    train(whole, build(whole, CONFIG), range(2))
    for name, tensor in torch.load(tmp_path / "full.pt").items():
        torch.testing.assert_close(tensor, whole.get_parameter(name).detach(), rtol=0, atol=1e-6)


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_on_cuda_the_steps_are_near_those_of_the_cpu_and_wait_for_nothing() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    here, there = small_model(), small_model().to("cuda")
    optimizers = build(here, CONFIG), build(there, CONFIG)
    start = weights(here)
    for step in range(3):
        backward(here, seed=step)
        for name, p in there.named_parameters():
            p.grad = here.get_parameter(name).grad.to("cuda")
        optimizers[1].found_inf = torch.zeros((), device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizers[1].step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizers[0].step()
    for name, tensor in weights(here).items():
        if tensor.dim() == 2:
            moved = (tensor - start[name]).norm()
            assert (there.get_parameter(name).cpu() - tensor).norm() < 0.15 * moved, name  # of bfloat16; 0.09 on a CPU
