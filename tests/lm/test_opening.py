"""What a run is put together from: the settings that reach into the step, and the weights that it begins with."""

import dataclasses
import gc
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import bpetok
import bpetok.shards
import lm.train
from bpetok.errors import IncompatibleError
from lm.batches import Draws, documents_of
from lm.checkpoint import best, read_state
from lm.config import Config, DataConfig, ScheduleConfig, TextConfig
from lm.errors import CheckpointError, ConfigError, NonFiniteError, OutOfMemory, Preempted
from lm.events import CheckpointEvent, EvalEvent, Event, StepEvent
from lm.huggingface import load_pretrained, save_pretrained
from lm.loss import Objective
from lm.models.gpt2 import GPT2, GPT2Config
from lm.opening import Run, _require_fits, begin_with, open_run
from lm.run import RunFolder, held
from lm.sample import checkpoint_of, load_run
from lm.train import train
from lm.world import ALONE, World

SmallRun = Callable[..., Config]


def opened(config: Config, folder: Path) -> Run:
    return open_run(config, RunFolder(folder), ALONE, resume=False)


def with_batch(config: Config, **change: object) -> Config:
    return dataclasses.replace(config, batch=dataclasses.replace(config.batch, **change))


def with_run(config: Config, **change: object) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **change))


def same_weights(one: Path, other: Path, *, step: int) -> bool:
    path = f"checkpoints/step_{step:06d}/model.safetensors"
    ends = [safetensors.torch.load_file(folder / path) for folder in (one, other)]
    return ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def losses_of(config: Config, folder: Path) -> list[float]:
    events: list[Event] = []
    train(config, folder, on_event=events.append)
    return [event.loss for event in events if isinstance(event, StepEvent)]


# ---- documents apart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ["gpt2", "modern"])
def test_apart_the_loss_is_that_of_each_document_by_itself(tmp_path: Path, small_run: SmallRun, rung: str) -> None:
    # Context 64 holds several of the documents of some twenty ids; a row's own loss is put together by hand.
    config = small_run(rung, rows=1, accumulation=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, context=64))
    run = opened(with_batch(config, documents="apart"), tmp_path)
    run.model.eval()
    if rung == "modern":  # whose blocks begin at zero, so that nothing would be read
        torch.manual_seed(1)
        for parameter in run.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    inputs_BT, targets_BT = next(run.batches)
    documents_BT = run.documents(inputs_BT)
    assert documents_BT is not None and int(documents_BT.max()) >= 2
    found_T = run.objective(inputs_BT, targets_BT, documents_BT, each=True)[0]
    joined_T = run.objective(inputs_BT, targets_BT, each=True)[0]
    assert not torch.allclose(found_T, joined_T), "else nothing would be shown"
    for document in documents_BT[0].unique():
        (places,) = torch.nonzero(documents_BT[0] == document, as_tuple=True)
        # What stands before it is another document's: any ids there change nothing.
        other_BT = inputs_BT.clone()
        other_BT[0, : int(places[0])] = (other_BT[0, : int(places[0])] + 1) % run.model.vocab_size
        again_T = run.objective(other_BT, targets_BT, documents_BT, each=True)[0]
        torch.testing.assert_close(again_T[places], found_T[places], rtol=0, atol=1e-5)


def test_apart_reaches_the_steps_and_the_evaluations_of_a_run(tmp_path: Path, small_run: SmallRun) -> None:
    config = dataclasses.replace(
        small_run(steps=2, eval_every=1), model=GPT2Config(context=64, layers=1, heads=2, width=16)
    )
    events: dict[str, list[Event]] = {"joined": [], "apart": []}
    for documents, seen in events.items():
        train(with_batch(config, documents=documents), tmp_path / documents, on_event=seen.append)
    for kind in (StepEvent, EvalEvent):
        figures = [
            [
                event.loss if isinstance(event, StepEvent) else event.evaluation.loss
                for event in seen
                if isinstance(event, kind)
            ]
            for seen in events.values()
        ]
        assert figures[0][0] != figures[1][0] and figures[0][0] == pytest.approx(figures[1][0], abs=0.01)


