import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bpetok
from bpetok import shards

CONFIG = """
[data]
shards = "shards"
tokenizer = "my.bpetok"
[model]
rung = "gpt2"
context = 16
layers = 1
heads = 2
width = 16
[batch]
rows = 4
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 2
min_lr = 1e-3
[run]
steps = 12
eval_every = 6
eval_batches = 2
checkpoint_every = 4
device = "cpu"
"""


@pytest.fixture
def project(folder: Path, tok: bpetok.Tokenizer) -> Path:
    """A folder with shards and a configuration."""
    shards.write([(folder / "corpus.txt").read_bytes()], tok, folder / "shards")
    (folder / "gpt.toml").write_text(CONFIG)
    return folder


def steps_of(run_folder: Path) -> list[int]:
    lines = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == "step"]


@pytest.mark.slow
def test_train_leaves_a_run_that_sample_draws_from(run, project) -> None:
    done = run("lm", "train", "gpt.toml", "-o", "runs/gpt", cwd=project)
    assert done.code == 0, done.err
    assert done.text.startswith("12 steps, ") and "bits per byte" in done.text
    assert steps_of(project / "runs/gpt") == list(range(1, 13))
    first = run("lm", "sample", "runs/gpt", "--prompt", "The cats", "--max-new-tokens", 20, cwd=project)
    assert first.code == 0 and first.text.startswith("The cats")
    assert run("lm", "sample", "runs/gpt", "--prompt", "The cats", "--max-new-tokens", 20, cwd=project) == first


@pytest.mark.slow
def test_train_and_quickstart_print_their_results_as_json(run, project) -> None:
    trained = run("lm", "train", "gpt.toml", "-o", "run", "--json", cwd=project).json
    assert trained["steps"] == 12 and trained["checkpoint"].endswith("run/checkpoints/step_000012")
    started = run("lm", "quickstart", "corpus.txt", "--minutes", "0.01", "-o", "q", "--json", cwd=project).json
    assert started["train"]["steps"] >= 40 and started["curve"].endswith("q/loss.png")


def test_a_run_that_gets_sigterm_exits_75_and_goes_on_to_the_same_weights(run, project) -> None:
    assert run("lm", "train", "gpt.toml", "-o", "whole", "--set", "run.steps=400", cwd=project).code == 0
    command = [sys.executable, "-m", "lm", "train", "gpt.toml", "-o", "parts", "--set", "run.steps=400"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)
    log = project / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not log.exists() or len(log.read_text().splitlines()) < 20):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "checkpoint saved\nhint: the same command with --resume goes on" in err
    stopped = len(steps_of(project / "parts"))
    assert 0 < stopped < 400
    assert run("lm", "train", "parts", "--resume", cwd=project).code == 0
    assert steps_of(project / "parts") == list(range(1, 401))
    weights = "checkpoints/step_000400/model.safetensors"
    assert (project / "parts" / weights).read_bytes() == (project / "whole" / weights).read_bytes()


def test_what_does_not_belong_together_is_exit_code_5(call, project) -> None:
    bpetok.train("other text", 300, special_tokens=["<|endoftext|>"]).save(project / "other.bpetok")
    done = call("lm", "train", "gpt.toml", "--set", "data.tokenizer=other.bpetok", "-o", "x", cwd=project)
    assert done.code == 5 and "the shards were made with the vocabulary" in done.err and "hint: " in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["train", "gpt.toml", "--set", "model.widht=8"], 2, "did you mean model.width?"),
        (["train", "gpt.toml", "--device", "tpu"], 2, "run.device must be one of"),
        (["train", "gone.toml"], 2, "gone.toml: must be a file"),
        (["sample", "books"], 1, "a run must have a checkpoint"),
        (["quickstart", "corpus.txt", "--minutes", "nan"], 2, "minutes must be above 0"),
        (["train", "shakespeare-bpe-cpu", "--set", "data.shards=s"], 2, "data.tokenizer must be a file, got "),
        (["train", "ml"], 2, "did you mean 03-mlp?"),
        (["train", "03-nope"], 2, "must be a file, a run's folder or one of 02-bigram"),
        (["quickstart", "empty.txt", "-o", "q"], 3, "must hold text, got none"),
    ],
)
def test_a_mistake_gives_its_exit_code_and_a_line_without_a_traceback(call, project, args, code, message) -> None:
    (project / "empty.txt").write_text("")
    done = call("lm", *args, cwd=project)
    assert (done.code, message in done.err) == (code, True), done.err
    assert "Traceback" not in done.err


