"""Whole runs on text: the lectures' own, beside a plain loop in their manner, and what a resume and an error owe."""

import dataclasses
import json
import os
import random
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import bpetok
from bpetok.errors import IncompatibleError
from lm.batches import IGNORE, Batches
from lm.checkpoint import read_state
from lm.config import (
    BatchConfig,
    Config,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TextConfig,
    load_config,
    shipped_configs,
)
from lm.data import open_data
from lm.errors import ConfigError, NonFiniteError
from lm.events import Event, SampleEvent, StartEvent, StepEvent
from lm.models.attention import TransformerConfig
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.bigram import BigramConfig
from lm.models.contract import RungConfig
from lm.models.dilated import DilatedWaveNetConfig
from lm.models.gpt2 import GPT2Config
from lm.models.mlp import MLPConfig
from lm.models.rnn import GRUConfig
from lm.models.wavenet import WaveNetConfig
from lm.sample import load_run
from lm.train import train

Weights = dict[str, Tensor]
Examples = tuple[Tensor, Tensor]


def weights(run: Path, step: int) -> Weights:
    return safetensors.torch.load_file(run / "checkpoints" / f"step_{step:06d}" / "model.safetensors")


TIMES = ("seconds", "tokens_per_second", "mfu")


def log_without_times(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


# ---- the lectures' runs ----------------------------------------------------------------------------------------------

SEED = 2147483647


@pytest.fixture(scope="module")
def names() -> list[str]:
    """All names in the lectures' order."""
    folder = os.environ.get("BPETOK_DATA")
    path = Path(folder or "", "names.txt")
    if not folder or not path.is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with names.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    random.Random(42).shuffle(lines)
    return lines


@pytest.fixture(scope="module")
def splits(names: list[str]) -> Callable[[int], tuple[Examples, Examples]]:
    """`splits(window)`: the contexts and targets of training and of validation, as the lectures build them."""
    first, second = int(0.8 * len(names)), int(0.9 * len(names))
    return cache(lambda window: (examples_of(names[:first], window), examples_of(names[first:second], window)))


def examples_of(names: list[str], window: int) -> Examples:
    contexts, targets = [], []
    for name in names:
        context = [0] * window
        for letter in f"{name}.":
            target = 0 if letter == "." else ord(letter) - ord("a") + 1
            contexts.append(context)
            targets.append(target)
            context = [*context[1:], target]
    return torch.tensor(contexts), torch.tensor(targets)


def descend(
    forward: Callable[[Tensor], Tensor], parameters: list[Tensor], examples: Examples, steps: int, **drawing: Any
) -> list[float]:
    """The loop of parts 2 to 5: bare tensors, rows drawn with repetition, `p.data += -lr * p.grad`."""
    contexts, targets = examples
    losses = []
    for parameter in parameters:
        parameter.requires_grad = True
    for _ in range(steps):
        chosen = torch.randint(0, contexts.shape[0], (32,), **drawing)
        loss = F.cross_entropy(forward(contexts[chosen]), targets[chosen])
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        for parameter in parameters:
            parameter.data += -0.1 * parameter.grad
        losses.append(loss.item())
    return losses


def mlp_by_hand(examples: Examples, steps: int, *, kaiming: bool) -> tuple[Weights, list[float]]:
    """Part 2's network, and part 3's before its BatchNorm."""
    generator = torch.Generator().manual_seed(SEED)
    table_VE = torch.randn((27, 10), generator=generator)
    hidden_IH, hidden_H = torch.randn((30, 200), generator=generator), torch.randn(200, generator=generator)
    head_HV, head_V = torch.randn((200, 27), generator=generator), torch.randn(27, generator=generator)
    if kaiming:
        hidden_IH, hidden_H = hidden_IH * (5 / 3) / (30**0.5), hidden_H * 0.01
        head_HV, head_V = head_HV * 0.01, head_V * 0

    def forward(contexts_NW: Tensor) -> Tensor:
        x_NI = table_VE[contexts_NW].view(len(contexts_NW), -1)
        return torch.tanh(x_NI @ hidden_IH + hidden_H) @ head_HV + head_V

    parameters = [table_VE, hidden_IH, hidden_H, head_HV, head_V]
    losses = descend(forward, parameters, examples, steps, generator=generator)
    keys = ["embedding.weight", "hidden.weight", "hidden.bias", "head.weight", "head.bias"]
    return dict(zip(keys, parameters, strict=True)), losses


def batchnorm_by_hand(examples: Examples, steps: int) -> tuple[Weights, list[float]]:
    """Part 3's network as its notebook has it."""
    generator = torch.Generator().manual_seed(SEED)
    table_VE = torch.randn((27, 10), generator=generator)
    hidden_IH = torch.randn((30, 200), generator=generator) * (5 / 3) / (30**0.5)
    head_HV = torch.randn((200, 27), generator=generator) * 0.01
    head_V = torch.randn(27, generator=generator) * 0
    gain_H, bias_H = torch.ones((1, 200)), torch.zeros((1, 200))
    running = {"mean": torch.zeros((1, 200)), "std": torch.ones((1, 200))}

    def forward(contexts_NW: Tensor) -> Tensor:
        x_NH = table_VE[contexts_NW].view(len(contexts_NW), -1) @ hidden_IH
        batch = {"mean": x_NH.mean(0, keepdim=True), "std": x_NH.std(0, keepdim=True)}
        x_NH = gain_H * (x_NH - batch["mean"]) / batch["std"] + bias_H
        with torch.no_grad():
            for key, value in batch.items():
                running[key] = 0.999 * running[key] + 0.001 * value
        return torch.tanh(x_NH) @ head_HV + head_V

    parameters = [table_VE, hidden_IH, head_HV, head_V, gain_H, bias_H]
    losses = descend(forward, parameters, examples, steps, generator=generator)
    keys = ["embedding.weight", "hidden.weight", "head.weight", "head.bias", "batchnorm.gain", "batchnorm.bias"]
    found = dict(zip(keys, parameters, strict=True))
    return found | {f"batchnorm.running_{key}": value for key, value in running.items()}, losses


def wavenet_by_hand(examples: Examples, steps: int) -> tuple[Weights, list[float]]:
    """Part 5's network of 76,579 parameters, on the global generator."""
    torch.manual_seed(42)
    table_VE = torch.randn((27, 24))
    products = [torch.randn((inputs, 128)) / inputs**0.5 for inputs in (48, 256, 256)]
    head_HV, head_V = torch.randn((128, 27)) / 128**0.5, torch.zeros(27)
    head_HV *= 0.1
    gammas, betas = [torch.ones(128) for _ in range(3)], [torch.zeros(128) for _ in range(3)]
    means, variances = [torch.zeros(128)] * 3, [torch.ones(128)] * 3

    def forward(contexts_NW: Tensor) -> Tensor:
        x = table_VE[contexts_NW]
        for level in range(3):
            x = x.view(x.shape[0], x.shape[1] // 2, x.shape[2] * 2)
            x = (x.squeeze(1) if x.shape[1] == 1 else x) @ products[level]
            over = (0, 1) if x.ndim == 3 else 0
            mean, variance = x.mean(over, keepdim=True), x.var(over, keepdim=True)
            x = torch.tanh(gammas[level] * ((x - mean) / torch.sqrt(variance + 1e-5)) + betas[level])
            with torch.no_grad():
                means[level] = (1 - 0.1) * means[level] + 0.1 * mean
                variances[level] = (1 - 0.1) * variances[level] + 0.1 * variance
        return x @ head_HV + head_V

    parameters = [table_VE, *products, *gammas, *betas, head_HV, head_V]
    losses = descend(forward, parameters, examples, steps)
    found = {"embedding.weight": table_VE, "head.weight": head_HV, "head.bias": head_V}
    for level in range(3):
        found[f"levels.{level}.1.weight"] = products[level]
        found[f"levels.{level}.2.gamma"], found[f"levels.{level}.2.beta"] = gammas[level], betas[level]
        found[f"levels.{level}.2.running_mean"] = means[level]
        found[f"levels.{level}.2.running_var"] = variances[level]
    return found, losses


Network = Callable[[Examples, int], tuple[Weights, list[float]]]
BY_HAND: dict[str, tuple[int, Network]] = {
    "03-mlp": (3, lambda examples, steps: mlp_by_hand(examples, steps, kaiming=False)),
    "04-kaiming": (3, lambda examples, steps: mlp_by_hand(examples, steps, kaiming=True)),
    "04-batchnorm": (3, batchnorm_by_hand),
    "06-wavenet": (8, wavenet_by_hand),
}

# Measured with the lectures' own loops: the losses before the updates 1, 101, ..., 901, and the loss of all of training
# and of all of validation after 1,000.
FIRST_THOUSAND = {
    "03-mlp": (
        [27.881735, 7.947840, 8.749747, 7.719308, 3.689552, 6.710193, 4.404075, 4.380615, 5.172847, 3.365752],
        (4.025147438049316, 4.024837017059326),
    ),
    "04-kaiming": (
        [3.317901, 2.419336, 2.681488, 2.859259, 2.494792, 2.765791, 2.536210, 2.450339, 2.332037, 2.077961],
        (2.4169769287109375, 2.4165308475494385),
    ),
    "04-batchnorm": (
        [3.323862, 2.143427, 2.705375, 2.585205, 1.971151, 2.455953, 2.455580, 2.784368, 2.776222, 2.615746],
        (2.457094430923462, 2.454827070236206),
    ),
    "06-wavenet": (
        [3.316716, 2.602126, 2.618196, 2.631563, 2.187906, 2.519304, 2.774807, 2.075217, 1.937439, 2.222881],
        (2.2842464447021484, 2.2802743911743164),
    ),
}


def losses_of(run: Path, event: str) -> list[float]:
    return [line["loss"] for line in log_without_times(run) if line["event"] == event]


@pytest.fixture(scope="module")
def first_thousand(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`first_thousand(name)`: the folder of the first 1,000 steps of a shipped config, made once."""

    def make(name: str) -> Path:
        run = tmp_path_factory.mktemp(name) / "run"
        more = ["diagnose_every=0", "sample_every=0", "eval_batches=1", "checkpoint_every=100", "keep_checkpoints=0"]
        settings = ["steps=1000", "log_every=1", "device=cpu", *more]
        train(load_config(shipped_configs()[name], [f"run.{setting}" for setting in settings]), run)
        return run

    return cache(make)


def assert_equal_to_the_last_bit(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value.detach().reshape(found[key].shape)), key


@pytest.mark.parametrize("name", BY_HAND)
def test_the_weights_are_those_of_a_plain_loop_to_the_last_bit(
    first_thousand: Callable[[str], Path], splits: Callable[[int], tuple[Examples, Examples]], name: str
) -> None:
    window, network = BY_HAND[name]
    expected, losses = network(splits(window)[0], 200)
    assert_equal_to_the_last_bit(weights(first_thousand(name), 200), expected)
    assert losses_of(first_thousand(name), "step")[:200] == pytest.approx(losses, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_HAND)
def test_the_weights_of_1000_steps_are_those_of_a_plain_loop_to_the_last_bit(
    first_thousand: Callable[[str], Path], splits: Callable[[int], tuple[Examples, Examples]], name: str
) -> None:
    window, network = BY_HAND[name]
    expected, _ = network(splits(window)[0], 1000)
    assert_equal_to_the_last_bit(weights(first_thousand(name), 1000), expected)


def whole_losses(run: Path, *splits: Examples) -> tuple[float, ...]:
    model, _, _ = load_run(run, torch.device("cpu"))
    with torch.inference_mode():
        return tuple(F.cross_entropy(model.next_logits(contexts), targets).item() for contexts, targets in splits)


@pytest.mark.parametrize("name", FIRST_THOUSAND)
def test_the_first_1000_steps_are_those_of_the_lecture(
    first_thousand: Callable[[str], Path], splits: Callable[[int], tuple[Examples, Examples]], name: str
) -> None:
    losses, (_, expected) = FIRST_THOUSAND[name]
    assert losses_of(first_thousand(name), "step")[::100] == pytest.approx(losses, abs=1e-4)
    (found,) = whole_losses(first_thousand(name), splits(BY_HAND[name][0])[1])
    print(f"{name}: validation {found}, {'equal' if found == expected else 'not equal'} to the last bit")
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow  # all 182,625 examples of training: seconds for the tree
@pytest.mark.parametrize("name", FIRST_THOUSAND)
def test_the_loss_of_all_of_training_after_1000_steps_is_that_of_the_lecture(
    first_thousand: Callable[[str], Path], splits: Callable[[int], tuple[Examples, Examples]], name: str
) -> None:
    _, (expected, _) = FIRST_THOUSAND[name]
    (found,) = whole_losses(first_thousand(name), splits(BY_HAND[name][0])[0])
    print(f"{name}: training {found}, {'equal' if found == expected else 'not equal'} to the last bit")
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_evaluation_of_enough_batches_is_the_loss_of_the_whole_validation(
    tmp_path: Path, splits: Callable[[int], tuple[Examples, Examples]]
) -> None:
    overrides = ["run.steps=3", "run.device=cpu", "schedule.decay_steps=2", "run.log_every=1"]
    result = train(load_config(shipped_configs()["04-batchnorm"], overrides), tmp_path / "run")
    (whole,) = whole_losses(tmp_path / "run", splits(3)[1])
    assert result.after.tokens == 22_655 and result.after.loss == pytest.approx(whole, abs=1e-6)
    rates = [line["lr"] for line in log_without_times(tmp_path / "run") if line["event"] == "step"]
    assert rates == [0.1, 0.1, 0.01], "and the rate drops where the config says"


# ---- runs on a small text --------------------------------------------------------------------------------------------

_DRAW = random.Random(5)
LINES = ["".join(_DRAW.choices("abcdeé ", k=_DRAW.randint(1, 9))).strip() or "a" for _ in range(60)]
TEXT = "\n".join(LINES) + "\n"

KINDS: dict[str, tuple[str, RungConfig, dict[str, Any], str]] = {
    # rung, model, [data], order
    "windows drawn": (
        "mlp",
        MLPConfig(context=10, window=3, embedding=4, hidden=16),
        {"documents": "lines", "rows": "windows"},
        "draws",
    ),
    "windows by epochs": (
        "wavenet",
        WaveNetConfig(context=10, levels=2, embedding=4, hidden=16),
        {"documents": "lines", "rows": "windows"},
        "epochs",
    ),
    "windows of a whole text": (
        "batchnorm",
        BatchNormMLPConfig(context=10, window=3, embedding=4, hidden=16),
        {"rows": "windows"},
        "draws",
    ),
    "lines": (
        "dilated",
        DilatedWaveNetConfig(context=10, levels=2, embedding=4, hidden=16),
        {"documents": "lines", "rows": "lines"},
        "epochs",
    ),
    "lines drawn": (
        "attention",
        TransformerConfig(context=10, layers=1, heads=2, width=16, dropout=0.2),
        {"documents": "lines", "rows": "lines"},
        "draws",
    ),
    "blocks of characters": (
        "gpt2",
        GPT2Config(context=8, layers=1, heads=2, width=16, dropout=0.2),
        {},
        "epochs",
    ),
    "blocks of bytes drawn": (
        "gru",
        GRUConfig(context=8, embedding=8, hidden=16),
        {"alphabet": "bytes", "documents": "lines"},
        "draws",
    ),
    "blocks of tokens": (
        "gpt2",
        GPT2Config(context=8, layers=1, heads=2, width=16, dropout=0.2),
        {"tokenizer": "small"},
        "epochs",
    ),
    "lines of tokens": (
        "bigram",
        BigramConfig(context=16),
        {"tokenizer": "small", "documents": "lines", "rows": "lines"},
        "draws",
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "small.bpetok"
    bpetok.train([TEXT], vocab_size=270, special_tokens=["<|endoftext|>"]).save(path)
    return path


@pytest.fixture
def run_of(tmp_path: Path, tokenizer: Path) -> Callable[..., Config]:
    """`run_of(kind)`: ten steps of a small run; other keywords replace those of `[data]`."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")

    def make(kind: str, *, order: str | None = None, **data: object) -> Config:
        rung, model, settings, usual = KINDS[kind]
        settings = {"text": text, **settings, **data}
        if "tokenizer" in settings:
            settings["tokenizer"] = tokenizer
        sgd = OptimizerConfig(kind="sgd", lr=0.1, grad_clip=0.0)
        return Config(
            data=TextConfig(**settings),
            rung=rung,
            model=model,
            batch=BatchConfig(rows=4, accumulation=2, order=order or usual),
            optimizer=sgd if "windows" in kind else OptimizerConfig(lr=1e-2),
            schedule=ScheduleConfig(kind="drop", warmup_steps=0, min_lr=1e-3, decay_steps=7),
            run=RunConfig(steps=10, eval_every=4, eval_batches=2, checkpoint_every=100, device="cpu"),
        )

    return make


def interrupt_at(step: int) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return watch


def stop_after(config: Config, run: Path, step: int = 5) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}, checkpoint saved"):
        train(config, run, on_event=interrupt_at(step))


@pytest.mark.parametrize("kind", KINDS)
def test_5_steps_and_5_after_a_resume_are_10_steps_bit_for_bit(
    tmp_path: Path, run_of: Callable[..., Config], kind: str
) -> None:
    config = run_of(kind)
    train(config, tmp_path / "unbroken")
    stop_after(config, tmp_path / "broken")
    torch.manual_seed(0)  # another process would have other random numbers, too
    train(load_config(tmp_path / "broken" / "config.toml"), tmp_path / "broken", resume=True)
    expected, found = weights(tmp_path / "unbroken", 10), weights(tmp_path / "broken", 10)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    log = log_without_times(tmp_path / "unbroken")
    assert log_without_times(tmp_path / "broken") == log
    assert [line["step"] for line in log if line["event"] == "eval"] == [0, 4, 8, 10]
    states = [read_state(tmp_path / run / "checkpoints" / "step_000010") for run in ("unbroken", "broken")]
    assert states[0].batches == states[1].batches
    start = weights(tmp_path / "broken", 5)
    assert any(not torch.equal(start[key], found[key]) for key in found), "else nothing was learnt behind the resume"


def test_drawn_rows_are_those_that_the_generator_gives_behind_the_first_weights(
    tmp_path: Path, run_of: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_of("windows drawn")
    data = open_data(config)
    places: list[int] = []
    stack = type(data.train).stack

    def watched(split: Any, chosen: list[int], rows: int) -> Any:
        if split.tokens == data.train.tokens:
            places.extend(chosen)
        return stack(split, chosen, rows)

    monkeypatch.setattr(type(data.train), "stack", watched)
    train(config, tmp_path / "run")
    torch.manual_seed(config.run.seed)
    MLP_DRAWS = [
        (data.vocabulary.n_vocab, 4),
        (12, 16),
        (16,),
        (16, data.vocabulary.n_vocab),
        (data.vocabulary.n_vocab,),
    ]
    for shape in MLP_DRAWS:
        torch.randn(shape)
    expected = [torch.randint(0, data.train.tokens, (4,)).tolist() for _ in range(20)]
    assert places == [place for batch in expected for place in batch]


OTHER_ROWS = [
    ("windows drawn", {"rows": "lines"}),
    ("windows drawn", {"rows": "blocks"}),
    ("windows by epochs", {"rows": "lines"}),
    ("lines", {"rows": "blocks"}),
    ("lines", {"rows": "windows"}),
    ("lines", {"held_out": 0.2}),
    ("blocks of characters", {"held_out": 0.2}),
    ("blocks of bytes drawn", {"documents": "whole"}),
]


@pytest.mark.parametrize(("kind", "change"), OTHER_ROWS)
def test_a_run_does_not_go_on_with_other_rows(
    tmp_path: Path, run_of: Callable[..., Config], kind: str, change: dict[str, Any]
) -> None:
    stop_after(run_of(kind), tmp_path / "run")
    with pytest.raises(IncompatibleError, match=r"batches: (tokens|checksum) must be the saved \d+, got \d+"):
        train(run_of(kind, **change), tmp_path / "run", resume=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_does_not_go_on_with_another_text(tmp_path: Path, run_of: Callable[..., Config], kind: str) -> None:
    config = run_of(kind)
    stop_after(config, tmp_path / "run")
    # As many letters, the same ones, in lines of the same lengths, in bytes and in tokens: only their order differs.
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{line[::-1]}\n" for line in LINES), encoding="utf-8")
    with pytest.raises(IncompatibleError, match=r"batches: (tokens|checksum) must be the saved \d+, got \d+"):
        train(config, tmp_path / "run", resume=True)
    text.write_text(TEXT.replace("a", "z"), encoding="utf-8")
    with pytest.raises(IncompatibleError, match=r"(fingerprint|tokens|checksum) must be"):
        train(config, tmp_path / "run", resume=True)
    text.write_text(TEXT, encoding="utf-8")
    assert train(config, tmp_path / "run", resume=True).steps == 10


def test_another_order_of_the_rows_does_not_go_on(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    stop_after(run_of("windows drawn"), tmp_path / "run")
    with pytest.raises(IncompatibleError, match=r"batch.order must be draws, as the run began, got epochs"):
        train(run_of("windows drawn", order="epochs"), tmp_path / "run", resume=True)


def test_a_moved_text_does_go_on(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    config = run_of("lines")
    stop_after(config, tmp_path / "run")
    moved = (tmp_path / "text.txt").rename(tmp_path / "moved.txt")
    assert train(run_of("lines", text=moved), tmp_path / "run", resume=True).steps == 10


# ---- a loss that is not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "lr"), [("windows drawn", 1e37), ("blocks of characters", 100.0)])
def test_a_rate_that_is_far_too_high_ends_the_run_at_the_step_and_keeps_the_checkpoint(
    tmp_path: Path, run_of: Callable[..., Config], kind: str, lr: float
) -> None:
    # The weights grow by the rate at each step, and after some the loss is more than float32 can hold.
    config = run_of(kind)
    config = dataclasses.replace(
        config,
        optimizer=OptimizerConfig(kind="sgd", lr=lr, grad_clip=0.0),
        schedule=ScheduleConfig(kind="drop", warmup_steps=0, min_lr=lr),
        run=dataclasses.replace(config.run, steps=40, eval_every=100, checkpoint_every=2),
    )
    steps: list[int] = []
    with pytest.raises(NonFiniteError) as caught:
        train(config, tmp_path / "run", on_event=lambda e: steps.append(e.step) if isinstance(e, StepEvent) else None)
    made, saved = steps[-1], steps[-1] // 2 * 2
    message = rf"train: loss must be finite, got (nan|inf) at step {made + 1}, .*\nhint: .*lower"
    assert re.match(message, str(caught.value))
    assert f"the last checkpoint is step_{saved:06d}" in str(caught.value)
    assert made >= 2 and all(value.isfinite().all() for value in weights(tmp_path / "run", saved).values())
    assert [line["step"] for line in log_without_times(tmp_path / "run") if line["event"] == "step"] == steps


@pytest.mark.parametrize("last", [True, False])
def test_weights_that_overflow_are_neither_saved_nor_evaluated(
    tmp_path: Path, run_of: Callable[..., Config], last: bool
) -> None:
    # The gradient is finite; times this rate it is not.
    config = run_of("windows drawn")
    plan = dataclasses.replace(config.run, steps=1 if last else 9, eval_every=100, checkpoint_every=1)
    optimizer = OptimizerConfig(kind="sgd", lr=3e38, grad_clip=0.0)
    schedule = ScheduleConfig(kind="drop", warmup_steps=0, min_lr=3e38)
    config = dataclasses.replace(config, optimizer=optimizer, schedule=schedule, run=plan)
    with torch.random.fork_rng():
        model = MLPConfig(context=10, window=3, embedding=4, hidden=16, init="unit")
        with pytest.raises(NonFiniteError, match=r"train: \w+\.\w+ must be finite, got nan or inf after step 1"):
            train(dataclasses.replace(config, model=model), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_example_alone_is_refused_where_a_batch_is_normalised(
    tmp_path: Path, run_of: Callable[..., Config]
) -> None:
    config = run_of("windows of a whole text")
    config = dataclasses.replace(config, batch=dataclasses.replace(config.batch, rows=1))
    with pytest.raises(ConfigError, match=r"BatchNorm: examples in a batch must be at least 2, got 1"):
        train(config, tmp_path / "run")


# ---- samples in the log ----------------------------------------------------------------------------------------------


def test_samples_of_lines_go_to_the_log_and_change_no_weight(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    config = run_of("windows drawn")
    train(config, tmp_path / "plain")
    samples: list[SampleEvent] = []
    run = dataclasses.replace(config.run, sample_every=4, diagnose_every=3)
    train(
        dataclasses.replace(config, run=run),
        tmp_path / "sampled",
        on_event=lambda event: samples.append(event) if isinstance(event, SampleEvent) else None,
    )
    assert [event.step for event in samples] == [4, 8, 10]
    assert all(0 < len(event.text) <= 200 and set(event.text) <= set(TEXT) for event in samples)
    log = log_without_times(tmp_path / "sampled")
    assert [line["text"] for line in log if line["event"] == "sample"] == [event.text for event in samples]
    plain, sampled = weights(tmp_path / "plain", 10), weights(tmp_path / "sampled", 10)
    assert all(torch.equal(plain[key], sampled[key]) for key in plain)


def test_every_id_of_an_epoch_is_learnt_from_and_counted(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    config = run_of("lines")
    data = open_data(config)
    one_epoch = [next(batches) for batches in [Batches(data.train, rows=4, context=10, seed=1337)] for _ in range(12)]
    tokens = sum(int((targets_BT != IGNORE).sum()) for _, targets_BT in one_epoch)
    assert tokens == data.train.tokens
    result = train(dataclasses.replace(config, run=dataclasses.replace(config.run, steps=6)), tmp_path / "run")
    assert result.tokens == tokens


def test_another_validation_text_does_not_go_on(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    config = run_of("blocks of characters")
    stop_after(config, tmp_path / "run")
    assert isinstance(config.data, TextConfig)
    text = config.data.text.read_text(encoding="utf-8")
    kept = int(len(text) * 0.9)
    config.data.text.write_text(text[:kept] + text[kept:][::-1], encoding="utf-8")
    with pytest.raises(IncompatibleError, match=r"batches: val_checksum must be the saved \d+, got \d+"):
        train(config, tmp_path / "run", resume=True)


def test_a_resumed_runs_settings_are_kept(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    config = run_of("windows drawn")
    stop_after(config, tmp_path / "run")
    assert isinstance(config.data, TextConfig)
    moved = config.data.text.rename(tmp_path / "moved.txt")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text=moved))
    train(config, tmp_path / "run", resume=True)
    assert load_config(tmp_path / "run" / "config.toml").data == config.data


def test_a_run_at_one_rate_goes_on_for_longer_than_it_was_planned(
    tmp_path: Path, run_of: Callable[..., Config]
) -> None:
    config = run_of("windows drawn")
    rate = ScheduleConfig(kind="drop", warmup_steps=0, min_lr=config.optimizer.lr)
    short = dataclasses.replace(config, schedule=rate, run=dataclasses.replace(config.run, steps=3))
    train(short, tmp_path / "run")
    longer = dataclasses.replace(short, run=dataclasses.replace(config.run, steps=6))
    assert train(longer, tmp_path / "run", resume=True).steps == 6
    train(longer, tmp_path / "unbroken")
    pairs = zip(weights(tmp_path / "run", 6).values(), weights(tmp_path / "unbroken", 6).values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_first_and_the_last_step_are_diagnosed_however_rarely_it_is_asked_for(
    tmp_path: Path, run_of: Callable[..., Config]
) -> None:
    config = run_of("windows drawn")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps=7, diagnose_every=4))
    train(config, tmp_path / "run")
    diagnosed = [line["step"] for line in log_without_times(tmp_path / "run") if line["event"] == "diagnostics"]
    assert diagnosed == [1, 4, 7]


def test_a_run_says_what_it_trains(tmp_path: Path, run_of: Callable[..., Config]) -> None:
    events: list[Event] = []
    train(run_of("windows drawn"), tmp_path / "run", on_event=events.append)
    (start,) = (event for event in events if isinstance(event, StartEvent))
    assert events[0] is start and start.rung == "mlp" and start.step == 0
    assert start.parameters > 0 and start.train_tokens > start.val_tokens > 0
