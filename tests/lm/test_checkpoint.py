import dataclasses
from pathlib import Path

import pytest
import torch

from bpetok.errors import IncompatibleError
from lm.checkpoint import State, best, latest, load, read_state, save
from lm.config import OptimizerConfig
from lm.errors import CheckpointError
from lm.models.gpt2 import GPT2, GPT2Config
from lm.optim import adamw

CONFIG = GPT2Config(context=4, layers=1, heads=1, width=8)
OPTIMIZER = OptimizerConfig(lr=0.1)
STATE = State(
    step=7,
    tokens=99,
    rung="gpt2",
    fingerprint="ab",
    config="[run]\nsteps = 9\n",
    batches={"seed": 1, "position": 2},
)


def trained(seed: int = 0, config: GPT2Config = CONFIG) -> tuple[GPT2, torch.optim.AdamW]:
    """A model and an optimizer that has seen a gradient."""
    torch.manual_seed(seed)
    model = GPT2(config, 10)
    optimizer = adamw(model, OPTIMIZER)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()
    return model, optimizer


def test_weights_optimizer_and_state_come_back_as_they_were(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    path = save(tmp_path, model, optimizer, STATE)
    assert path == tmp_path / "step_000007" == latest(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    other, other_optimizer = trained(1)
    assert load(path, other, other_optimizer, rung="gpt2", fingerprint="ab") == STATE == read_state(path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        saved, loaded = optimizer.state[ours], other_optimizer.state[theirs]
        assert saved.keys() == loaded.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_an_optimizer_that_has_not_stepped_comes_back_empty(tmp_path: Path) -> None:
    model = GPT2(CONFIG, 10)
    path = save(tmp_path, model, adamw(model, OPTIMIZER), STATE)
    other, optimizer = trained(1)
    load(path, other, optimizer, rung="gpt2", fingerprint="ab")
    assert not optimizer.state


def test_the_latest_checkpoints_are_kept_and_the_latest_has_the_most_steps(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert latest(tmp_path) is None
    for step in (5, 999_999, 1_000_000):
        save(tmp_path, model, optimizer, dataclasses.replace(STATE, step=step), keep=2)
    (tmp_path / "step_backup").mkdir()  # not ours, so not touched
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1000000", "step_999999", "step_backup"]
    assert latest(tmp_path) == tmp_path / "step_1000000"


def test_all_are_kept_if_told_so_and_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (1, 2, 3, 3):
        save(tmp_path, model, optimizer, dataclasses.replace(STATE, step=step, tokens=step), keep=0)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_000001", "step_000002", "step_000003"]


def test_a_save_that_breaks_off_leaves_nothing_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()

    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lm.checkpoint.json.dump", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, model, optimizer, STATE)
    assert latest(tmp_path) is None and not list(tmp_path.glob("step_*"))
    save(tmp_path, model, optimizer, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000007"], "and the rest of it is taken away"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_wrong_bit_anywhere_is_found_and_the_file_named(tmp_path: Path, name: str, place: float) -> None:
    path = save(tmp_path, *trained(), STATE)
    content = bytearray((path / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: must be as it was written, got other bytes\nhint: .*delete"):
        read_state(path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, *trained(), STATE)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: must be there, got no file"):
        read_state(path)


def test_a_state_that_is_cut_off_or_no_object_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), STATE)
    for text in ("", "[]", '{"step": 7}', (path / "state.json").read_text(encoding="utf-8")[:-5]):
        (path / "state.json").write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"state.json: must be as it was written"):
            read_state(path)


def test_a_checkpoint_of_another_rung_vocabulary_or_version_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, STATE)
    with pytest.raises(IncompatibleError, match=r"step_000007: rung must be bigram, got gpt2"):
        load(path, model, rung="bigram", fingerprint="ab")
    with pytest.raises(IncompatibleError, match=r"step_000007: fingerprint must be cd, got ab"):
        load(path, model, rung="gpt2", fingerprint="cd")
    monkeypatch.setattr("lm.checkpoint._VERSION", 2)
    with pytest.raises(IncompatibleError, match=r"version must be 2, got 1"):
        load(path, model, rung="gpt2", fingerprint="ab")


def test_a_model_of_another_size_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), STATE)
    wider, _ = trained(1, dataclasses.replace(CONFIG, width=16))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(IncompatibleError, match=r"attention.project.bias must be of shape \[16\], got \[8\]"):
        load(path, wider, rung="gpt2", fingerprint="ab")
    assert all(torch.equal(before[name], value) for name, value in wider.state_dict().items())
    deeper, _ = trained(1, dataclasses.replace(CONFIG, layers=2))
    with pytest.raises(IncompatibleError, match=r"blocks.1.attention.project.bias must be of shape \[8\], got None"):
        load(path, deeper, rung="gpt2", fingerprint="ab")


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, STATE)
    for other in (
        adamw(model, dataclasses.replace(OPTIMIZER, weight_decay=0.5)),
        torch.optim.SGD(model.parameters(), lr=0.1),
    ):
        with pytest.raises(IncompatibleError, match=r"optimizer must be (AdamW|SGD) with the groups of this run"):
            load(path, model, other, rung="gpt2", fingerprint="ab")


def test_a_file_that_is_whole_but_no_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, *trained(), STATE)
    (path / "model.safetensors").write_bytes(b"not tensors")
    document = {**dataclasses.asdict(STATE), "sha256": {}}
    monkeypatch.setattr("lm.checkpoint._verified", lambda checkpoint: document)
    with pytest.raises(CheckpointError, match=r"model.safetensors: must be a safetensors file, got "):
        load(path, trained()[0], rung="gpt2", fingerprint="ab")


def test_the_best_checkpoint_stays_beside_the_latest(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert best(tmp_path) is None
    for step, loss in ((1, 3.0), (2, 2.0), (3, None), (4, 2.0), (5, 2.5), (6, None)):
        save(tmp_path, model, optimizer, dataclasses.replace(STATE, step=step, val_loss=loss), keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_000002", "step_000005", "step_000006"]
    assert best(tmp_path) == tmp_path / "step_000002", "the earliest of equals"


def test_a_checkpoint_that_was_not_evaluated_or_is_damaged_is_not_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, 1.0), (2, None), (3, 3.0)):
        save(tmp_path, *trained(), dataclasses.replace(STATE, step=step, val_loss=loss))
    (tmp_path / "step_000001" / "state.json").write_text("{", encoding="utf-8")
    assert best(tmp_path) == tmp_path / "step_000003"
