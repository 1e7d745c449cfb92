import dataclasses
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import bpetok
import bpetok.shards
import lm.train
from bpetok.errors import IncompatibleError
from lm.batches import Batches
from lm.checkpoint import read_state
from lm.config import Config, DataConfig, ScheduleConfig, dump_config
from lm.errors import CheckpointError, NonFiniteError, Preempted
from lm.events import CheckpointEvent, EvalEvent, Event, StepEvent
from lm.loss import Objective
from lm.models import LADDER
from lm.models.bigram import BigramConfig
from lm.opening import open_run
from lm.run import RunFolder
from lm.train import train
from lm.world import ALONE

SmallRun = Callable[..., Config]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints" / f"step_{step:06d}" / "model.safetensors")


TIMES = ("seconds", "tokens_per_second", "mfu")


def log_without_times(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def signal_at(step: int, kind: signal.Signals) -> Callable[[Event], None]:
    """Sends this process a signal when the step has just been made."""

    def watch(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            signal.raise_signal(kind)

    return watch


@pytest.mark.parametrize("rung", LADDER)
def test_5_steps_and_5_after_a_resume_are_10_steps_bit_for_bit(tmp_path: Path, small_run: SmallRun, rung: str) -> None:
    config = small_run(rung, steps=10, eval_every=4)
    train(config, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5, checkpoint saved"):
        train(config, tmp_path / "broken", on_event=signal_at(5, signal.SIGINT))
    torch.manual_seed(0)  # another process would have other random numbers, too
    result = train(config, tmp_path / "broken", resume=True)
    expected = weights(tmp_path / "unbroken", 10)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "broken", 10).items())
    assert log_without_times(tmp_path / "broken") == log_without_times(tmp_path / "unbroken")
    states = [read_state(tmp_path / name / "checkpoints" / "step_000010") for name in ("unbroken", "broken")]
    assert states[0] == states[1]
    assert result.steps == 10 and result.before.loss > result.after.loss


def test_a_run_learns_and_says_so_in_the_result_the_log_and_the_events(tmp_path: Path, small_run: SmallRun) -> None:
    events: list[Event] = []
    config = small_run(steps=6, eval_every=3, checkpoint_every=2, log_every=2, keep_checkpoints=2)
    result = train(config, tmp_path / "run", on_event=events.append)
    assert [event.step for event in events if isinstance(event, StepEvent)] == [1, 2, 3, 4, 5, 6]
    evaluations = {event.step: event.evaluation for event in events if isinstance(event, EvalEvent)}
    assert list(evaluations) == [0, 3, 6]
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [2, 4, 6]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step_000004", "step_000006"]
    log = log_without_times(tmp_path / "run")
    order = [("eval", 0), ("step", 2), ("eval", 3), ("step", 4), ("step", 6), ("eval", 6)]
    assert [(line["event"], line["step"]) for line in log] == order
    assert (result.before, result.after) == (evaluations[0], evaluations[6])
    assert result.after.loss < result.before.loss and result.after.bits_per_byte < result.before.bits_per_byte
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "step_000006"
    last = next(event for event in reversed(events) if isinstance(event, StepEvent))
    assert result.tokens == last.tokens <= 6 * 2 * 4 * 8, "at most steps x micro batches x rows x context"
    data = dataclasses.replace(config.data, tokenizer=tmp_path / "run" / "tokenizer.bpetok")
    written = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    assert written == dump_config(dataclasses.replace(config, data=data), tmp_path / "run")
    assert 'tokenizer = "tokenizer.bpetok"' in written
    assert bpetok.load(tmp_path / "run" / "tokenizer.bpetok").fingerprint == read_state(result.checkpoint).fingerprint


def test_the_rate_follows_the_schedule(tmp_path: Path, small_run: SmallRun) -> None:
    events: list[Event] = []
    config = small_run("bigram", steps=6)
    config = dataclasses.replace(config, schedule=ScheduleConfig(warmup_steps=2, min_lr=1e-3, decay_steps=4))
    train(config, tmp_path, on_event=events.append)
    rates = [event.lr for event in events if isinstance(event, StepEvent)]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2, 5.5e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("rung", LADDER)
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    tmp_path: Path, small_run: SmallRun, split_of: Callable[..., Any], rung: str
) -> None:
    # 19 targets in blocks of 8: eight rows hold short blocks, where a mean of means would be another number.
    split = split_of([n * n % 200 for n in range(20)])
    runs = []
    for rows, accumulation in ((8, 1), (4, 2), (1, 8)):
        config = small_run(rung, rows=rows, accumulation=accumulation, steps=1)
        run = open_run(config, RunFolder(tmp_path / f"{rows}"), ALONE, resume=False)
        run.batches = Batches(split, rows=rows, context=8, seed=0)
        run.model.eval()  # other shapes draw another dropout, and BatchNorm normalises each micro batch by itself
        losses, tokens = lm.train._accumulate(run, run.forward)
        assert tokens < 8 * 8 and len(losses) == accumulation
        runs.append((losses.sum().item(), tokens, [parameter.grad for parameter in run.model.parameters()]))
    for loss, tokens, gradients in runs[1:]:
        assert loss == pytest.approx(runs[0][0], abs=1e-6) and tokens == runs[0][1]
        for gradient, expected in zip(gradients, runs[0][2], strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_a_gradient_is_clipped_to_its_limit_and_0_clips_nothing(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, name in ((1e-3, "clipped"), (0.0, "free")):
        norms: list[float] = []

        def step(optimizer: torch.optim.AdamW, norms: list[float] = norms) -> None:
            gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
            norms.append(torch.nn.utils.get_total_norm(gradients).item())

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        events: list[Event] = []
        config = small_run(steps=1)
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, grad_clip=limit))
        train(config, tmp_path / name, on_event=events.append)
        logged = next(event.grad_norm for event in events if isinstance(event, StepEvent))
        assert logged > 0.01, "the logged norm is that before clipping"
        assert norms == [pytest.approx(limit or logged, rel=1e-2)]


