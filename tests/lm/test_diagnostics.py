"""The diagnostics: against the figures that makemore part 3 prints, against values by hand, and on every rung."""

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpetok.errors import DataError
from lm.config import Config
from lm.diagnostics import BINS, ActivationRow, Diagnosis, Histogram, Spread, watch
from lm.loss import cross_entropy
from lm.models import LADDER


class Normalize(nn.Module):
    """BatchNorm as the lecture writes it: over the batch, with the unbiased variance; this is its training mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x_BC: Tensor) -> Tensor:
        mean_1C, variance_1C = x_BC.mean(0, keepdim=True), x_BC.var(0, keepdim=True)
        return self.gamma * ((x_BC - mean_1C) / torch.sqrt(variance_1C + 1e-5)) + self.beta


class Project(nn.Module):
    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn((inputs, outputs), generator=generator) / inputs**0.5)

    def forward(self, x_BC: Tensor) -> Tensor:
        return x_BC @ self.weight


class SixLayers(nn.Module):
    """The network of makemore part 3, second half: six linear layers, each with BatchNorm, five with tanh."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn((27, 10), generator=generator))
        layers: list[nn.Module] = []
        for inputs in (30, 100, 100, 100, 100):
            layers += [Project(inputs, 100, generator), Normalize(100), nn.Tanh()]
        self.layers = nn.Sequential(*layers, Project(100, 27, generator), Normalize(27))
        with torch.no_grad():
            self.layers[-1].gamma *= 0.1

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.layers(self.embedding[ids_BT].flatten(1))


def examples_of(names: list[str]) -> tuple[Tensor, Tensor]:
    """The lecture's examples: each character, and the three before it."""
    contexts, targets = [], []
    for name in names:
        context = [0, 0, 0]
        for char in f"{name}.":
            target = 0 if char == "." else ord(char) - ord("a") + 1
            contexts.append(context)
            targets.append(target)
            context = [*context[1:], target]
    return torch.tensor(contexts), torch.tensor(targets)


