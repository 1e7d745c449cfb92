"""The ladder walked: each rung trained on the lectures' texts and held against a figure, at full length the published.

A rung's full length is the lecture's. Its short twin is the first steps of the very same run, held against what the
readable path gave there when it was written (`Entry.short`), so that a minute shows whether every rung still stands on
its road. Not walked: `dilated`, which nobody published a figure of, and `attention`, whose size wants a GPU.

Two paths lead up the MLP, BatchNorm and WaveNet rungs: the readable one, `lm.train.train` over autograd, which is the
one held to the notebooks' digits, and the fast one (`lm.fast`), whose sums are taken in another order: after 200,000
steps its losses differ in the sixth digit, those of part 2's MLP, most of whose tanh are saturated, in the third. The
full walk takes the fast one, unless told otherwise, and so do several seeds.

Source of the figures: the notebooks of karpathy/nn-zero-to-hero, the READMEs of karpathy/makemore and
karpathy/nanoGPT; where the notebook's printed cell was stale, the same code run again (`Entry.source` says which).
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from lm import by_hand, fast, moons, ngram
from lm.config import Config, load_config, shipped_configs
from lm.data import Data, open_data
from lm.errors import CheckpointError, require
from lm.evaluate import evaluate
from lm.events import StepEvent
from lm.examples import Lines, Windows, split_lines
from lm.figures import Figures, Row, TrainedBy
from lm.models import LADDER
from lm.models.contract import LanguageModel, WindowModel
from lm.parallel import fitting_threads
from lm.sample import load_run
from lm.schedule import rate_at
from lm.texts import find
from lm.train import train

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One rung of the walk.

    Args:
        name: as the table has it.
        full: the published figures, at full length.
        source: where they are from.
        short: the readable path's figures at the short length.
        short_steps: that length.
        config: the shipped config, for the rungs that `lm train` trains.
    """

    name: str
    full: Figures
    source: str
    short: Figures
    short_steps: int
    config: str = ""


MAKEMORE = "makemore.py, 5,001 steps run by us, on its own 1,000 test names"

ENTRIES = (
    Entry(
        name="autograd: moons",
        full=Figures(train=0.010978370135492717),
        source="micrograd, demo.ipynb",
        short=Figures(train=0.3692793385976538),
        short_steps=5,
    ),
    Entry(
        name="bigram (counts)",
        full=Figures(train=2.4540144891548743),
        source="makemore part 1, all names",
        short=Figures(train=2.4540144891548743),
        short_steps=0,
    ),
    Entry(
        name="bigram (network)",
        full=Figures(train=2.48045),
        source="makemore part 1, its code run again",
        short=Figures(train=2.48996),
        short_steps=100,
    ),
    Entry(
        name="trigram (counts)",
        full=Figures(train=2.187429, dev=2.222471),
        source="makemore part 1, exercise, + 0.1",
        short=Figures(train=2.187429, dev=2.222471),
        short_steps=0,
    ),
    Entry(
        name="MLP",
        full=Figures(train=2.1260, dev=2.1701),
        source="makemore part 2",
        short=Figures(train=4.025147438049316, dev=4.024837017059326),
        short_steps=1000,
        config="03-mlp",
    ),
    Entry(
        name="MLP (Kaiming)",
        full=Figures(train=2.03766, dev=2.10699),
        source="makemore part 3, its code run again",
        short=Figures(train=2.4169769287109375, dev=2.4165308475494385),
        short_steps=1000,
        config="04-kaiming",
    ),
    Entry(
        name="BatchNorm",
        full=Figures(train=2.0674145221710205, dev=2.1056840419769287),
        source="makemore part 3",
        short=Figures(train=2.457094430923462, dev=2.454827070236206),
        short_steps=1000,
        config="04-batchnorm",
    ),
    Entry(
        name="backpropagation by hand",
        full=Figures(train=2.0719, dev=2.1162),
        source="makemore part 4",
        short=Figures(train=2.411278247833252, dev=2.40983510017395),
        short_steps=1000,
    ),
    Entry(
        name="WaveNet",
        full=Figures(train=1.7690284252166748, dev=1.9936515092849731),
        source="makemore part 5",
        short=Figures(train=2.2842464447021484, dev=2.2802743911743164),
        short_steps=1000,
        config="06-wavenet",
    ),
    Entry(
        name="bag of words",
        full=Figures(train=2.2260, dev=2.2156),
        source=MAKEMORE,
        short=Figures(train=2.4309135025828605, dev=2.423889674313072),
        short_steps=200,
        config="07-bow",
    ),
    Entry(
        name="RNN",
        full=Figures(train=2.1222, dev=2.1139),
        source=MAKEMORE,
        short=Figures(train=2.3843919881735656, dev=2.3783118875386884),
        short_steps=200,
        config="07-rnn",
    ),
    Entry(
        name="GRU",
        full=Figures(train=2.0850, dev=2.0752),
        source=MAKEMORE,
        short=Figures(train=2.3974303999222935, dev=2.391635672719477),
        short_steps=200,
        config="07-gru",
    ),
    Entry(
        name="transformer on names",
        full=Figures(train=1.9736, dev=2.0125),
        source=MAKEMORE,
        short=Figures(train=2.5815831016994846, dev=2.5781007098720132),
        short_steps=50,
        config="08-names-transformer",
    ),
    Entry(
        name="char GPT (tiny Shakespeare)",
        full=Figures(dev=1.88),
        source="nanoGPT's README, 20 random batches",
        short=Figures(dev=3.5364677327747507),
        short_steps=20,
        config="08-shakespeare-char-cpu",
    ),
)
"""The rungs in order."""