def test_sigterm_ends_the_step_saves_and_raises_preempted(tmp_path: Path, small_run: SmallRun) -> None:
    before = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(
        Preempted,
        match=r"stopped by SIGTERM after step 2, checkpoint saved\nhint: the same command with --resume goes on",
    ):
        train(small_run("bigram"), tmp_path, on_event=signal_at(2, signal.SIGTERM))
    assert weights(tmp_path, 2)
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_comes_between_two_looks_ends_no_run_unsaved(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenFromTheSecondLookOn(list[signal.Signals]):
        looks = 0

        def __bool__(self) -> bool:
            self.looks += 1
            return self.looks > 1

    received = SeenFromTheSecondLookOn([signal.SIGTERM])
    monkeypatch.setattr(lm.train, "asked_to_stop", lambda: nullcontext(received))
    with pytest.raises(Preempted, match="checkpoint saved"):
        train(small_run("bigram"), tmp_path)
    assert (tmp_path / "checkpoints").exists()


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, small_run: SmallRun) -> None:
    def twice(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_run("bigram"), tmp_path, on_event=twice)
    assert not (tmp_path / "checkpoints").exists()


def test_a_signal_in_the_last_step_lets_the_run_end_as_usual(tmp_path: Path, small_run: SmallRun) -> None:
    assert train(small_run("bigram", steps=2), tmp_path, on_event=signal_at(2, signal.SIGINT)).steps == 2


def test_a_run_works_outside_the_main_thread(tmp_path: Path, small_run: SmallRun) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(train(small_run("bigram", steps=1), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].steps == 1


def test_a_loss_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    real = Objective.forward

    def broken(self: Objective, *arguments: Any, **settings: Any) -> torch.Tensor:
        nats = real(self, *arguments, **settings)
        return nats * math.nan if len(steps) == 3 and nats.requires_grad else nats

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(
        NonFiniteError,
        match=r"loss must be finite, got nan at step 4, micro batch 1, rows 24 to 27 of the run\n"
        r"hint: .*last checkpoint is step_000003",
    ):
        train(
            small_run("bigram", checkpoint_every=1),
            tmp_path,
            on_event=lambda e: steps.append(e) if isinstance(e, StepEvent) else None,
        )
    assert all(value.isfinite().all() for value in weights(tmp_path, 3).values())


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(small_run("bigram"), RunFolder(tmp_path), ALONE, resume=False)
    before = run.model.table.weight.clone()
    run.model.table.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        NonFiniteError,
        match=r"grad_norm must be finite, got (nan|inf) at step 1, rows 0 to 7 of the run\nhint: .*grad_clip$",
    ):
        lm.train._take_step(run)
    assert torch.equal(run.model.table.weight, before)


def test_a_folder_that_has_a_checkpoint_is_not_overwritten_and_one_without_is_not_resumed(
    tmp_path: Path, small_run: SmallRun
) -> None:
    config = small_run("bigram", steps=1)
    with pytest.raises(CheckpointError, match=r"a run to resume must have a checkpoint, got none"):
        train(config, tmp_path, resume=True)
    train(config, tmp_path)
    with pytest.raises(CheckpointError, match=r"must have no checkpoint, got step_000001\nhint: go on with --resume"):
        train(config, tmp_path)


def test_resuming_a_run_that_is_done_changes_nothing(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=2)
    first = train(config, tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(config, tmp_path, resume=True)
    assert (again.steps, again.before, again.after) == (2, first.before, first.after)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("optimizer", {"lr": 2e-2}, r"optimizer.lr must be 0.01, as the run began, got 0.02"),
        ("batch", {"rows": 2}, r"batch.rows must be 4, as the run began, got 2"),
        ("run", {"seed": 1}, r"run.seed must be 1337, as the run began, got 1"),
    ],
)
def test_a_resumed_run_is_the_same_run(
    tmp_path: Path, small_run: SmallRun, section: str, change: dict[str, Any], message: str
) -> None:
    config = small_run("bigram", steps=2)
    train(config, tmp_path)
    other = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **change)})
    with pytest.raises(IncompatibleError, match=message):
        train(other, tmp_path, resume=True)