@pytest.fixture(scope="module")
def lecture() -> Diagnosis:
    """The lecture's network at the step that its notebook measures, number 1,000 counted from 0."""
    if "BPETOK_DATA" not in os.environ:
        pytest.skip("BPETOK_DATA does not name the folder of names.txt")
    names = (Path(os.environ["BPETOK_DATA"]) / "names.txt").read_text(encoding="utf-8").split()
    random.Random(42).shuffle(names)
    contexts, targets = examples_of(names[: int(0.8 * len(names))])
    generator = torch.Generator().manual_seed(2147483647)
    model = SixLayers(generator)
    assert sum(parameter.numel() for parameter in model.parameters()) == 47_024
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        chosen = torch.randint(0, len(contexts), (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(contexts[chosen]), targets[chosen]).backward()
        optimizer.step()

    for _ in range(1000):
        step()
    with watch(model) as watching:
        step()
        return watching.diagnose()


def test_the_activations_are_those_that_the_lecture_prints(lecture: Diagnosis) -> None:
    rows = lecture.activations
    assert [(row.name, row.kind) for row in rows] == [(f"layers.{i}", "Tanh") for i in (2, 5, 8, 11, 14)]
    assert [round(row.values.std, 2) for row in rows] == [0.63, 0.64, 0.65, 0.65, 0.65]
    assert [round(100 * row.saturated, 2) for row in rows] == [2.78, 2.56, 2.25, 1.69, 1.88]
    assert all(abs(row.values.mean) < 0.005 for row in rows)  # printed as 0.00
    assert all(row.dead == 0 for row in rows)


def test_their_gradients_are_those_that_the_lecture_prints(lecture: Diagnosis) -> None:
    printed = [2.640702e-03, 2.245584e-03, 2.045742e-03, 1.983134e-03, 1.952382e-03]
    # Seven digits are printed; 1,000 steps on another CPU may move the last ones.
    assert [row.gradient.std for row in lecture.activations] == pytest.approx(printed, rel=1e-4)


def test_the_weights_and_their_gradients_are_those_that_the_lecture_prints(lecture: Diagnosis) -> None:
    matrices = [row for row in lecture.parameters if len(row.shape) == 2]
    assert [row.shape for row in matrices] == [(27, 10), (30, 100), *[(100, 100)] * 4, (100, 27)]
    means = [0.0, 0.000246, 0.000113, -0.000086, 0.000052, 0.000032, -0.000082]
    stds = [8.020534e-03, 9.241077e-03, 7.132879e-03, 6.234305e-03, 5.742187e-03, 5.672205e-03, 1.209416e-02]
    ratios = [8.012630e-03, 4.881091e-02, 6.964619e-02, 6.073741e-02, 5.631483e-02, 5.570125e-02, 1.160106e-01]
    assert [row.gradient.mean for row in matrices] == pytest.approx(means, abs=6e-7)
    assert [row.gradient.std for row in matrices] == pytest.approx(stds, rel=1e-4)
    assert [row.grad_to_data for row in matrices] == pytest.approx(ratios, rel=1e-4)


def test_the_update_is_the_learning_rate_times_the_gradient_as_in_the_lecture(lecture: Diagnosis) -> None:
    # The lecture plots log10 of lr * grad / data with no printed figure; the rate is .1, so one less than grad : data.
    for row in lecture.parameters:
        assert row.update_to_data == pytest.approx(0.1 * row.grad_to_data, rel=1e-3), row.name
        assert row.log10_update_to_data == pytest.approx(math.log10(row.grad_to_data) - 1, abs=1e-3)


def test_a_known_update_is_found_whatever_made_it() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 3.0]])
    with watch(model) as watching:
        model(torch.tensor([[2.0, 6.0]])).sum().backward()  # the gradient is the input
        model.weight.data = torch.tensor([[1.5, 5.5]])
        (row,) = watching.diagnose().parameters
    # The standard deviation of two values is their distance over the root of 2.
    assert row.data_std == pytest.approx(4 / 2**0.5)
    assert row.gradient.mean == 4
    assert row.gradient.std == pytest.approx(4 / 2**0.5)
    assert row.update_std == pytest.approx(2 / 2**0.5)
    assert (row.grad_to_data, row.update_to_data) == (1.0, 0.5)
    assert row.log10_update_to_data == pytest.approx(math.log10(0.5))


def activation(module: nn.Module, inputs: Tensor) -> ActivationRow:
    """The row of one activation that is called once, its outputs summed up to the loss."""
    with watch(nn.Sequential(module)) as watching:
        module(inputs.requires_grad_()).sum().backward()
        (row,) = watching.diagnose().activations
    return row


def test_a_dead_relu_is_found() -> None:
    inputs_BC = torch.tensor([[-1.0, 2.0, -1.0, 5.0], [-3.0, 4.0, 1.0, -5.0]])
    row = activation(nn.ReLU(), inputs_BC)
    assert (row.kind, row.saturated, row.dead) == ("ReLU", 0.5, 0.25)  # only the first unit on both examples
    assert row.gradient.mean == 1


@pytest.mark.parametrize(
    ("module", "inside", "outside"),
    [
        (nn.Tanh(), math.atanh(0.9699), math.atanh(0.9701)),
        (nn.Tanh(), math.atanh(-0.9699), math.atanh(-0.9701)),
        (nn.Sigmoid(), 2 * math.atanh(0.9699), 2 * math.atanh(0.9701)),
        (nn.Sigmoid(), -2 * math.atanh(0.9699), -2 * math.atanh(0.9701)),
        (nn.ReLU(), 1e-30, 0.0),
        (nn.GELU(), -2.249, -2.251),
        (nn.GELU(approximate="tanh"), -0.7517, -2.251),  # the minimum is flat, and no saturation
    ],
)
def test_an_activation_is_saturated_past_its_bound_and_not_before(
    module: nn.Module, inside: float, outside: float
) -> None:
    row = activation(module, torch.tensor([[inside, outside], [inside, outside], [inside, inside]]))
    assert row.saturated == pytest.approx(2 / 6)
    assert row.dead == 0
    assert activation(module, torch.tensor([[inside, outside], [inside, outside]])).dead == 0.5