FAST = ("03-mlp", "04-kaiming", "04-batchnorm", "06-wavenet")
"""The configs that the fast path can train."""


def walk(
    entries: Sequence[Entry] = ENTRIES,
    *,
    full: bool = False,
    readable: bool = False,
    seeds: int = 1,
    runs: Path | None = None,
    on_rung: Callable[[Entry, int], Progress] = lambda entry, steps: lambda done, total: None,
) -> Iterator[Row]:
    """Each rung's row, as soon as it is trained.

    It seeds torch's global generator.

    Args:
        entries: which rungs.
        full: the published lengths, in place of the short twins.
        readable: the readable path also where the fast one would be taken.
        seeds: how many models of each fast rung are trained at once, with the seeds that follow the config's.
        runs: where the readable path leaves its runs; thrown away if None.
        on_rung: called when a rung begins; gives what is called with (steps done, steps) as it goes on.

    Raises:
        ConfigError: if `seeds` is below 1, or above it on the readable path.
        CheckpointError: if `runs` has such a run already.
        UnavailableError: if a text is not here and cannot be downloaded.
        NonFiniteError: if a loss is no number.
    """
    require(seeds >= 1, "ladder: seeds", "at least 1", seeds)
    require(seeds == 1 or not readable, "ladder: seeds", "1 on the readable path", seeds)
    for entry in entries:
        if runs and (runs / entry.config).exists() and entry.config:
            raise CheckpointError(
                f"{runs / entry.config}: must not be there yet", hint="name another folder for --runs"
            )
    with tempfile.TemporaryDirectory() as thrown_away:
        for entry in entries:
            config = _config(entry, full)
            steps = _steps(entry, config, full)
            progress = on_rung(entry, steps)
            if config is None:
                row = _SPECIAL[entry.name](entry, steps, progress)
            elif entry.config in FAST and not readable and (full or seeds > 1):
                row = _train_fast(entry, config, seeds, progress)
            else:
                row = _train_readable(entry, config, (runs or Path(thrown_away)) / entry.config, progress)
            yield dataclasses.replace(row, reference=entry.full if full else entry.short, source=_source(entry, full))


def _source(entry: Entry, full: bool) -> str:
    return entry.source if full else f"our own after {entry.short_steps} steps"