def test_quickstart_walks_the_whole_road_and_is_done_once(run, folder) -> None:
    done = run("lm", "quickstart", "corpus.txt", "--minutes", "0.02", cwd=folder, timeout=120)
    assert done.code == 0, done.err
    made = folder / "runs" / "quickstart-corpus"
    for name in ("tokenizer.bpetok", "shards/manifest.json", "config.toml", "metrics.jsonl", "loss.png"):
        assert (made / name).is_file(), name
    assert list(made.glob("checkpoints/step_*/model.safetensors"))
    assert (made / "loss.png").read_bytes().startswith(b"\x89PNG")
    table = {line.split()[0]: line.split()[1:] for line in done.text.splitlines() if line.startswith("  ")}
    assert float(table["after"][0]) < float(table["before"][0])
    assert float(table["after"][1]) < float(table["before"][1])
    assert "sample 1" in done.text
    (made / "loss.png").unlink()  # as if it had been stopped after the last step
    again = run("lm", "quickstart", "corpus.txt", cwd=folder)
    assert again.code == 0 and (made / "loss.png").is_file()
    assert again.out.split(b" s in all")[0].rsplit(b",", 1)[0] == done.out.split(b" s in all")[0].rsplit(b",", 1)[0]
    (folder / "other.txt").write_text("other")
    other = run("lm", "quickstart", "other.txt", "-o", "runs/quickstart-corpus", cwd=folder)
    assert other.code == 5 and "the run's text must be corpus.txt, 1 files" in other.err


@pytest.mark.slow
def test_quickstart_does_not_take_another_text_of_the_same_name_and_size_for_the_first(run, folder) -> None:
    args = ("lm", "quickstart", "corpus.txt", "--minutes", "0.01", "-o", "run")
    assert run(*args, cwd=folder, timeout=120).code == 0
    text = (folder / "corpus.txt").read_text()
    (folder / "corpus.txt").write_text(text.replace("cats", "rats"))
    other = run(*args, cwd=folder)
    assert other.code == 5 and "the run's text must be" in other.err


def test_quickstart_does_not_write_over_another_run_or_tokenizer(call, project) -> None:
    (project / "my.bpetok").rename(project / "tokenizer.bpetok")
    before = (project / "tokenizer.bpetok").read_bytes()
    shards_before = sorted(path.name for path in (project / "shards").iterdir())
    (project / "shards" / "manifest.json").unlink()
    done = call("lm", "quickstart", "corpus.txt", "-o", ".", cwd=project)
    assert done.code == 5 and "must not hold another run or tokenizer" in done.err
    assert (project / "tokenizer.bpetok").read_bytes() == before
    assert sorted([*(path.name for path in (project / "shards").iterdir()), "manifest.json"]) == shards_before


def test_a_run_can_be_moved_and_its_config_is_left_as_it_was_written(run, project) -> None:
    (project / "own").mkdir()
    mine = "# my own words\n" + CONFIG.replace('"shards"', '"../shards"').replace('"my.bpetok"', '"../my.bpetok"')
    (project / "own" / "config.toml").write_text(mine)
    assert run("lm", "train", "own/config.toml", "-o", "own", cwd=project).code == 0
    assert (project / "own" / "config.toml").read_text() == mine
    assert run("lm", "train", "gpt.toml", "-o", "first", cwd=project).code == 0
    (project / "my.bpetok").unlink()
    (project / "first").rename(project / "second")
    assert run("lm", "train", "second", "--resume", cwd=project).code == 0
    assert run("lm", "sample", "second", "--max-new-tokens", 3, cwd=project).code == 0
    (project / "second" / "metrics.jsonl").unlink()
    assert run("lm", "train", "second", "--resume", cwd=project).code == 0
    other = run("lm", "train", "gpt.toml", "-o", "own", "--set", "run.steps=20", cwd=project)
    assert other.code != 0 and "Traceback" not in other.err


