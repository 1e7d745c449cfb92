import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    TextConfig,
    config_from_toml,
    dump_config,
    load_config,
    settings,
    shipped_configs,
)
from lm.errors import ConfigError
from lm.models import LADDER
from lm.models.bigram import BigramConfig
from lm.models.gpt2 import GPT2Config
from lm.texts import KNOWN

RUNGS = ", ".join(LADDER)

GOOD = """
[data]
shards = "shards"
tokenizer = "deep/tokenizer.bpetok"
[model]
rung = "gpt2"
context = 8
layers = 2
heads = 2
width = 16
[batch]
rows = 4
[optimizer]
lr = 1
betas = [0.9, 0.99]
[schedule]
warmup_steps = 2
min_lr = 1e-3
[run]
steps = 10
eval_every = 5
eval_batches = 2
checkpoint_every = 5
"""


@pytest.mark.parametrize("path", shipped_configs().values(), ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path: Path) -> None:
    config = load_config(path)
    assert config_from_toml(dump_config(config)) == config


def test_a_published_size_stands_for_its_shape_and_what_stands_beside_it_goes_first() -> None:
    sized = GOOD.replace("layers = 2\nheads = 2\nwidth = 16\n", 'size = "gpt2-355m"\n')
    model = config_from_toml(sized).model
    assert isinstance(model, GPT2Config)
    assert (model.context, model.layers, model.heads, model.width) == (8, 24, 16, 1024)
    message = r"model.size must be one of gpt2-124m, .*, got 'gpt2-345m'\nhint: did you mean gpt2-355m"
    with pytest.raises(ConfigError, match=message):
        config_from_toml(sized.replace("355m", "345m"))


def test_the_shipped_gpt2_is_build_nanogpts_recipe() -> None:
    config = load_config(shipped_configs()["09-gpt2-124m"])
    assert config.batch.rows * config.batch.accumulation * config.model.context == 524_288
    assert (config.run.steps, config.schedule.warmup_steps, config.optimizer.betas) == (19_073, 715, (0.9, 0.95))


def test_relative_paths_start_at_the_files_folder_and_those_of_overrides_at_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.toml").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load_config("runs/a.toml", ["data.shards=other"])
    assert config.data.tokenizer == tmp_path.resolve() / "runs" / "deep" / "tokenizer.bpetok"
    assert config.data.shards == tmp_path.resolve() / "other"


def test_overrides_go_before_the_file_and_are_read_as_toml() -> None:
    overrides = [
        "model.width=32",
        "optimizer.betas=[0.5, 0.6]",
        "run.device=cpu",
        'run.dtype="float32"',
        "run.compile = true",
    ]
    config = config_from_toml(GOOD, overrides=overrides)
    assert config.model == GPT2Config(context=8, layers=2, heads=2, width=32)
    assert config.optimizer.betas == (0.5, 0.6)
    assert (config.run.device, config.run.dtype, config.run.compile) == ("cpu", "float32", True)


def test_integers_are_fine_where_a_number_is_wanted() -> None:
    lr = config_from_toml(GOOD).optimizer.lr
    assert lr == 1.0 and isinstance(lr, float)


def test_the_rate_comes_down_at_the_runs_last_step_unless_told_otherwise() -> None:
    assert config_from_toml(GOOD).decay_steps == 10
    assert config_from_toml(GOOD, overrides=["schedule.decay_steps=7"]).decay_steps == 7


