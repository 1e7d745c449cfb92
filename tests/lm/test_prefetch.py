import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import lm.train
from lm.batches import Batches
from lm.checkpoint import read_state
from lm.config import Config
from lm.errors import ConfigError, NonFiniteError
from lm.events import Event, StepEvent
from lm.prefetch import Prefetch, to_device
from lm.train import train

SplitOf = Callable[..., object]
CPU = torch.device("cpu")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lm-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    assert not threads()
    yield
    assert not threads()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("still not so after 5 seconds")


class Counting:
    """Batches of one number, its place, that say how many were made and may fail at one."""

    def __init__(self, *, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.made = 0
        self.fails_at, self.error = fails_at, error

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.made == self.fails_at:
            raise self.error
        self.made += 1
        return torch.tensor([[self.made]]), torch.tensor([[self.made]])

    def state(self) -> dict[str, int]:
        return {"position": self.made}


def test_batches_read_ahead_are_the_same_in_the_same_order(split_of: SplitOf) -> None:
    plain, ahead = (Batches(split_of(range(1000)), rows=3, context=7, seed=4) for _ in range(2))
    with Prefetch(ahead, device=CPU, ahead=4) as batches:
        assert iter(batches) is batches
        for _ in range(200):  # four epochs
            for got, expected in zip(next(batches), next(plain), strict=True):
                assert torch.equal(got, expected) and got.dtype == expected.dtype
            assert batches.state() == plain.state()


def test_the_cursor_is_that_of_the_batches_taken_and_resumes_with_the_very_next(split_of: SplitOf) -> None:
    split = split_of(range(500))
    plain = Batches(split, rows=2, context=5, seed=1)
    with Prefetch(Batches(split, rows=2, context=5, seed=1), device=CPU, ahead=8) as batches:
        assert batches.state() == plain.state(), "nothing is taken yet, however much is made"
        for _ in range(7):
            next(batches)
            next(plain)
        state = batches.state()
    assert state == plain.state() == batches.state()
    resumed = Batches.from_state(split, state, rows=2, context=5)
    assert torch.equal(next(resumed)[1], next(plain)[1])


def test_the_thread_makes_as_many_batches_ahead_as_told_and_no_more() -> None:
    source = Counting()
    with Prefetch(source, device=CPU, ahead=3) as batches:
        wait_until(lambda: source.made == 3)
        time.sleep(0.05)
        assert source.made == 3
        assert next(batches)[0].item() == 1
        wait_until(lambda: source.made == 4)
        time.sleep(0.05)
        assert source.made == 4
        assert batches.state() == {"position": 1}


@pytest.mark.parametrize("error", [OSError("the disk is gone"), MemoryError(), SystemExit(3)])
def test_an_error_of_the_thread_reaches_the_taker_in_its_place_and_again(error: BaseException) -> None:
    with Prefetch(Counting(fails_at=2, error=error), device=CPU, ahead=5) as batches:
        assert [next(batches)[0].item() for _ in range(2)] == [1, 2]
        for _ in range(3):
            with pytest.raises(type(error)) as raised:
                next(batches)
            assert raised.value is error
        assert batches.state() == {"position": 2}


def test_batches_that_end_end_here_too() -> None:
    with Prefetch(Counting(fails_at=3, error=StopIteration()), device=CPU) as batches:
        assert [inputs_BT.item() for inputs_BT, _ in batches] == [1, 2, 3]


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("ahead", [1, 4])
def test_no_thread_outlives_closing_wherever_the_taker_stopped(taken: int, ahead: int) -> None:
    batches = Prefetch(Counting(), device=CPU, ahead=ahead)
    for _ in range(taken):
        next(batches)
    assert len(threads()) == 1
    batches.close()
    assert not threads()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    assert batches.state() == {"position": taken}


def test_an_error_of_the_taker_closes_it() -> None:
    with pytest.raises(KeyError), Prefetch(Counting(), device=CPU):
        raise KeyError
    assert not threads()


def test_no_thread_outlives_an_object_that_was_never_closed() -> None:
    batches = Prefetch(Counting(), device=CPU)
    next(batches)
    del batches
    assert not threads()
    cycle: list[object] = [Prefetch(Counting(), device=CPU)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert not threads()


def test_closing_wakes_a_taker_that_waits_in_another_thread() -> None:
    class Waiting(Counting):
        def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
            go.wait(5)
            return super().__next__()

    go = threading.Event()
    batches = Prefetch(Waiting(), device=CPU)
    taker = threading.Thread(target=lambda: list(batches))
    closer = threading.Thread(target=batches.close)
    for thread in (taker, closer):
        thread.start()
    go.set()
    for thread in (taker, closer):
        thread.join(5)
        assert not thread.is_alive()


def test_a_taker_that_began_to_wait_before_the_close_finds_the_end() -> None:
    source = Counting()
    batches = Prefetch(source, device=CPU, ahead=2)
    wait_until(lambda: source.made == 2)
    batches._close()  # all of `close` but the note on which a later `next` turns back at once
    assert [inputs_BT.item() for inputs_BT, _ in batches] == [1, 2]


def test_an_interpreter_ends_though_a_thread_was_not_closed() -> None:
    script = (
        "import numpy, torch\n"
        "from lm.batches import Batches\n"
        "from lm.prefetch import Prefetch\n"
        "class Split:\n"
        "    tokens = 100\n"
        "    def read(self, start, stop):\n"
        "        return numpy.arange(start, stop, dtype=numpy.uint16)\n"
        "batches = Prefetch(Batches(Split(), rows=1, context=2, seed=0), device=torch.device('cpu'))\n"
        "print(next(batches)[0].shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("torch.Size([1, 2])\n", "")


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"prefetch: ahead must be at least 1, got 0"):
        Prefetch(Counting(), device=CPU, ahead=0)


# ---- CUDA ------------------------------------------------------------------------------------------------------------


def test_for_cuda_the_thread_pins_on_the_device_of_the_taker(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    def set_device(device: torch.device) -> None:
        calls.append((threading.current_thread().name, device))

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(("pin", threading.current_thread().name))
        return tensor + 100

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: calls.append((threading.current_thread().name, device))
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    with Prefetch(Counting(), device=torch.device("cuda"), ahead=1) as batches:
        assert [tensor.item() for tensor in next(batches)] == [101, 101]
    assert calls[:3] == [("lm-prefetch", torch.device("cuda", 5)), ("pin", "lm-prefetch"), ("pin", "lm-prefetch")]


@pytest.mark.parametrize(("kind", "asked_for"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_only_a_copy_to_cuda_is_not_waited_for(kind: str, asked_for: bool) -> None:
    class Recording:
        def to(self, device: torch.device, *, non_blocking: bool) -> tuple[torch.device, bool]:
            return device, non_blocking

    device = torch.device(kind)
    batch: Any = (Recording(), Recording())
    assert to_device(batch, device) == ((device, asked_for), (device, asked_for))


@pytest.mark.gpu
def test_on_cuda_batches_are_pinned_and_their_copies_are_not_waited_for(split_of: SplitOf) -> None:
    device = torch.device("cuda")
    split = split_of(range(100_000))
    plain = Batches(split, rows=8, context=512, seed=0)
    with Prefetch(Batches(split, rows=8, context=512, seed=0), device=device) as batches:
        for _ in range(20):
            batch = next(batches)
            assert all(tensor.is_pinned() for tensor in batch)
            torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
            copy = to_device(batch, device)
            assert not torch.cuda.current_stream().query(), "the copy was waited for"
            for got, expected in zip(copy, next(plain), strict=True):
                assert got.device.type == "cuda" and torch.equal(got.cpu(), expected)


# ---- in the loop -----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the `ahead` of each `Prefetch` that `train` opens."""
    opened = []

    class Watched(Prefetch):  # type: ignore[misc]
        def __init__(self, *arguments: Any, ahead: int, **settings: Any) -> None:
            opened.append(ahead)
            super().__init__(*arguments, ahead=ahead, **settings)

    monkeypatch.setattr(lm.train, "Prefetch", Watched)
    return opened


def test_a_run_that_reads_ahead_and_is_resumed_is_the_run_that_does_not(
    tmp_path: Path, small_run: Callable[..., Config], opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(steps=6, accumulation=3, eval_every=4)
    train(config, tmp_path / "plain")
    assert opened == [], "on the CPU the thread would take the time from the model"
    monkeypatch.setattr(lm.train, "_READ_AHEAD_ON", ("cpu",))
    train(config, tmp_path / "ahead", max_seconds=0)
    train(config, tmp_path / "ahead", resume=True)
    assert opened == [3, 3], "the thread makes the next step's batches"
    runs = [tmp_path / name / "checkpoints" / "step_000006" for name in ("plain", "ahead")]
    weights, others = (safetensors.torch.load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert read_state(runs[0]) == read_state(runs[1])


def test_a_run_that_fails_leaves_no_thread(
    tmp_path: Path, small_run: Callable[..., Config], opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            raise NonFiniteError("no more")

    monkeypatch.setattr(lm.train, "_READ_AHEAD_ON", ("cpu",))
    with pytest.raises(NonFiniteError, match="no more"):
        train(small_run("bigram"), tmp_path, on_event=fail)
    assert len(opened) == 1 and not threads()