def test_apart_is_for_transformers_and_wants_an_end_of_text(tmp_path: Path, small_run: SmallRun) -> None:
    with pytest.raises(ConfigError, match=r"batch.documents must be joined, but for gpt2, modern, got 'apart'"):
        train(with_batch(small_run("bigram"), documents="apart"), tmp_path / "bigram")
    text = tmp_path / "text.txt"
    text.write_text("no line ends here, " * 40)
    config = small_run()
    config = with_batch(dataclasses.replace(config, data=TextConfig(text=text)), documents="apart")
    with pytest.raises(ConfigError, match=r"batch.documents must be joined where nothing stands between"):
        train(config, tmp_path / "run")


# ---- recompute, dropout, draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_no_bit(tmp_path: Path, small_run: SmallRun, dropout: float) -> None:
    config = small_run(steps=3)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=dropout))
    losses = losses_of(config, tmp_path / "kept")
    assert losses_of(with_run(config, recompute=True), tmp_path / "again") == losses
    assert same_weights(tmp_path / "kept", tmp_path / "again", step=3)


def test_recomputing_keeps_less(tmp_path: Path, small_run: SmallRun) -> None:
    kept = {}
    for recompute in (False, True):
        config = with_run(small_run(rows=4, accumulation=1), recompute=recompute)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=6))
        run = opened(config, tmp_path / f"{recompute}")
        sizes: list[int] = []
        inputs_BT, targets_BT = next(run.batches)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            run.objective(inputs_BT, targets_BT)
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 2