def test_a_resumed_run_may_be_longer(tmp_path: Path, small_run: SmallRun) -> None:
    schedule = ScheduleConfig(warmup_steps=1, min_lr=1e-3, decay_steps=4)
    for steps in (2, 4):
        config = dataclasses.replace(small_run("bigram", steps=steps), schedule=schedule)
        result = train(config, tmp_path, resume=steps == 4)
    assert result.steps == 4


def test_the_checkpoint_of_another_rung_does_not_load(tmp_path: Path, small_run: SmallRun) -> None:
    train(small_run("gpt2", steps=1), tmp_path)
    with pytest.raises(IncompatibleError, match=r"model.rung must be gpt2, as the run began, got bigram"):
        train(small_run("bigram", steps=1), tmp_path, resume=True)


def test_shards_of_another_vocabulary_do_not_train(tmp_path: Path, small_run: SmallRun) -> None:
    other = bpetok.train(["some other text, and more"], vocab_size=260, special_tokens=["<|endoftext|>"])
    other.save(tmp_path / "other.bpetok")
    config = small_run("bigram")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tmp_path / "other.bpetok"))
    with pytest.raises(IncompatibleError, match=r"the shards were made with the vocabulary"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_shards_of_the_same_vocabulary_do_not_resume(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=1)
    train(config, tmp_path / "run")
    tokenizer = bpetok.load(config.data.tokenizer)
    bpetok.shards.write(["another text\n"] * 200, tokenizer, tmp_path / "shards")
    data = DataConfig(shards=tmp_path / "shards", tokenizer=config.data.tokenizer)
    with pytest.raises(IncompatibleError, match=r"batches: tokens must be the saved"):
        train(dataclasses.replace(config, data=data), tmp_path / "run", resume=True)


def test_a_run_goes_on_from_its_own_copy_of_the_tokenizer(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_event=signal_at(1, signal.SIGINT))
    copy = tmp_path / "tokenizer.bpetok"
    before = copy.read_bytes()
    data = dataclasses.replace(config.data, tokenizer=copy)
    assert train(dataclasses.replace(config, data=data), tmp_path, resume=True).steps == 2
    assert copy.read_bytes() == before


def test_lines_of_the_log_past_the_checkpoint_are_cut(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("bigram", steps=4, checkpoint_every=2, keep_checkpoints=0)
    train(config, tmp_path / "unbroken")
    train(config, tmp_path / "crashed")
    shutil.rmtree(tmp_path / "crashed" / "checkpoints" / "step_000004")
    with (tmp_path / "crashed" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "st')  # torn by the crash
    train(config, tmp_path / "crashed", resume=True)
    assert log_without_times(tmp_path / "crashed") == log_without_times(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it compiles
def test_a_compiled_run_learns_what_an_eager_one_does_and_saves_its_names(tmp_path: Path, small_run: SmallRun) -> None:
    losses = {}
    for compiled in (False, True):
        events: list[Event] = []
        train(small_run("gpt2", compile=compiled), tmp_path / f"{compiled}", on_event=events.append)
        losses[compiled] = [event.loss for event in events if isinstance(event, StepEvent)]
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    assert weights(tmp_path / "True", 4).keys() == weights(tmp_path / "False", 4).keys()


@pytest.mark.gpu
def test_a_compiled_bfloat16_run_on_cuda_learns_and_resumes(tmp_path: Path, small_run: SmallRun) -> None:
    config = small_run("gpt2", steps=6, compile=True, dtype="bfloat16")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, device="cuda"))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_event=signal_at(3, signal.SIGINT))
    assert not any("_orig_mod" in name for name in weights(tmp_path, 3))
    result = train(config, tmp_path, resume=True)
    assert result.after.loss < result.before.loss


def test_a_context_longer_than_the_text_still_trains(tmp_path: Path, small_run: SmallRun) -> None:
    config = dataclasses.replace(small_run("bigram", steps=1), model=BigramConfig(context=5_000))
    assert train(config, tmp_path).steps == 1


def test_a_call_that_may_take_no_time_makes_one_step_and_the_next_one_goes_on(
    tmp_path: Path, small_run: SmallRun
) -> None:
    config = small_run(steps=4)
    first = train(config, tmp_path / "run", max_seconds=0)
    assert (first.steps, first.checkpoint.name) == (1, "step_000001")
    assert [line["event"] for line in log_without_times(tmp_path / "run")] == ["eval", "step", "eval"]
    assert train(config, tmp_path / "run", resume=True).steps == 4