def _config(entry: Entry, full: bool) -> Config | None:
    if not entry.config:
        return None
    overrides = ["run.diagnose_every=0", "run.sample_every=0", "run.device=cpu"]
    if not full:
        overrides += [f"run.steps={entry.short_steps}"]
        whole = load_config(shipped_configs()[entry.config])
        # The same rate at each step as in the full run.
        overrides += [f"schedule.decay_steps={whole.decay_steps}"]
    return load_config(shipped_configs()[entry.config], overrides)


def _steps(entry: Entry, config: Config | None, full: bool) -> int:
    if not full:
        return entry.short_steps
    return config.run.steps if config else _FULL_STEPS[entry.name]


_FULL_STEPS = {
    "autograd: moons": 100,
    "bigram (counts)": 0,
    "bigram (network)": 1000,
    "trigram (counts)": 0,
    "backpropagation by hand": 200_000,
}


# ---- the rungs that `lm train` trains --------------------------------------------------------------------------------


def _train_readable(entry: Entry, config: Config, folder: Path, progress: Progress) -> Row:
    def show(event: object) -> None:
        if isinstance(event, StepEvent):
            progress(event.step, event.steps)

    began = time.perf_counter()
    result = train(config, folder, on_event=show)
    seconds = time.perf_counter() - began
    model, _, _ = load_run(folder, torch.device("cpu"))
    figures = figures_of(model, open_data(config))
    return _row(entry, "readable", result.steps, model, [figures], seconds)


def _train_fast(entry: Entry, config: Config, seeds: int, progress: Progress) -> Row:
    data = open_data(config)
    assert isinstance(data.train, Windows)
    models, generators = [], []
    for seed in range(config.run.seed, config.run.seed + seeds):
        model, generator = fast.seeded(lambda: _build(config, data), seed)
        models.append(model)
        generators.append(generator)
    began = time.perf_counter()
    with fitting_threads(0):
        fast.train(
            models,
            data.train.inputs_NW,
            data.train.targets_N,
            generators=generators,
            steps=config.run.steps,
            rate=lambda step: rate_at(step, config),
            batch=config.batch.rows,
            progress=lambda done, losses: progress(done, config.run.steps),
        )
    seconds = time.perf_counter() - began
    figures = [figures_of(model.eval(), data) for model in models]
    return _row(entry, "fast", config.run.steps, models[0], figures, seconds)


def _build(config: Config, data: Data) -> WindowModel:
    model = LADDER[config.rung].build(config.model, data.vocabulary.n_vocab)
    assert isinstance(model, WindowModel)
    return model


@torch.inference_mode()
def figures_of(model: LanguageModel, data: Data) -> Figures:
    """The losses of a trained model on both of its splits, whole.

    Windows are evaluated as the lectures do it: all at once, in float32. Of a text that is one stream only the
    validation split is read.

    Args:
        model: in evaluation mode, on the CPU.
        data: what it was trained on.
    """
    if isinstance(data.train, Windows):
        losses = [
            F.cross_entropy(model.next_logits(split.inputs_NW), split.targets_N).item()
            for split in (data.train, data.val)
            if isinstance(split, Windows)
        ]
        return Figures(train=losses[0], dev=losses[1])
    token_bytes = data.vocabulary.token_byte_lengths()
    splits = [data.val, data.train] if isinstance(data.train, Lines) else [data.val]
    found = [evaluate(model, split, token_bytes=token_bytes, rows=64, batches=10**9).loss for split in splits]
    return Figures(dev=found[0], train=found[1] if len(found) > 1 else None)


def _row(
    entry: Entry, path: TrainedBy, steps: int, model: LanguageModel, figures: Sequence[Figures], seconds: float
) -> Row:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    dev = [one.dev for one in figures if one.dev is not None]
    return Row(
        rung=entry.name,
        path=path,
        steps=steps,
        parameters=model.expected_parameters(),
        train=mean([one.train for one in figures]),
        dev=mean([one.dev for one in figures]),
        reference=Figures(),
        source="",
        seconds=seconds,
        seeds=len(figures),
        dev_error=statistics.stdev(dev) / len(dev) ** 0.5 if len(dev) > 1 else None,
    )