def test_the_units_of_a_sequence_are_its_last_dimension() -> None:
    inputs_BTC = torch.full((2, 3, 4), -1.0)
    inputs_BTC[1, 2, :3] = 1
    assert activation(nn.ReLU(), inputs_BTC).dead == 0.25


class Repeated(nn.Module):
    """A recurrent step of some rounds: one tanh, called for each."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = nn.Tanh()
        self.never = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_BTC: Tensor) -> Tensor:
        return sum(self.tanh(x_BC * self.scale) for x_BC in x_BTC.unbind(1))


def test_a_module_that_is_called_several_times_is_one_row_and_one_never_called_is_none() -> None:
    x_BTC = torch.tensor([[[9.0, 9.0], [9.0, 0.0], [9.0, 0.0]]])
    model = Repeated()
    with watch(model) as watching:
        model(x_BTC).sum().backward()
        (row,) = watching.diagnose().activations
    assert (row.name, sum(row.values.histogram.counts)) == ("tanh", 6)
    assert row.saturated == pytest.approx(4 / 6)
    assert row.dead == 0.5
    assert sum(row.gradient.histogram.counts) == 6


def test_of_several_micro_batches_the_last_ones_activations_and_the_summed_gradients_are_seen() -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.ReLU())
    model[0].weight.data = torch.tensor([[1.0], [2.0]])
    with watch(model) as watching:
        for value in (1.0, 10.0):
            model(torch.full((1, 1), value)).sum().backward()
        diagnosis = watching.diagnose()
    assert [row.values.mean for row in diagnosis.activations] == [15, 15]  # of 10 and 20
    assert diagnosis.parameters[0].gradient.mean == 11
    assert diagnosis.parameters[0].update_to_data == 0
    assert diagnosis.parameters[0].log10_update_to_data is None


def test_a_forward_pass_alone_has_no_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with watch(model) as watching, torch.no_grad():
        model(torch.ones(2, 3))
        diagnosis = watching.diagnose()
    assert diagnosis.activations[0].gradient is None
    assert all(row.gradient is None and row.grad_to_data is None for row in diagnosis.parameters)


def test_what_was_seen_is_still_there_behind_the_block() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with watch(model) as watching:
        model(torch.ones(2, 3)).sum().backward()
    model(torch.full((2, 3), math.nan))
    diagnosis = watching.diagnose()
    assert diagnosis.activations[0].values.nonfinite == 0
    assert diagnosis.activations[0].gradient is not None


def test_nothing_stays_on_the_model_when_the_block_ends_even_by_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with pytest.raises(ZeroDivisionError), watch(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    spread = Spread.of(torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf]))
    assert (spread.mean, spread.nonfinite, spread.histogram.low, spread.histogram.high) == (2.0, 3, 1.0, 3.0)
    nothing = Spread.of(torch.tensor([math.nan, math.inf]))
    assert (nothing.mean, nothing.std, nothing.nonfinite, nothing.histogram) == (None, None, 2, None)


def test_a_model_full_of_nan_is_diagnosed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    nn.init.constant_(model[0].weight, math.nan)
    with watch(model) as watching:
        model(torch.ones(2, 3)).sum().backward()
        diagnosis = watching.diagnose()
    assert diagnosis.activations[0].values.nonfinite == 6
    assert diagnosis.parameters[0].data_std is None
    assert diagnosis.parameters[0].grad_to_data is None
    assert "NaN" not in json.dumps(diagnosis.to_json())


@pytest.mark.parametrize("values", [[2.0], [7.0, 7.0, 7.0], [1e20, 1e20], [-3e38, 3e38], [1e-45, 0.0], [0.0]])
def test_the_extremes_have_a_histogram_too(values: list[float]) -> None:
    histogram = Spread.of(torch.tensor(values)).histogram
    assert sum(histogram.counts) == len(values)
    assert histogram.low < histogram.high
    assert all(math.isfinite(height) for height in histogram.densities)


def test_a_single_value_has_no_standard_deviation() -> None:
    assert Spread.of(torch.tensor([2.0])).std is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_histogram_is_numpys(dtype: torch.dtype) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1)).to(dtype)
    histogram = Spread.of(values).histogram
    edges = torch.tensor(histogram.edges, dtype=torch.float64)
    assert len(histogram.counts) == BINS
    assert sum(histogram.counts) == 10_000
    # A value on an edge may fall to either side: the edges are rounded to the values' dtype.
    by_torch = torch.histogram(values.double(), edges).hist.tolist()
    assert sum(abs(ours - theirs) for ours, theirs in zip(histogram.counts, by_torch, strict=True)) <= 2
    widths = edges.diff()
    assert sum(d * w for d, w in zip(histogram.densities, widths.tolist(), strict=True)) == pytest.approx(1)


def test_each_value_lies_in_the_bin_whose_lower_edge_it_reaches() -> None:
    values = torch.tensor([0.0, 0.999, 1.0, 49.0, 49.5, 50.0])
    counts = Spread.of(values).histogram.counts
    assert counts == (2, 1, *[0] * 47, 3)


def test_a_line_of_the_log_that_is_no_diagnosis_is_refused() -> None:
    for line in ({}, {"activations": [], "parameters": [{"name": "w"}]}, {"activations": 3, "parameters": []}):
        with pytest.raises(DataError, match=r"diagnosis: it must be as to_json writes it, got"):
            Diagnosis.from_json(line)


def test_the_edges_of_a_histogram_are_equally_far_apart() -> None:
    assert Histogram(low=-1.0, high=1.0, counts=(1, 1, 1, 1)).edges == (-1.0, -0.5, 0.0, 0.5, 1.0)


@pytest.mark.parametrize("rung", LADDER)
def test_every_rung_is_diagnosed_and_learns_the_same_watched_or_not(
    rung: str, small_run: Callable[..., Config]
) -> None:
    config = small_run(rung).model
    ids_BT = torch.randint(50, (4, config.context + 1), generator=torch.Generator().manual_seed(2))

    def weights(watched: bool) -> tuple[dict[str, Tensor], Diagnosis | None]:
        torch.manual_seed(1)
        model = LADDER[rung].build(config, 50)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

        def step() -> None:
            optimizer.zero_grad()
            cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).backward()
            optimizer.step()

        diagnosis = None
        for _ in range(3):
            if watched:
                with watch(model) as watching:
                    step()
                    diagnosis = watching.diagnose()
            else:
                step()
        return model.state_dict(), diagnosis

    unwatched, _ = weights(watched=False)
    watched, diagnosis = weights(watched=True)
    assert all(torch.equal(unwatched[name], watched[name]) for name in unwatched)
    assert diagnosis is not None
    assert bool(diagnosis.activations) == (rung != "bigram")  # which has none
    assert all(row.gradient is not None for row in (*diagnosis.activations, *diagnosis.parameters))
    assert all(row.gradient.nonfinite == row.values.nonfinite == 0 for row in diagnosis.activations)
    assert all(row.update_std is None or row.update_std > 0 for row in diagnosis.parameters)
    line = json.dumps({"event": "diagnostics", "step": 3, **diagnosis.to_json()}, allow_nan=False)
    assert Diagnosis.from_json(json.loads(line)) == diagnosis
