import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpetok.errors import DataError
from lm.errors import ConfigError, NonFiniteError
from lm.examples import split_lines, windows
from lm.fast import CHUNK, seeded, train
from lm.models.batchnorm import BatchNormMLP, BatchNormMLPConfig
from lm.models.contract import WindowModel
from lm.models.dilated import DilatedWaveNet, DilatedWaveNetConfig
from lm.models.mlp import MLP, MLPConfig
from lm.models.wavenet import WaveNet, WaveNetConfig

VOCAB = 27
BUILD: dict[str, Callable[[], WindowModel]] = {
    "unit": lambda: MLP(MLPConfig(context=16, window=3, embedding=10, hidden=200, init="unit"), VOCAB),
    "kaiming": lambda: MLP(MLPConfig(context=16, window=3, embedding=10, hidden=200, init="kaiming"), VOCAB),
    "batchnorm": lambda: BatchNormMLP(BatchNormMLPConfig(context=16, window=3, embedding=10, hidden=200), VOCAB),
    "wavenet": lambda: WaveNet(WaveNetConfig(context=16, levels=3, embedding=24, hidden=128), VOCAB),
}
SMALL: dict[str, Callable[[], WindowModel]] = {
    "mlp": lambda: MLP(MLPConfig(context=16, window=3, embedding=4, hidden=20, init="kaiming"), VOCAB),
    "batchnorm": lambda: BatchNormMLP(BatchNormMLPConfig(context=16, window=3, embedding=4, hidden=20), VOCAB),
    "wavenet": lambda: WaveNet(WaveNetConfig(context=16, levels=2, embedding=4, hidden=16), VOCAB),
}