@pytest.mark.slow
def test_another_schedule_is_another_run(run, project) -> None:
    assert run("lm", "train", "gpt.toml", "-o", "first", cwd=project).code == 0
    longer = run("lm", "train", "first", "--resume", "--set", "run.steps=20", cwd=project)
    assert longer.code == 5 and "the step at which the rate is lowest must be 12" in longer.err


@pytest.mark.slow
def test_quickstart_goes_on_after_an_interrupt_in_any_stage(run, folder) -> None:
    command = [sys.executable, "-m", "lm", "quickstart", "corpus.txt", "--minutes", "0.05", "-o", "run"]
    for wanted in ("tokenizer.bpetok", "metrics.jsonl"):
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (folder / "run" / wanted).exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err.decode()
        assert b"hint: nothing is lost: the same command goes on where it was" in err
    done = run(*command[2:], cwd=folder, timeout=120)
    assert done.code == 0, done.err
    steps = steps_of(folder / "run")
    assert steps == list(range(1, len(steps) + 1))
    shutil.rmtree(folder / "run")


def test_a_page_and_pictures_of_a_run_and_their_paths_on_stdout(call, folder) -> None:
    (folder / "words.txt").write_text("".join(f"word{n}\n" for n in range(40)))
    keys = ("data.text=words.txt", "run.steps=6", "run.eval_every=3", "model.hidden=8", "run.device=cpu")
    settings = [part for key in keys for part in ("--set", key)]
    assert call("lm", "train", "03-mlp", "-o", "r", "-q", *settings, cwd=folder).code == 0
    done = call("lm", "report", "r", "--png", cwd=folder)
    assert (done.code, done.text.split()) == (0, ["r/report.html", "r/loss.png", "r/diagnostics.png"])
    page = (folder / "r" / "report.html").read_text(encoding="utf-8")
    assert "Next-token probabilities" in page and "Diagnostics" in page
    assert call("lm", "report", "r", "-o", "a.html", cwd=folder).text.split() == ["a.html"]


def test_a_run_says_what_it_trains_and_when_it_has_diverged(call, folder) -> None:
    (folder / "words.txt").write_text("".join(f"word{n}\n" for n in range(40)))
    keys = ("data.text=words.txt", "run.steps=5", "optimizer.lr=300.0", "model.hidden=8", "run.sample_every=0")
    settings = [part for key in keys for part in ("--set", key)]
    done = call("lm", "train", "04-kaiming", "-o", "d", *settings, cwd=folder)
    assert done.code == 0 and "mlp: 533 parameters, 15 ids in the vocabulary, " in done.err
    assert "the loss is above that of the untrained model: lower optimizer.lr" in done.err


def test_rates_are_tried_and_the_lowest_loss_is_marked(call, folder) -> None:
    (folder / "words.txt").write_text("".join(f"word{n}\n" for n in range(40)))
    args = ("lm", "find-lr", "03-mlp", "--set", "data.text=words.txt", "--steps", "40")
    done = call(*args, cwd=folder)
    assert done.code == 0 and len(done.text.splitlines()) == 20 and done.text.count("the lowest") == 1
    trials = call(*args, "--json", cwd=folder).json["trials"]
    assert len(trials) == 40 and trials[0]["rate"] == pytest.approx(1e-3) and trials[-1]["rate"] == pytest.approx(1.0)
    assert call(*args, "--low", "1", "--high", "0.1", cwd=folder).code == 2
