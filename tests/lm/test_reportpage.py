"""The page of a run: whole from a real run, and standing whatever a log holds or lacks."""

import dataclasses
import html
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from bpetok.errors import DataError
from lm.config import BatchConfig, Config, TextConfig
from lm.curves import training_charts
from lm.diagnostics import Diagnosis, watch
from lm.errors import CheckpointError
from lm.report import write_report
from lm.reportpage import MOST_SAMPLES, STRETCH
from lm.run import RunFolder, append_metric
from lm.train import train

EVIL = "</pre></script><script>alert('1')</script><img src=x onerror=alert(1)>&amp;"


class Checked(HTMLParser):
    """Fails where tags do not nest; keeps ids, tags, links and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href", "action"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag != "meta":  # which has no end
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Checked:
    """The page, parsed; it nests, its ids are unique, and it asks for nothing from elsewhere."""
    text = path.read_text(encoding="utf-8")
    page = Checked()
    page.feed(text)
    page.close()
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in re.sub(r"&[^;]*;|<pre>.*?</pre>", "", text, flags=re.S)
    return page


def diagnosis() -> Diagnosis:
    torch.manual_seed(1)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(12)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model) as watching:
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        return watching.diagnose()


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """`log(line, ...)`: a run's folder with nothing but these lines in its log."""

    def make(*lines: dict[str, object]) -> Path:
        folder = RunFolder(tmp_path)
        folder.metrics.write_text("", encoding="utf-8")
        for line in lines:
            append_metric(folder, line)
        return tmp_path

    return make


def test_a_real_run_has_every_section(small_run: Callable[..., Config], tmp_path: Path) -> None:
    run = tmp_path / "a <run>"
    train(small_run(steps=4, eval_every=2), run)
    for step in (2, 4):
        append_metric(RunFolder(run), {"event": "sample", "step": step, "text": f"The {step} cats"})
        append_metric(RunFolder(run), {"event": "diagnostics", "step": step, **diagnosis().to_json()})
    path = write_report(run)
    assert path == run / "report.html"
    page = checked(path)
    assert page.ids == ["training", "diagnostics", "samples", "next-token-probabilities", "settings"]
    assert page.text.count("a <run>") == 2  # title and heading
    for title in (
        "Loss, in nats",
        "Learning rate",
        "Norm of the gradient",
        "Tokens per second",
        "Dead units",
        "Update :",
    ):
        assert title in page.text
    assert "The 2 cats" in page.text
    assert 'rung = "gpt2"' in page.text
    assert "The mean loss here is" in page.text
    assert page.tags["svg"] == 4 + 7
    assert not list(run.glob(".*partial"))


def test_the_heat_map_shows_as_many_positions_as_it_says_each_with_five_ids(
    small_run: Callable[..., Config], tmp_path: Path
) -> None:
    train(small_run(steps=1), tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    heat = text[text.index('<div class="heat">') : text.index("</section>", text.index('<div class="heat">'))]
    assert heat.count("style=") == STRETCH * 6
    assert heat.count("<tr>") == STRETCH + 1


@pytest.mark.parametrize("rows", ["blocks", "windows", "lines"])
def test_a_run_on_a_text_has_its_heat_map_too(rows: str, small_run: Callable[..., Config], tmp_path: Path) -> None:
    names = tmp_path / "some.txt"
    letters = "abcdefghijklmnopqrstuvwxyz"
    names.write_text("".join(f"{a}{b}{c}\n" for a in letters for b in "aeiou" for c in ("na", "nne")), encoding="utf-8")
    config = dataclasses.replace(
        small_run("mlp", steps=2),
        data=TextConfig(text=names, documents="lines", rows=rows),
        batch=BatchConfig(rows=4),
    )
    train(config, tmp_path / "run")
    path = write_report(tmp_path / "run")
    assert "The mean loss here is" in checked(path).text
    assert path.read_text(encoding="utf-8").count("style=") == STRETCH * 6
    assert "↵" in checked(path).text


def test_a_run_without_a_checkpoint_says_why_there_is_no_heat_map(log: Callable[..., Path]) -> None:
    page = checked(write_report(log({"event": "step", "step": 1, "loss": 3.0})))
    assert "Not drawn:" in page.text
    assert "a run must have a checkpoint, got none" in page.text


def test_a_run_whose_shards_are_gone_says_so(small_run: Callable[..., Config], tmp_path: Path) -> None:
    config = small_run(steps=1)
    train(config, tmp_path)
    text = (tmp_path / "config.toml").read_text(encoding="utf-8")
    (tmp_path / "config.toml").write_text(text.replace(str(config.data.shards), "/no/such"), encoding="utf-8")
    page = checked(write_report(tmp_path))
    assert "Not drawn:" in page.text
    assert "/no/such" in page.text


def test_the_page_goes_where_it_is_asked_to(log: Callable[..., Path], tmp_path: Path) -> None:
    run = log({"event": "step", "step": 1, "loss": 3.0})
    assert write_report(run, tmp_path / "else.html") == tmp_path / "else.html"
    assert not (run / "report.html").exists()
    checked(tmp_path / "else.html")


def test_text_of_the_run_is_escaped(log: Callable[..., Path]) -> None:
    row = diagnosis().to_json()
    row["parameters"] = [{**row["parameters"][0], "name": EVIL}]
    row["activations"] = [{**row["activations"][0], "name": EVIL, "kind": EVIL}]
    run = log(
        {"event": "sample", "step": 1, "text": EVIL + "\0\ud800 \x1b"}, {"event": "diagnostics", "step": 1, **row}
    )
    (run / "config.toml").write_text(EVIL, encoding="utf-8")
    page = checked(write_report(run))
    assert page.text.count(EVIL) >= 8
    assert "\0" not in page.text


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"event": "eval", "step": 0, "loss": 4.0}],
        [{"event": "step", "step": 1}],
        [{"event": "step", "step": 1, "loss": 2.0}, {"event": "step", "step": 2, "loss": 1.0}],
        [{"event": "sample", "step": 1}, {"event": "sample", "step": 1, "text": 7}],
        [{"event": "a later version's", "step": 1, "loss": [1]}],
        [{"step": 1}],
        [{"event": "diagnostics", "step": 1, "activations": [], "parameters": []}],
        [{"event": "eval", "step": 0, "loss": 4.0, "standard_error": None, "bits_per_byte": None}],
        [{"event": "step", "step": 1, "loss": "much", "lr": None, "tokens": 5, "seconds": 1}] * 2,
    ],
)
def test_a_page_is_written_whatever_the_log_lacks(lines: list[dict[str, object]], log: Callable[..., Path]) -> None:
    checked(write_report(log(*lines)))