def made_up(model: WindowModel, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Windows of random ids whose target is mostly their last id, so that there is something to learn."""
    generator = torch.Generator().manual_seed(1)
    inputs_NW = torch.randint(VOCAB, (count, model.window), generator=generator)
    noise_N = torch.randint(VOCAB, (count,), generator=generator)
    return inputs_NW, torch.where(noise_N < 9, noise_N, inputs_NW[:, -1])


def readable(
    model: WindowModel, inputs_NW: Tensor, targets_N: Tensor, generator: torch.Generator, steps: int, rate: float
) -> Tensor:
    """The lectures' loop: a batch a step, autograd, and each parameter less its gradient times the rate."""
    losses = []
    parameters = list(model.parameters())
    for _ in range(steps):
        at_B = torch.randint(len(targets_N), (32,), generator=generator)
        loss = F.cross_entropy(model.next_logits(inputs_NW[at_B]), targets_N[at_B])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def both(name: str, steps: int, *, dtype: torch.dtype) -> tuple[WindowModel, WindowModel, Tensor, Tensor]:
    """The readable model and the fast one, trained alike, and their losses."""
    slow, slow_generator = seeded(BUILD[name], seed=2147483647)
    fast, fast_generator = seeded(BUILD[name], seed=2147483647)
    data = made_up(slow)
    slow_losses = readable(slow.to(dtype), *data, slow_generator, steps, rate=0.1)
    fast_losses = train([fast.to(dtype)], *data, generators=[fast_generator], steps=steps, rate=lambda _: 0.1)
    return slow, fast, slow_losses, fast_losses[:, 0].double()


def largest_difference(one: WindowModel, other: WindowModel) -> float:
    """Over all parameters and buffers."""
    return max((one.state_dict()[name] - tensor).abs().max().item() for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", BUILD)
def test_in_double_precision_the_readable_path_is_met_to_the_tenth_digit(name: str) -> None:
    slow, fast, slow_losses, fast_losses = both(name, 100, dtype=torch.float64)
    assert largest_difference(slow, fast) < 1e-10
    assert (slow_losses - fast_losses).abs().max() < 1e-10
    assert fast_losses[-20:].mean() < 0.97 * fast_losses[:20].mean()  # it has learnt something


@pytest.mark.parametrize("name", ["kaiming", "batchnorm", "wavenet"])
def test_after_100_steps_in_single_precision_the_weights_are_those_of_the_readable_path(name: str) -> None:
    slow, fast, _, _ = both(name, 100, dtype=torch.float32)
    assert largest_difference(slow, fast) < 1e-5


# "unit" is not here: its saturated units blow up rounding, so that the readable path itself, with the rows of each
# batch in another order, is 1 % off after 1,000 steps. In double precision, above, it is held as the others are.
@pytest.mark.parametrize("name", ["kaiming", "batchnorm", "wavenet"])
def test_each_of_the_first_1000_losses_is_that_of_the_readable_path(name: str) -> None:
    _, _, slow_losses, fast_losses = both(name, 1000, dtype=torch.float32)
    assert ((slow_losses - fast_losses).abs() / slow_losses).max() < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_eight_seeds_at_once_are_eight_runs_of_one(name: str) -> None:
    steps = CHUNK + 10
    together = [seeded(SMALL[name], seed) for seed in range(8)]
    data = made_up(together[0][0])
    models, generators = [model for model, _ in together], [generator for _, generator in together]
    losses_KS = train(models, *data, generators=generators, steps=steps, rate=lambda _: 0.1)
    for seed, model in enumerate(models):
        alone, generator = seeded(SMALL[name], seed)
        alone_losses = train([alone], *data, generators=[generator], steps=steps, rate=lambda _: 0.1)
        assert largest_difference(alone, model) < 1e-5
        assert (losses_KS[:, seed] - alone_losses[:, 0]).abs().max() < 1e-5
    assert losses_KS[0].std() > 0  # and they are different runs


def test_the_same_run_twice_is_the_same_to_the_last_bit() -> None:
    models, losses = [], []
    for _ in range(2):
        model, generator = seeded(SMALL["batchnorm"], seed=3)
        losses.append(train([model], *made_up(model), generators=[generator], steps=50, rate=lambda _: 0.1))
        models.append(model)
    assert torch.equal(*losses)
    assert largest_difference(*models) == 0


def test_a_seeded_model_and_its_batches_are_those_of_manual_seed() -> None:
    model, generator = seeded(SMALL["mlp"], seed=42)
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        assert largest_difference(SMALL["mlp"](), model) == 0
        # A chunk drawn at once is the chunk drawn step by step.
        steps = torch.stack([torch.randint(182_625, (32,)) for _ in range(CHUNK)])
    assert torch.equal(torch.randint(182_625, (CHUNK, 32), generator=generator), steps)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rate_is_asked_for_each_step_and_progress_told_after_each_chunk() -> None:
    model, generator = seeded(SMALL["mlp"], seed=0)
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.1 if step < 300 else 0.0

    losses_KS = train(
        [model],
        *made_up(model),
        generators=[generator],
        steps=600,
        rate=rate,
        progress=lambda done, losses: told.append((done, len(losses))),
    )
    assert asked == list(range(600))
    assert told == [(250, 250), (500, 250), (600, 100)]
    other, generator = seeded(SMALL["mlp"], seed=0)
    shorter_KS = train([other], *made_up(other), generators=[generator], steps=300, rate=lambda _: 0.1)
    assert torch.equal(losses_KS[:300], shorter_KS)
    assert largest_difference(model, other) == 0  # a rate of 0 changes nothing


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_models_alone() -> None:
    models = [seeded(SMALL["mlp"], seed)[0] for seed in (0, 1)]
    with torch.no_grad():
        models[1].get_parameter("head.weight")[0, 0] = math.nan
    before = [parameter.clone() for parameter in models[0].parameters()]
    generators = [torch.Generator(), torch.Generator()]
    with pytest.raises(NonFiniteError, match=r"fast: the loss of step 0, model 1, must be finite, got nan"):
        train(models, *made_up(models[0]), generators=generators, steps=20, rate=lambda _: 0.1)
    assert all(torch.equal(*pair) for pair in zip(models[0].parameters(), before, strict=True))


def test_a_rate_that_is_far_too_large_is_an_error_at_the_step_where_it_shows() -> None:
    model, generator = seeded(SMALL["mlp"], seed=0)
    with pytest.raises(NonFiniteError, match=r"step 261, model 0, must be finite.*\n?.*hint: a smaller learning rate"):
        train(
            [model],
            *made_up(model),
            generators=[generator],
            steps=400,
            rate=lambda step: math.inf if step == 260 else 0.1,
        )
    with pytest.raises(NonFiniteError, match=r"fast: the weights after step 9 must be finite"):
        train(
            [model],
            *made_up(model),
            generators=[generator],
            steps=10,
            rate=lambda step: math.inf if step == 9 else 0.1,
        )


def test_models_that_cannot_be_trained_here_are_refused() -> None:
    mlp, batchnorm = SMALL["mlp"](), SMALL["batchnorm"]()
    dilated = DilatedWaveNet(DilatedWaveNetConfig(context=8, levels=2, embedding=4, hidden=16), VOCAB)
    data = made_up(mlp)

    def attempt(*models: WindowModel, steps: int = 1, batch: int = 32) -> None:
        generators = [torch.Generator() for _ in models]
        train(models, *data, generators=generators, steps=steps, batch=batch, rate=lambda _: 0.1)

    with pytest.raises(ConfigError, match=r"fast: models must be of MLP, BatchNormMLP, WaveNet, got 'DilatedWaveNet'"):
        attempt(dilated)
    with pytest.raises(ConfigError, match=r"fast: models must be of one shape"):
        attempt(mlp, batchnorm)
    with pytest.raises(ConfigError, match=r"fast: models must be one or more, got 0"):
        attempt()
    with pytest.raises(ConfigError, match=r"fast: steps must be at least 1, got 0"):
        attempt(mlp, steps=0)
    with pytest.raises(ConfigError, match=r"fast: batch must be at least 2, got 1"):
        attempt(mlp, batch=1)
    with pytest.raises(ConfigError, match=r"fast: models must be on the CPU, got 'meta'"):
        attempt(SMALL["mlp"]().to("meta"))
    with pytest.raises(ConfigError, match=r"fast: generators must be 1, one a model, got 0"):
        train([mlp], *data, generators=[], steps=1, rate=lambda _: 0.1)


def test_data_that_does_not_fit_the_model_is_refused() -> None:
    model = SMALL["mlp"]()
    inputs_NW, targets_N = made_up(model)

    def attempt(inputs: Tensor, targets: Tensor) -> None:
        train([model], inputs, targets, generators=[torch.Generator()], steps=1, rate=lambda _: 0.1)

    with pytest.raises(DataError, match=r"fast: inputs must be N windows of 3 ids .* got \(2000, 2\) and \(2000,\)"):
        attempt(inputs_NW[:, 1:], targets_N)
    with pytest.raises(DataError, match=r"fast: inputs must be N windows .* got \(2000, 3\) and \(5,\)"):
        attempt(inputs_NW, targets_N[:5])
    with pytest.raises(DataError, match=r"fast: inputs must be N windows .* got \(0, 3\) and \(0,\)"):
        attempt(inputs_NW[:0], targets_N[:0])
    for wrong, shown in ((VOCAB, VOCAB), (-1, -1)):
        with pytest.raises(DataError, match=rf"fast: ids must be in \[0, 27\), got {shown}\nhint: is it another"):
            attempt(inputs_NW, targets_N.index_fill(0, torch.tensor([7]), wrong))


@pytest.fixture(scope="session")
def names() -> list[list[list[int]]]:
    """names.txt as ids, in the lectures' three parts."""
    folder = os.environ.get("BPETOK_DATA")
    if folder is None or not (path := Path(folder) / "names.txt").is_file():
        pytest.skip("needs names.txt; BPETOK_DATA names its folder")
    parts = split_lines(path.read_text().splitlines())
    return [[[ord(letter) - 96 for letter in name] for name in part] for part in (parts.train, parts.val)]


PUBLISHED = {
    # Seed, step from which the rate is .01, train, dev: the re-runs and notebooks of makemore parts 2, 3 and 5.
    "unit": (2147483647, 100_000, 2.12195, 2.16552),
    "kaiming": (2147483647, 100_000, 2.03766, 2.10699),
    "batchnorm": (2147483647, 100_000, 2.0674145, 2.1056840),
    "wavenet": (42, 150_000, 1.7690284, 1.9936515),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_run_ends_at_the_published_losses(name: str, names: list[list[list[int]]]) -> None:
    seed, drop, *published = PUBLISHED[name]
    model, generator = seeded(BUILD[name], seed)
    splits = [windows(part, model.window, separator=0) for part in names]
    train([model], *splits[0], generators=[generator], steps=200_000, rate=lambda step: 0.1 if step < drop else 0.01)
    model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(model.next_logits(inputs_NW), targets_N).item() for inputs_NW, targets_N in splits]
    # 200,000 steps carry a difference in the last bit far: another path, to a loss that is the same within .01.
    assert losses == [pytest.approx(figure, abs=0.01) for figure in published]