def test_what_dropout_drops_depends_on_the_place_in_the_run_alone(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run(rows=2, accumulation=4)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.5))
    run = opened(config, tmp_path)
    drawn: dict[int, list[list[float]]] = {}
    for size in (1, 2, 4):
        for rank in range(size):
            run.world = World(device=torch.device("cpu"), rank=rank, size=size)
            for index in range(4 // size):
                lm.train._seed_dropout(run, index)
                drawn.setdefault(index * size + rank, []).append(torch.rand(5).tolist())
    assert sorted(drawn) == [0, 1, 2, 3]
    assert all(len(draws) == 3 and draws == [draws[0]] * 3 for draws in drawn.values())
    assert len({str(draws[0]) for draws in drawn.values()}) == 4


def test_processes_share_out_the_draws_of_one(split_of: Callable[..., Any]) -> None:
    split = split_of(list(range(100)))
    torch.manual_seed(3)
    alone = Draws(split, rows=2, context=8)
    shares = [Draws(split, rows=2, context=8, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        for share in shares:
            expected, found = next(alone), next(share)
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert [share.state() for share in shares] == [alone.state()] * 2


# ---- looking late ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_a_host_that_looks_late_finds_the_weights_as_they_were_before_the_spoilt_step(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = small_run("gpt2")
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, kind=kind))
    run = opened(config, tmp_path)
    run.lag = 1
    real, spoil = Objective.forward, [False]

    def broken(self: Objective, *arguments: Any, **settings: Any) -> torch.Tensor:
        nats = real(self, *arguments, **settings)
        return nats * math.nan if spoil[0] else nats

    monkeypatch.setattr(Objective, "forward", broken)
    lm.train._take_step(run)
    lm.train._take_step(run)
    assert len(run.under_way) == 1, "the second step was not looked at yet"
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    spoil[0] = True
    lm.train._take_step(run)
    spoil[0] = False
    with pytest.raises(NonFiniteError, match=r"loss must be finite, got nan at step 3, micro batch 1, rows 16 to 19"):
        lm.train._take_step(run)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_looking_late_changes_neither_the_losses_nor_the_weights(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(steps=5, eval_every=2, checkpoint_every=3)
    expected = losses_of(config, tmp_path / "at once")
    real = lm.train.open_run

    def late(*arguments: Any, **settings: Any) -> Run:
        run = real(*arguments, **settings)
        run.lag = 1
        return run

    monkeypatch.setattr(lm.train, "open_run", late)
    assert losses_of(config, tmp_path / "late") == expected
    ends = [
        safetensors.torch.load_file(tmp_path / name / "checkpoints/step_000005/model.safetensors")
        for name in ("at once", "late")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    logs = [
        [line.split('"seconds"')[0] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("at once", "late")
    ]
    assert logs[0] == logs[1], "each step's line still stands before what came after it"


# ---- checkpoints, memory, the collector ------------------------------------------------------------------------------


def test_the_best_evaluation_is_saved_and_kept(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_run(small_run(steps=6, eval_every=1, keep_checkpoints=1), keep_best=True)
    losses = iter([5.0, 4.0, 3.0, 3.5, 2.5, 2.75, 2.6])
    real = lm.train.evaluate
    monkeypatch.setattr(lm.train, "evaluate", lambda *a, **s: dataclasses.replace(real(*a, **s), loss=next(losses)))
    saved = []
    train(
        config,
        tmp_path,
        on_event=lambda event: saved.append(event.step) if isinstance(event, CheckpointEvent) else None,
    )
    assert saved == [1, 2, 4, 6], "the records and the end; not the untrained weights"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000004", "step_000006"]
    kept = best(tmp_path / "checkpoints")
    assert kept is not None and (kept.name, read_state(kept).val_loss) == ("step_000004", 2.5)


def test_the_best_checkpoint_is_read_where_it_is_asked_for(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=3, checkpoint_every=1, keep_checkpoints=0)
    train(config, tmp_path)
    assert (checkpoint_of(tmp_path).name, checkpoint_of(tmp_path, best=True).name) == ("step_000003", "step_000003")
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "step_000003")
    with pytest.raises(CheckpointError, match=r"a checkpoint must have a validation loss, got none that has\nhint: "):
        load_run(tmp_path, torch.device("cpu"), best=True)
    assert load_run(tmp_path, torch.device("cpu"))[0].vocab_size > 256


def test_a_resume_that_evaluates_more_begins_the_records_anew(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=2, eval_every=1, checkpoint_every=1, eval_batches=1, keep_checkpoints=0)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_event=signal_at(1))
    first = read_state(tmp_path / "checkpoints" / "step_000001")
    train(with_run(config, eval_batches=50), tmp_path, resume=True)
    last = read_state(tmp_path / "checkpoints" / "step_000002")
    assert first.val_tokens is not None and last.val_tokens is not None and first.val_tokens < last.val_tokens
    assert best(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_000002", "whatever the first loss is"


def signal_at(step: int, kind: signal.Signals = signal.SIGINT) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            signal.raise_signal(kind)

    return watch


@pytest.mark.parametrize(
    "kinds",
    [["SIGTERM", "SIGTERM"], ["SIGINT", "SIGTERM"], ["SIGTERM", "SIGINT"], ["SIGHUP"]],
    ids=lambda kinds: " ".join(kinds),
)
def test_signals_that_come_twice_do_not_keep_a_run_from_saving(
    tmp_path: Path, small_run: SmallRun, kinds: list[str]
) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            for kind in kinds:
                signal.raise_signal(getattr(signal, kind))

    ends = KeyboardInterrupt if kinds[0] == "SIGINT" else Preempted
    with pytest.raises(ends, match="after step 2, checkpoint saved"):
        train(small_run("bigram"), tmp_path, on_event=ask)
    assert read_state(tmp_path / "checkpoints" / "step_000002").step == 2


def test_rows_may_be_cut_otherwise_in_a_resume_and_the_weights_are_nearly_the_same(
    tmp_path: Path, small_run: SmallRun
) -> None:
    config = small_run("modern", steps=6, rows=4, accumulation=2)
    train(config, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", on_event=signal_at(3))
    with pytest.raises(IncompatibleError, match=r"batch.rows x accumulation must be 8, as the run began, got 16"):
        train(with_batch(config, rows=8), tmp_path / "run", resume=True)
    train(with_batch(config, rows=2, accumulation=4), tmp_path / "run", resume=True)
    path = "checkpoints/step_000006/model.safetensors"
    ends = [safetensors.torch.load_file(tmp_path / name / path) for name in ("unbroken", "run")]
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=1e-5)


def test_a_rate_may_change_behind_the_steps_that_were_made(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=10)
    config = dataclasses.replace(config, schedule=ScheduleConfig(kind="wsd", warmup_steps=1, min_lr=0.0))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_event=signal_at(4))  # on the plateau, which lasts to step 8
    longer = with_run(config, steps=20)
    with pytest.raises(KeyboardInterrupt):
        train(longer, tmp_path, resume=True, on_event=signal_at(18))
    message = r"the learning rate of step \d+ \(run.steps, schedule.decay_steps\) must be"
    with pytest.raises(IncompatibleError, match=message):
        train(with_run(config, steps=30), tmp_path, resume=True)
    assert train(longer, tmp_path, resume="auto").steps == 20


def test_auto_begins_where_nothing_is_and_goes_on_where_something_is(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, resume="auto", on_event=signal_at(1))
    assert train(config, tmp_path, resume="auto").steps == 3


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_event=signal_at(1))
    log = (tmp_path / "metrics.jsonl").read_bytes()
    message = rf"no other process may train there, got process {os.getpid()} on .*\nhint: wait for it, or end it"
    with held(RunFolder(tmp_path)), pytest.raises(CheckpointError, match=message):
        train(config, tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert train(config, tmp_path, resume=True).steps == 2


def test_a_folder_whose_run_left_no_checkpoint_is_taken_over(tmp_path: Path, small_run: SmallRun) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, StepEvent):
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        train(small_run("bigram", steps=4), tmp_path, on_event=crash)
    result = train(small_run("bigram", steps=3), tmp_path, resume="auto")
    assert result.steps == 3 and "steps = 3" in (tmp_path / "config.toml").read_text()


def test_a_validation_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lm.train.evaluate
    monkeypatch.setattr(lm.train, "evaluate", lambda *a, **s: dataclasses.replace(real(*a, **s), loss=math.nan))
    with pytest.raises(NonFiniteError, match=r"the validation loss must be finite, got nan after step 0"):
        train(small_run("bigram"), tmp_path)


def test_other_shards_of_as_many_ids_do_not_resume(tmp_path: Path, small_run: SmallRun) -> None:
    tokenizer = bpetok.load(small_run().data.tokenizer)
    for name, word in (("one", "xq"), ("other", "qx")):  # by a hash of each some validate, so all are alike
        bpetok.shards.write([f"{word}\n"] * 300, tokenizer, tmp_path / name)
    configs = [
        dataclasses.replace(
            small_run("bigram", steps=2), data=DataConfig(shards=tmp_path / name, tokenizer=small_run().data.tokenizer)
        )
        for name in ("one", "other")
    ]
    counts = [bpetok.shards.open(config.data.shards).train.tokens for config in configs]
    assert counts[0] == counts[1]
    with pytest.raises(KeyboardInterrupt):
        train(configs[0], tmp_path / "run", on_event=signal_at(1))
    with pytest.raises(IncompatibleError, match=r"batches: checksum must be the saved"):
        train(configs[1], tmp_path / "run", resume=True)


def test_a_resumed_run_knows_the_lowest_loss_so_far(tmp_path: Path, small_run: SmallRun) -> None:
    config = with_run(small_run("bigram", steps=2, eval_every=1), keep_best=True)
    result = train(config, tmp_path)
    run = open_run(config, RunFolder(tmp_path), ALONE, resume=True)
    assert run.lowest == min(result.before.loss, result.after.loss)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError("no more")])