# ---- the rungs that are trained in a way of their own ----------------------------------------------------------------


def _moons(entry: Entry, steps: int, progress: Progress) -> Row:
    model, losses = moons.demo_model(), []
    began = time.perf_counter()
    # The rate falls over all of the steps, also where only the first are made.
    for step in itertools.islice(moons.train(model, moons.make_moons()), steps):
        losses.append(step.loss)
        progress(len(losses), steps)
    return _special(entry, began, steps, parameters=len(model.parameters()), train=losses[-1])


def _names() -> list[str]:
    return find("names.txt").read_text(encoding="utf-8").split()


def _letters(names: Sequence[str]) -> list[list[int]]:
    return [[ord(letter) - ord("a") + 1 for letter in name] for name in names]


V = 27  # the end of a line, a to z


def _counted_bigram(entry: Entry, steps: int, progress: Progress) -> Row:
    began = time.perf_counter()
    pairs = ngram.windows(_letters(_names()), order=2)
    loss = ngram.nll(ngram.log_probabilities(ngram.counts(pairs, V)), pairs)
    return _special(entry, began, steps, parameters=V * V, train=loss)


def _network_bigram(entry: Entry, steps: int, progress: Progress) -> Row:
    began = time.perf_counter()
    counts = ngram.counts(ngram.windows(_letters(_names()), order=2), V)
    weights = torch.randn(V, V, generator=torch.Generator().manual_seed(2147483647)).requires_grad_()
    losses: list[float] = []
    for loss in itertools.islice(ngram.descend(lambda w: ngram.counts_loss(w, counts), weights), steps + 1):
        progress(len(losses), steps)
        losses.append(loss)
    return _special(entry, began, steps, parameters=V * V, train=losses[-1])


def _counted_trigram(entry: Entry, steps: int, progress: Progress) -> Row:
    began = time.perf_counter()
    split = split_lines(_names())
    train_N3, dev_N3 = (ngram.windows(_letters(part), order=3) for part in (split.train, split.val))
    chances = ngram.log_probabilities(ngram.counts(train_N3, V), smoothing=0.1)
    losses = [ngram.nll(chances, windows_N3) for windows_N3 in (train_N3, dev_N3)]
    return _special(entry, began, steps, parameters=V**3, train=losses[0], dev=losses[1])


def _by_hand(entry: Entry, steps: int, progress: Progress) -> Row:
    split = split_lines(_names())
    splits = [Windows(_letters(part), window=3, separator=0) for part in (split.train, split.val)]
    began = time.perf_counter()
    trained = by_hand.train_by_hand(
        splits[0].inputs_NW,
        splits[0].targets_N,
        steps=steps,
        progress=lambda done, loss: progress(done, steps),
    )
    seconds = time.perf_counter() - began
    losses = [by_hand.split_loss(trained, split.inputs_NW, split.targets_N) for split in splits]
    parameters = sum(weight.numel() for weight in trained.weights)
    row = _special(entry, began, steps, parameters=parameters, train=losses[0], dev=losses[1])
    return dataclasses.replace(row, seconds=seconds)


def _special(entry: Entry, began: float, steps: int, *, parameters: int, train: float, dev: float | None = None) -> Row:
    return Row(
        rung=entry.name,
        path="readable",
        steps=steps,
        parameters=parameters,
        train=train,
        dev=dev,
        reference=Figures(),
        source="",
        seconds=time.perf_counter() - began,
    )


_SPECIAL = {
    "autograd: moons": _moons,
    "bigram (counts)": _counted_bigram,
    "bigram (network)": _network_bigram,
    "trigram (counts)": _counted_trigram,
    "backpropagation by hand": _by_hand,
}