def test_values_that_are_not_finite_do_not_break_the_page(log: Callable[..., Path]) -> None:
    keys = ("loss", "lr", "grad_norm", "tokens", "seconds", "standard_error", "bits_per_byte")
    lines = [
        {"event": event, "step": step, **dict.fromkeys(keys, value)}
        for step, value in enumerate([math.nan, math.inf, 2.0, -math.inf, 3.0, 1e308])
        for event in ("step", "eval")
    ]
    page = checked(write_report(log(*lines)))
    assert "3 training losses are not finite and not drawn." in page.text
    page = checked(write_report(log(*lines[:2])))
    assert "No finite value to draw. 1 training losses are not finite" in page.text


def test_a_diagnosis_of_a_model_full_of_nan_is_shown(log: Callable[..., Path]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    nn.init.constant_(model[0].weight, math.nan)
    with watch(model) as watching:
        model(torch.ones(2, 3)).sum().backward()
    page = checked(write_report(log({"event": "diagnostics", "step": 1, **watching.diagnose().to_json()})))
    assert "No finite value to draw." in page.text


def test_a_line_that_is_no_diagnosis_and_a_folder_without_a_log_are_refused(log: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="diagnosis: it must be as to_json writes it"):
        write_report(log({"event": "diagnostics", "step": 1, "activations": 3}))
    with pytest.raises(CheckpointError, match="the log must be there, got no file"):
        write_report(log() / "nowhere")


def test_the_best_and_the_last_validation_loss_are_named(log: Callable[..., Path]) -> None:
    losses = [4.0, 2.5, math.nan, 2.75]
    evals = [{"event": "eval", "step": 10 * i, "loss": loss} for i, loss in enumerate(losses)]
    text = checked(write_report(log(*evals[:-1], {**evals[-1], "standard_error": 0.125}))).text
    assert "validation loss2.7500± 0.1250" in text
    assert "best validation loss2.5000at step 10" in text


def test_the_speed_is_of_the_steps_between_two_lines_and_skips_a_resume() -> None:
    metrics = [
        {"event": "step", "step": step, "tokens": tokens, "seconds": seconds}
        for step, tokens, seconds in [(1, 100, 1.0), (2, 300, 2.0), (3, 400, 0.5), (5, 800, 1.5)]
    ]
    (chart,) = training_charts(metrics)
    assert [(point.x, point.y) for point in chart.lines[0].points] == [(2, 200), (5, 400)]


def test_of_many_samples_some_are_shown_the_first_and_the_last_among_them(log: Callable[..., Path]) -> None:
    page = checked(write_report(log(*({"event": "sample", "step": i, "text": f"<{i}>"} for i in range(100)))))
    assert page.tags["pre"] == MOST_SAMPLES
    assert "<0>" in page.text
    assert "<99>" in page.text
    long = write_report(log({"event": "sample", "step": 1, "text": "x" * 10**6}))
    assert long.stat().st_size < 20_000


def test_a_huge_log_gives_a_small_page_in_a_short_time(log: Callable[..., Path]) -> None:
    run = log()
    step = '{"event": "step", "step": %d, "loss": %f, "lr": 0.1, "grad_norm": 1.0, "tokens": %d, "seconds": %f}\n'
    evaluation = '{"event": "eval", "step": %d, "loss": 2.0, "standard_error": 0.1}\n'
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(step % (i, math.sin(i), i, i / 2) for i in range(200_000))
        file.writelines(evaluation % i for i in range(0, 200_000, 100))
    began = time.process_time()
    path = write_report(run)
    assert time.process_time() - began < 15  # 2 s, where it was written
    assert path.stat().st_size < 200_000
    checked(path)


def test_the_charts_draw_some_of_many_layers_and_the_tables_all(log: Callable[..., Path]) -> None:
    text = write_report(log({"event": "diagnostics", "step": 1, **diagnosis().to_json()})).read_text(encoding="utf-8")
    saturated = text[text.index("Saturated activations") : text.index("</figure>", text.index("Saturated activations"))]
    assert re.findall(r"</i>(.*?)</span>", saturated) == [f"{i}.1" for i in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert all(f"<td>{i}.1</td>" in text for i in range(12))
    assert html.escape("4 × 4") in text