def test_what_does_not_fit_the_memory_says_what_to_lower(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(self: Objective, *arguments: Any, **settings: Any) -> torch.Tensor:
        raise error

    config = small_run("gpt2", rows=8)
    run_forward = Objective.forward
    monkeypatch.setattr(
        Objective, "forward", lambda self, *a, **s: run_forward(self, *a, **s) if s.get("each") else full(self)
    )
    with pytest.raises(
        OutOfMemory, match=r"step 1 must fit the memory of cpu, got: .*\nhint: .*batch.rows=4"
    ) as caught:
        train(config, tmp_path)
    assert isinstance(caught.value, MemoryError) and "batch.accumulation=4" in str(caught.value)


def test_the_collector_is_quiet_in_the_loop_and_as_before_behind_it(tmp_path: Path, small_run: SmallRun) -> None:
    assert gc.isenabled()
    inside = []
    train(
        small_run("bigram"), tmp_path, on_event=lambda event: inside.append((gc.isenabled(), gc.get_freeze_count() > 0))
    )
    assert set(inside) == {(False, True)}
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_tensorboard_shows_what_the_log_has_and_a_resumed_run_doubles_nothing(
    tmp_path: Path, small_run: SmallRun
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = with_run(small_run("bigram", steps=4, checkpoint_every=2), tensorboard=True)
    train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step_000004")
    train(config, tmp_path, resume=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    seen = [(event.step, pytest.approx(event.value)) for event in board.Scalars("step/loss")]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if line["event"] == "step"] == seen
    assert [event.step for event in board.Scalars("eval/bits_per_byte")] == [0, 4]


# ---- weights to begin with -------------------------------------------------------------------------------------------


@pytest.fixture
def pretrained(tmp_path: Path, small_run: SmallRun) -> Path:
    torch.manual_seed(7)
    vocab_size = bpetok.load(small_run().data.tokenizer).n_vocab
    folder = tmp_path / "pretrained"
    save_pretrained(GPT2(GPT2Config(context=16, layers=1, heads=2, width=32, vocab_multiple=1), vocab_size), folder)
    return folder


def test_a_run_begins_with_given_weights_and_goes_on_without_them(
    tmp_path: Path, small_run: SmallRun, pretrained: Path
) -> None:
    config = begin_with(small_run("bigram", steps=2), pretrained)
    assert (config.rung, config.model.context, config.model.width) == ("gpt2", 8, 32), (
        "the run's own context is shorter"
    )
    run = opened(config, tmp_path / "run")
    theirs = load_pretrained(pretrained).state_dict()
    ours = run.model.state_dict()
    assert torch.equal(ours["blocks.0.attention.qkv.weight"], theirs["blocks.0.attention.qkv.weight"])
    assert torch.equal(ours["position_embedding.weight"], theirs["position_embedding.weight"][:8])
    train(config, tmp_path / "run")
    written = (tmp_path / "run" / "config.toml").read_text()
    assert f'init_from = "{pretrained}"' in written
    for file in pretrained.iterdir():
        file.unlink()
    pretrained.rmdir()  # a resumed run has its own
    assert train(config, tmp_path / "run", resume=True).steps == 2


def test_weights_of_another_size_or_rung_are_refused(tmp_path: Path, small_run: SmallRun, pretrained: Path) -> None:
    config = with_run(small_run("gpt2"), init_from=pretrained)
    with pytest.raises(IncompatibleError, match=r"model.layers must be 1, as the weights' n_layer, got 2\nhint: --set"):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model.rung must be gpt2 where run.init_from is set, got 'bigram'"):
        train(with_run(small_run("bigram"), init_from=pretrained), tmp_path / "bigram")


# ---- several processes, as far as one can tell -----------------------------------------------------------------------


def test_micro_batches_that_cannot_be_shared_out_are_refused(tmp_path: Path, small_run: SmallRun) -> None:
    two = World(device=torch.device("cpu"), rank=0, size=2)
    message = r"batch.accumulation must be a multiple of the 2 processes, got 3\nhint: "
    for rows, hint in ((4, "--set batch.rows=2 --set batch.accumulation=6$"), (1, "start 1 or 3 processes$")):
        run = opened(small_run("bigram", rows=rows, accumulation=3), tmp_path / f"{rows}")
        with pytest.raises(ConfigError, match=message + hint):
            _require_fits(run.config, run.model, two)


def test_documents_know_which_end_of_text_they_have(tmp_path: Path, small_run: SmallRun) -> None:
    run = opened(with_batch(small_run(), documents="apart"), tmp_path)
    inputs_BT, _ = next(run.batches)
    found_BT = run.documents(inputs_BT)
    end = bpetok.load(run.config.data.tokenizer).eot_token
    assert found_BT is not None and torch.equal(found_BT, documents_of(inputs_BT, end_of_text=end, stands="before"))