def edited(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD = {
    "no TOML": ("[data", r"config must be TOML, got "),
    "unknown table": (
        GOOD + "[modle]\n",
        r"modle must be a known table, got 'modle'\nhint: did you mean model\?",
    ),
    "missing table": (
        edited("[batch]\nrows = 4\n", ""),
        r"\[batch\] must be given, got nothing\nhint: the tables are data",
    ),
    "table that is a value": (
        "batch = 3\n" + edited("[batch]\nrows = 4\n", ""),
        r"batch must be a table, got 3",
    ),
    "unknown key": (
        edited("width", "widht"),
        r"model.widht must be a known key, got 'widht'\nhint: did you mean model.width\?",
    ),
    "key like no other": (
        edited("width", "q"),
        r"model.q must be a known key, got 'q'\nhint: the keys are context, layers",
    ),
    "missing key": (
        edited("rows = 4", ""),
        r"batch.rows must be given, got nothing\nhint: add `rows = ...` under \[batch\]",
    ),
    "no rung": (
        edited('rung = "gpt2"', ""),
        rf"model.rung must be given, got nothing\nhint: the rungs are {RUNGS}",
    ),
    "unknown rung": (
        edited("gpt2", "gtp2"),
        rf"model.rung must be one of {RUNGS}, got 'gtp2'\nhint: did you mean gpt2\?",
    ),
    "rung of another type": (edited('"gpt2"', "2"), rf"model.rung must be one of {RUNGS}, got 2"),
    "text for a number": (edited("lr = 1\n", 'lr = "1"\n'), r"optimizer.lr must be a number, got '1'"),
    "boolean for a number": (edited("lr = 1\n", "lr = true\n"), r"optimizer.lr must be a number, got True"),
    "float for an integer": (edited("rows = 4", "rows = 4.0"), r"batch.rows must be an integer, got 4.0"),
    "number for a boolean": (GOOD + "compile = 1", r"run.compile must be true or false, got 1"),
    "number for a path": (edited('"shards"', "3"), r"data.shards must be a path, got 3"),
    "short list": (edited("0.9, 0.99", "0.9"), r"optimizer.betas must be a list of 2, got \[0.9\]"),
    "list of texts": (edited("0.9, 0.99", '"a", 1'), r"optimizer.betas must be a number, got 'a'"),
    "unknown device": (GOOD + 'device = "gpu"', r"run.device must be one of auto, cpu, cuda, mps, got 'gpu'"),
    "text for an optional integer": (
        edited("min_lr", 'decay_steps = "a"\nmin_lr'),
        r"decay_steps must be an integer, got 'a'",
    ),
    "too small": (edited("rows = 4", "rows = 0"), r"batch.rows must be at least 1, got 0"),
    "negative": (edited("min_lr = 1e-3", "min_lr = -1.0"), r"schedule.min_lr must be at least 0, got -1.0"),
    "no rate": (edited("lr = 1\n", "lr = 0\n"), r"optimizer.lr must be above 0 and finite, got 0.0"),
    "not a number": (edited("lr = 1\n", "lr = nan\n"), r"optimizer.lr must be above 0 and finite, got nan"),
    "an infinite rate": (edited("lr = 1\n", "lr = inf\n"), r"optimizer.lr must be above 0 and finite, got inf"),
    "no eps": (edited("lr = 1\n", "lr = 1\neps = 0\n"), r"optimizer.eps must be above 0, got 0.0"),
    "beta of one": (edited("0.9, 0.99", "0.9, 1"), r"optimizer.betas must be in \[0, 1\), got \(0.9, 1.0\)"),
    "rates crossed": (
        edited("min_lr = 1e-3", "min_lr = 2"),
        r"schedule.min_lr must be at most optimizer.lr = 1.0, got 2.0",
    ),
    "warmup too long": (
        edited("warmup_steps = 2", "warmup_steps = 11"),
        r"warmup_steps must be at most run.steps = 10, got 11",
    ),
    "warmup past the decay": (
        edited("min_lr", "decay_steps = 1\nmin_lr"),
        r"schedule.warmup_steps must be at most schedule.decay_steps = 1, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_config_is_refused_by_file_and_key(kind: str, tmp_path: Path) -> None:
    text, message = BAD[kind]
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad.toml: .*" + message):
        load_config(path)


@pytest.mark.parametrize("override", ["width=3", "model.width", "=3", ".a=3"])
def test_an_override_without_table_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"override must be table.key=value, got .*\nhint: for example --set"):
        config_from_toml(GOOD, overrides=[override])


def test_an_override_of_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch must be a table, got 3"):
        config_from_toml("batch = 3", overrides=["batch.rows=3"])


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: config must be a readable file, got No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match=r"latin.toml: config must be UTF-8, got "):
        load_config(tmp_path / "latin.toml")


def test_a_model_config_of_another_rung_is_refused(small_run: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model must be a GPT2Config for rung 'gpt2', got BigramConfig"):
        dataclasses.replace(small_run("gpt2"), model=BigramConfig(context=8))


@given(
    path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    lr=st.floats(min_value=1e-300, max_value=1e300),
)
def test_whatever_is_written_is_read_back(path: str, lr: float) -> None:
    config = config_from_toml(GOOD)
    data = dataclasses.replace(config.data, shards=Path("/folder") / path.lstrip("/"))
    optimizer = OptimizerConfig(lr=lr, eps=lr)
    schedule = dataclasses.replace(config.schedule, min_lr=0.0)
    config = dataclasses.replace(config, data=data, optimizer=optimizer, schedule=schedule)
    assert config_from_toml(dump_config(config)) == config


def test_settings_name_every_key_with_its_table(small_run: Callable[..., Config]) -> None:
    flat = settings(small_run("gpt2", steps=4))
    assert flat["model.rung"] == "gpt2" and flat["model.width"] == 16 and flat["run.steps"] == 4
    assert all(len(name.split(".")) == 2 for name in flat)


# ---- text in the place of shards -------------------------------------------------------------------------------------

TEXT = GOOD.replace('shards = "shards"\ntokenizer = "deep/tokenizer.bpetok"', 'text = "deep/my.txt"')


def edited_text(new: str) -> str:
    return TEXT.replace('text = "deep/my.txt"', new)


def test_a_text_needs_no_other_key() -> None:
    config = config_from_toml(TEXT, folder=Path("/runs"))
    assert config.data == TextConfig(text=Path("/runs/deep/my.txt"))
    assert (config.data.alphabet, config.data.documents, config.data.rows) == ("characters", "whole", "blocks")
    assert (config.data.tokenizer, config.data.held_out) == (None, 0.1)


def test_every_key_of_a_text_can_be_set() -> None:
    keys = 'text = "a.txt"\ntokenizer = "t"\ndocuments = "lines"\nrows = "windows"\nheld_out = 0.2'
    data = config_from_toml(edited_text(keys), folder=Path("/runs")).data
    expected = {"documents": "lines", "rows": "windows", "held_out": 0.2, "tokenizer": Path("/runs/t")}
    assert data == TextConfig(text=Path("/runs/a.txt"), **expected)
    assert config_from_toml(edited_text('text = "a.txt"\nalphabet = "bytes"')).data.alphabet == "bytes"


@pytest.mark.parametrize("name", KNOWN)
def test_the_name_of_a_known_text_is_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(edited_text(f'text = "{name}"'), encoding="utf-8")
    for config in (
        load_config("run.toml"),
        load_config(tmp_path / "run.toml"),
        config_from_toml(GOOD, overrides=[f"data.text={name}"]),
    ):
        assert config.data.text == Path(name)
        assert f'text = "{name}"' in dump_config(config, tmp_path) and config_from_toml(dump_config(config)) == config
    other = tmp_path / name
    assert config_from_toml(GOOD, overrides=[f"data.text={other}"]).data.text == other, "but a path with a folder is"


def test_relative_texts_start_at_the_files_folder_and_those_of_overrides_at_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.toml").write_text(edited_text('text = "my.txt"\ntokenizer = "t"'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    data = load_config("runs/a.toml").data
    assert (data.text, data.tokenizer) == (here / "runs" / "my.txt", here / "runs" / "t")
    assert load_config("runs/a.toml", ["data.text=other.txt"]).data.text == here / "other.txt"
    assert load_config("runs/a.toml", ["data.tokenizer=other"]).data.tokenizer == here / "other"


def test_an_override_puts_a_text_in_the_place_of_shards_with_all_that_belongs_to_them() -> None:
    config = config_from_toml(GOOD, overrides=["data.text=/my.txt"])
    assert config.data == TextConfig(text=Path("/my.txt"))
    assert dataclasses.replace(config, data=config_from_toml(GOOD).data) == config_from_toml(GOOD)
    more = ["data.text=/my.txt", "data.documents=lines", "data.rows=lines", "data.tokenizer=/t"]
    expected = TextConfig(text=Path("/my.txt"), documents="lines", rows="lines", tokenizer=Path("/t"))
    assert config_from_toml(GOOD, overrides=more).data == expected


def test_the_order_of_overrides_does_not_matter_and_a_text_keeps_its_tokenizer() -> None:
    for more in (["data.tokenizer=/t", "data.text=/a"], ["data.text=/a", "data.tokenizer=/t"]):
        assert config_from_toml(GOOD, overrides=more).data == TextConfig(text=Path("/a"), tokenizer=Path("/t"))
    text = edited_text('text = "a.txt"\ntokenizer = "/t"')
    assert config_from_toml(text, overrides=["data.text=/b"]).data.tokenizer == Path("/t")
    assert config_from_toml(text, overrides=["data.alphabet=bytes"]).data.tokenizer is None


def test_a_text_beside_the_config_is_not_taken_for_a_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(edited_text('text = "./names.txt"'), encoding="utf-8")
    for path in ("a.toml", tmp_path / "a.toml"):
        assert load_config(path).data.text == tmp_path.resolve() / "names.txt"
    assert load_config("a.toml", ["data.text=names.txt"]).data.text == Path("names.txt")
    assert load_config("a.toml", ["data.text=./names.txt"]).data.text == tmp_path.resolve() / "names.txt"


def test_a_tokenizer_beside_an_alphabet_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.alphabet must be left out where there is data.tokenizer, got 'bytes'"):
        config_from_toml(edited_text('text = "a"\ntokenizer = "t"\nalphabet = "bytes"'))


def test_an_override_puts_shards_in_the_place_of_a_text_with_all_that_belongs_to_it() -> None:
    text = edited_text('text = "a.txt"\nalphabet = "bytes"\ndocuments = "lines"\nrows = "lines"\nheld_out = 0.2')
    config = config_from_toml(text, overrides=["data.shards=/s", "data.tokenizer=/t"])
    assert config.data == DataConfig(shards=Path("/s"), tokenizer=Path("/t"))
    with pytest.raises(ConfigError, match=r"data.tokenizer must be given, got nothing\nhint: add `tokenizer = ...`"):
        config_from_toml(text, overrides=["data.shards=/s"])


def test_an_override_puts_a_tokenizer_in_the_place_of_the_alphabet() -> None:
    text = edited_text('text = "a.txt"\nalphabet = "bytes"')
    data = config_from_toml(text, overrides=["data.tokenizer=/t"]).data
    assert (data.tokenizer, data.alphabet) == (Path("/t"), "characters")


BAD_TEXTS = {
    "text and shards": ('text = "a"\nshards = "b"', r"data.shards must be a known key, got 'shards'"),
    "neither": ("", r"data.shards must be given, got nothing"),
    "number": ("text = 3", r"data.text must be a path, got 3"),
    "tokenizer that is a number": ('text = "a"\ntokenizer = 3', r"data.tokenizer must be a path, got 3"),
    "alphabet": ('text = "a"\nalphabet = "words"', r"data.alphabet must be one of characters, bytes, got 'words'"),
    "documents": ('text = "a"\ndocuments = "line"', r"data.documents must be one of whole, lines, got 'line'"),
    "rows": ('text = "a"\nrows = "window"', r"data.rows must be one of blocks, windows, lines, got 'window'"),
    "lines of a whole": (
        'text = "a"\nrows = "lines"',
        r"data.rows must be blocks or windows, unless data.documents is lines, got 'lines'",
    ),
    "nothing held out": ('text = "a"\nheld_out = 0', r"data.held_out must be above 0 and below 0.5, got 0.0"),
    "half held out": ('text = "a"\nheld_out = 0.5', r"data.held_out must be above 0 and below 0.5, got 0.5"),
    "nan held out": ('text = "a"\nheld_out = nan', r"data.held_out must be above 0 and below 0.5, got nan"),
    "unknown key": (
        'text = "a"\ndocument = "lines"',
        r"data.document must be a known key, got 'document'\nhint: did you mean data.documents\?",
    ),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_bad_text_is_refused_by_its_key(kind: str) -> None:
    keys, message = BAD_TEXTS[kind]
    with pytest.raises(ConfigError, match=message):
        config_from_toml(edited_text(keys))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 1\n", 'lr = 1\nkind = "adam"\n', r"optimizer.kind must be one of adamw, muon, sgd, got 'adam'"),
        ("min_lr", 'kind = "linear"\nmin_lr', r"schedule.kind must be one of cosine, wsd, drop, got 'linear'"),
        ("rows = 4", 'rows = 4\norder = "random"', r"batch.order must be one of epochs, draws, got 'random'"),
        ("steps = 10", "steps = 10\ndiagnose_every = -1", r"run.diagnose_every must be at least 0, got -1"),
        ("steps = 10", "steps = 10\nsample_every = -1", r"run.sample_every must be at least 0, got -1"),
    ],
)
def test_the_other_new_keys_are_checked(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_toml(edited(old, new))


def test_a_config_lies_in_any_folder_and_means_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    data = TextConfig(text=folder / "deep" / "a.txt", tokenizer=folder / "t", documents="lines", held_out=0.25)
    config = dataclasses.replace(config_from_toml(GOOD), data=data)
    written = dump_config(config, folder)
    assert 'text = "deep/a.txt"' in written and 'tokenizer = "t"' in written
    assert config_from_toml(written, folder=folder) == config
    moved = config_from_toml(written, folder=tmp_path / "moved").data
    assert (moved.text, moved.tokenizer) == (tmp_path / "moved" / "deep" / "a.txt", tmp_path / "moved" / "t")
    assert str(folder) in dump_config(config) and config_from_toml(dump_config(config)) == config


@pytest.mark.parametrize("path", shipped_configs().values(), ids=lambda path: path.stem)
def test_every_shipped_config_on_another_text_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"data.text={tmp_path / 'a.txt'}", "run.device=cpu"])
    assert config.data.text == tmp_path / "a.txt" and config.run.device == "cpu"
    assert config_from_toml(dump_config(config, tmp_path), folder=tmp_path) == config


def test_the_shipped_runs_of_the_lectures_are_at_the_lectures_settings() -> None:
    for name, seed, drop in (("03-mlp", 2147483647, 100_000), ("06-wavenet", 42, 150_000)):
        config = load_config(shipped_configs()[name])
        assert (config.run.steps, config.run.seed, config.decay_steps) == (200_000, seed, drop)
        assert (config.batch.rows, config.batch.accumulation, config.batch.order) == (32, 1, "draws")
        optimizer = config.optimizer
        assert (optimizer.kind, optimizer.lr, config.schedule.min_lr, optimizer.grad_clip) == ("sgd", 0.1, 0.01, 0.0)
        assert config.data == TextConfig(text=Path("names.txt"), documents="lines", rows="windows")


def test_settings_of_a_text_name_every_key_of_it() -> None:
    flat = settings(config_from_toml(TEXT))
    keys = {name for name in flat if name.startswith("data.")}
    assert keys == {f"data.{field.name}" for field in dataclasses.fields(TextConfig)}
