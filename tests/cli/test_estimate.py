from pathlib import Path

import pytest

import lm.estimate


@pytest.fixture
def settings(folder: Path) -> list[str]:
    (folder / "words.txt").write_text("".join(f"word{n}\n" for n in range(40)))
    keys = ("data.text=words.txt", "run.steps=6", "run.eval_every=3", "model.hidden=8", "run.device=cpu")
    return [part for key in keys for part in ("--set", key)]


def test_estimate_tells_memory_disk_and_time(call, folder, settings) -> None:
    done = call("lm", "estimate", "04-kaiming", *settings, cwd=folder)
    assert done.code == 0, done.err
    rows = {line.split()[0]: line for line in done.text.splitlines()}
    assert {"model", "step", "run", "memory", "disk", "speed", "time"} <= rows.keys()
    assert "mlp, 533 parameters, float32 on cpu" in rows["model"] and "6 steps" in rows["run"]
    assert "optimizer" in rows["memory"] and "MFU unknown" in rows["speed"]
    assert "5 steps of" in rows["time"] and "3 evaluations of" in rows["time"]
    assert sorted(path.name for path in folder.iterdir() if path.name == "runs") == [], "nothing is kept"


def test_estimate_prints_json_and_makes_no_step_if_told(call, folder, settings) -> None:
    told = call("lm", "estimate", "04-kaiming", "--no-probe", "--json", *settings, cwd=folder).json
    assert told["fits"] and told["duration"] is None and told["parameters"] == 533
    parts = ("parameters", "gradients", "optimizer", "activations", "allocator")
    assert told["memory"]["peak"] == sum(told["memory"][part] for part in parts)
    probed = call("lm", "estimate", "04-kaiming", "--json", *settings, cwd=folder).json
    assert probed["duration"]["total"] > 0 and probed["duration"]["steps"] == 6


def test_what_does_not_fit_comes_with_settings_that_do(call, folder, settings, monkeypatch) -> None:
    known = call("lm", "estimate", "04-kaiming", "--no-probe", "--json", *settings, cwd=folder).json
    monkeypatch.setattr(lm.estimate, "free_memory", lambda device: known["memory"]["peak"] - 1)
    done = call("lm", "estimate", "04-kaiming", *settings, cwd=folder)
    assert done.code == 0 and "time" not in done.text
    assert "it does not fit\nhint: --set batch.rows=16 --set batch.accumulation=2 takes the same steps" in done.err
    monkeypatch.setattr(lm.estimate, "free_memory", lambda device: 0)
    assert "even batch.rows=1 does not fit" in call("lm", "estimate", "04-kaiming", *settings, cwd=folder).err


def test_a_mistake_in_the_settings_is_one_of_usage(call, folder) -> None:
    done = call("lm", "estimate", "04-kaiming", "--set", "batch.rosw=3", cwd=folder)
    assert done.code == 2 and "did you mean batch.rows?" in done.err
