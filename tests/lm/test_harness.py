import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bpetok
from bpetok.errors import MissingExtraError, UnavailableError
from lm.errors import ConfigError
from lm.hellaswag import ask, read
from lm.models.gpt2 import GPT2, GPT2Config

lm_eval = pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install "bpetok[eval]"')

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from lm.alphabet import Alphabet  # noqa: E402
from lm.harness import HarnessModel, run_tasks  # noqa: E402

WORDS = ["the", "cat", "sat", "on", "a", "roof", "dogs", "jumps", "over", "runs", "It", "they're", "going", "né"]


@pytest.fixture(scope="module")
def tokenizer() -> bpetok.Tokenizer:
    words = "The cat sat on a roof. It is going down, then jumps over the dogs and runs. They're not sure.\n"
    return bpetok.train(words * 50, vocab_size=320, pattern="gpt2", special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module")
def model(tokenizer: bpetok.Tokenizer) -> GPT2:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=48, layers=2, heads=2, width=32), tokenizer.n_vocab).eval()
    with torch.no_grad():  # at the start all ids are about as likely; so they are not
        model.head_PC.mul_(20)
    return model


@pytest.fixture(scope="module")
def harness(model: GPT2, tokenizer: bpetok.Tokenizer) -> HarnessModel:
    return HarnessModel(model, tokenizer, tokens=256)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def nats_of(model: GPT2, ids: list[int], first: int) -> float:
    """The loss of ids from `first` on, in one row, by hand."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(dim=1)
    return -sum(float(logits_TV[place - 1, ids[place]]) for place in range(first, len(ids)))


# ---- what the harness asks ---------------------------------------------------------------------------------------


def test_loglikelihoods_are_those_of_the_ids_computed_by_hand(
    model: GPT2, tokenizer: bpetok.Tokenizer, harness: HarnessModel
) -> None:
    encode = tokenizer.encode_ordinary
    pairs = [("The cat", " sat"), ("The cat ", "sat on"), ("", "The cat"), ("  ", "The")]
    found = harness.loglikelihood(requests("loglikelihood", pairs))
    whole = encode("The cat sat")
    expected = [
        nats_of(model, whole, len(encode("The cat"))),
        nats_of(model, encode("The cat sat on"), len(encode("The cat"))),
        nats_of(model, [tokenizer.eot_token, *encode("The cat")], 1),
        nats_of(model, [tokenizer.eot_token, *encode("  The")], 1),
    ]
    assert [-one for one, _ in found] == pytest.approx(expected, abs=1e-4)
    assert all(isinstance(nats, float) and isinstance(greedy, bool) for nats, greedy in found)


def test_a_continuation_is_greedy_where_it_is_what_generating_gives(harness: HarnessModel) -> None:
    (text,) = harness.generate_until(requests("generate_until", [("The cat", {"until": [], "max_gen_toks": 3})]))
    ((_, greedy),) = harness.loglikelihood(requests("loglikelihood", [("The cat", text)]))
    ((_, other),) = harness.loglikelihood(requests("loglikelihood", [("The cat", " sat on")]))
    assert greedy and not other


def test_a_continuation_that_became_one_token_with_the_context_is_still_predicted(
    model: GPT2, harness: HarnessModel, tokenizer: bpetok.Tokenizer
) -> None:
    encode = tokenizer.encode_ordinary
    assert len(encode("The cat")) <= len(encode("The ca")), "the test's premise"
    ((found, _),) = harness.loglikelihood(requests("loglikelihood", [("The ca", "t")]))
    assert -found == pytest.approx(nats_of(model, [*encode("The ca"), *encode("t")], len(encode("The ca"))), abs=1e-4)


def test_a_text_is_rolled_over_as_the_harness_itself_cuts_it(
    model: GPT2, tokenizer: bpetok.Tokenizer, harness: HarnessModel
) -> None:
    from lm_eval.utils import get_rolling_token_windows

    texts = [" ".join(WORDS[i % 13] for i in range(count)) for count in (1, 40, 100, 173)]
    found = harness.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in texts]))
    for text, answer in zip(texts, found, strict=True):
        ids = tokenizer.encode_ordinary(text)
        windows = get_rolling_token_windows(ids, tokenizer.eot_token, max_seq_len=48, context_len=1)
        parts = [([*inputs, targets[-1]], len(inputs) + 1 - len(targets)) for inputs, targets in windows]
        assert -answer == pytest.approx(sum(nats_of(model, row, first) for row, first in parts), rel=1e-5)
    assert harness.loglikelihood_rolling(requests("loglikelihood_rolling", [("",)])) == [0.0]


def test_generating_stops_before_the_first_of_the_stops(harness: HarnessModel) -> None:
    def generate(**settings: object) -> str:
        (text,) = harness.generate_until(requests("generate_until", [("The cat", {"max_gen_toks": 30, **settings})]))
        return text

    whole = generate(until=[])
    assert len(whole) > 12
    assert generate(until=whole[5:8]) == whole[: whole.index(whole[5:8])]
    stops = [whole[9:12], whole[4:7], "never that"]
    assert generate(until=stops) == whole[: min(whole.index(stop) for stop in stops[:2])]
    assert generate(until=[""]) == whole, "an empty stop is none"
    assert generate(until=[], do_sample=False, temperature=5.0) == whole, "greedy unless told"
    assert generate(until=[], do_sample=True, temperature=0) == whole
    drawn = generate(until=[], do_sample=True, temperature=5.0, top_k=50, top_p=0.9)
    assert drawn != whole and generate(until=[], do_sample=True, temperature=5.0, top_k=50, top_p=0.9) == drawn


def test_answers_go_into_the_harness_own_cache(harness: HarnessModel) -> None:
    kept = []

    class Hook:
        def add_partial(self, kind: str, arguments: object, answer: object) -> None:
            kept.append((kind, arguments, answer))

    before = harness.cache_hook
    harness.set_cache_hook(Hook())
    try:
        (answer,) = harness.loglikelihood(requests("loglikelihood", [("The", " cat")]))
        (rolled,) = harness.loglikelihood_rolling(requests("loglikelihood_rolling", [("The",)]))
        settings = {"until": [], "max_gen_toks": 1}
        (text,) = harness.generate_until(requests("generate_until", [("The", settings)]))
    finally:
        harness.set_cache_hook(before)
    assert kept == [
        ("loglikelihood", ("The", " cat"), answer),
        ("loglikelihood_rolling", ("The",), rolled),
        ("generate_until", ("The", settings), text),
    ]


def test_characters_are_a_vocabulary_too() -> None:
    alphabet = Alphabet(" abc")
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=8, layers=1, heads=1, width=8), 4).eval()
    harness = HarnessModel(model, alphabet)
    found = harness.loglikelihood(requests("loglikelihood", [("ab", " c"), ("", "b")]))
    assert -found[0][0] == pytest.approx(nats_of(model, [1, 2, 0, 3], 2), abs=1e-5)
    assert -found[1][0] == pytest.approx(nats_of(model, [0, 2], 1), abs=1e-5), "behind the id that fills windows up"
    assert harness.tokenizer_name == f"bpetok-{alphabet.fingerprint}"


# ---- its own evaluator -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(1)

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (), generator=generator))
        return " ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (length,), generator=generator)) + "."

    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    rows = []
    for _ in range(40):
        label = int(torch.randint(4, (), generator=generator))
        rows.append({"ctx": text(3, 9), "endings": [text(1, 6) for _ in range(4)], "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task(items: Path, cache: Path, **settings: object) -> dict[str, Any]:
    return {
        "task": settings.pop("name"),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(items)}, "cache_dir": str(cache)},
        "validation_split": "validation",
        "doc_to_text": "{{ctx}}",
        **settings,
    }


def evaluate(harness: HarnessModel, config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model=harness, tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False), **settings
    )
    results: dict[str, Any] = found["results"][config["task"]]
    return results


def test_the_harness_gives_hellaswag_the_accuracies_that_we_give_it(
    harness: HarnessModel, items: Path, tmp_path: Path
) -> None:
    metrics = [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")]
    config = task(
        items,
        tmp_path,
        name="completion",
        output_type="multiple_choice",
        doc_to_target="label",
        doc_to_choice="endings",
        metric_list=metrics,
    )
    theirs = evaluate(harness, config)
    ours = ask(harness._model, harness._vocabulary, read(items).items, tokens=256)
    assert theirs["acc,none"] == ours.acc
    assert theirs["acc_bytes,none"] == ours.acc_norm_bytes
    assert len({ours.acc, ours.acc_norm, ours.acc_norm_bytes, theirs["acc_norm,none"]}) >= 3, (
        "they tell each other apart"
    )


def test_the_harness_gives_texts_the_perplexity_computed_by_hand(
    model: GPT2, tokenizer: bpetok.Tokenizer, harness: HarnessModel, items: Path, tmp_path: Path
) -> None:
    config = task(
        items,
        tmp_path,
        name="rolling",
        output_type="loglikelihood_rolling",
        doc_to_target="{{ctx}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    config["doc_to_text"] = ""
    texts = [json.loads(line)["ctx"] for line in items.read_text().splitlines()]
    nats = sum(nats_of(model, [tokenizer.eot_token, *tokenizer.encode_ordinary(text)], 1) for text in texts)
    count = sum(len(text.encode()) for text in texts)
    found = evaluate(harness, config)["bits_per_byte,none"]
    assert found == pytest.approx(nats / count / torch.log(torch.tensor(2.0)).item(), rel=1e-5)


def test_the_harness_matches_what_is_generated(harness: HarnessModel, items: Path, tmp_path: Path) -> None:
    settings = {"until": ["."], "max_gen_toks": 6}
    config = task(
        items,
        tmp_path,
        name="generated",
        output_type="generate_until",
        doc_to_target="{{ctx}}",
        generation_kwargs=settings,
        metric_list=[{"metric": "bypass"}],
    )
    found = lm_eval.simple_evaluate(
        model=harness,
        tasks=[config],
        limit=3,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
    )
    told = [sample["resps"][0][0] for sample in found["samples"]["generated"]]
    contexts = [json.loads(line)["ctx"] for line in items.read_text().splitlines()[:3]]
    assert told == harness.generate_until(requests("generate_until", [(one, settings) for one in contexts]))


# ---- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(model: GPT2, tokenizer: bpetok.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lm.config import BatchConfig, Config, OptimizerConfig, RunConfig, ScheduleConfig, TextConfig
    from lm.train import train

    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("The cat sat on a roof.\n" * 100)
    tokenizer.save(folder / "my.bpetok")
    config = Config(
        data=TextConfig(text=folder / "text.txt", tokenizer=folder / "my.bpetok"),
        rung="gpt2",
        model=GPT2Config(context=16, layers=1, heads=1, width=8),
        batch=BatchConfig(rows=4),
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_steps=0, min_lr=1e-3),
        run=RunConfig(steps=1, eval_every=1, eval_batches=1, checkpoint_every=1, device="cpu"),
    )
    train(config, folder / "run")
    return folder / "run"


def test_the_harness_makes_the_model_of_a_run_from_its_arguments(run: Path) -> None:
    kind = get_model("bpetok-lm")
    assert kind is HarnessModel
    by_string = kind.create_from_arg_string(f"run={run},dtype=float32", {"batch_size": 2, "device": "cpu"})
    by_dict = kind.create_from_arg_obj({"run": str(run)}, {"batch_size": None, "max_batch_size": 1, "device": "cpu"})
    auto = kind.create_from_arg_obj({"run": str(run), "batch_size": "auto:4", "device": "cpu"})
    asked = requests("loglikelihood", [("The cat", " sat on")])
    assert by_string.loglikelihood(asked) == by_dict.loglikelihood(asked) == auto.loglikelihood(asked)
    info = by_string.get_model_info()
    assert info["run"] == str(run) and info["rung"] == "gpt2" and len(info["vocabulary"]) == 64


def test_arguments_that_are_missing_or_unknown_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="model_args: run must be the folder of a run, got None"):
        HarnessModel.create_from_arg_string("device=cpu")
    with pytest.raises(ConfigError, match="model_args: pretrained must be one of run, device, dtype, batch_size"):
        HarnessModel.create_from_arg_string(f"run={run},pretrained=gpt2")


def test_tasks_that_are_unknown_or_whose_data_are_out_of_reach_are_told(
    harness: HarnessModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Manager:
        all_tasks = ("hellaswag",)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Manager)
    with pytest.raises(
        ConfigError, match=r"tasks must be names of the harness's tasks, got 'hellaswagg'\nhint: lm-eval"
    ):
        run_tasks(harness, ["hellaswagg"])

    def out_of_reach(**settings: object) -> None:
        raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub")

    monkeypatch.setattr("lm_eval.simple_evaluate", out_of_reach, raising=False)
    message = (
        r"hellaswag: the data must be on this machine or be fetched, got Couldn't reach 'Rowan/hellaswag' on the Hub"
    )
    with pytest.raises(UnavailableError, match=message):
        run_tasks(harness, ["hellaswag"])


def test_without_the_harness_the_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "lm.harness")
    with pytest.raises(MissingExtraError, match=r'bpetok\[eval\]: an optional .*\nhint: pip install "bpetok\[eval\]"'):
        importlib.import_module("lm.harness")


# ---- against the harness's own model for Hugging Face's weights --------------------------------------------------


@pytest.mark.slow
def test_the_harness_own_gpt2_gives_the_same_weights_the_same_answers(
    model: GPT2, tokenizer: bpetok.Tokenizer, harness: HarnessModel, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="the harness's model for Hugging Face needs it: pip install accelerate")
    from lm_eval.models.huggingface import HFLM

    from lm.huggingface import save_pretrained

    save_pretrained(model, tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs_tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    theirs = HFLM(
        pretrained=transformers.GPT2LMHeadModel.from_pretrained(tmp_path),
        tokenizer=theirs_tokenizer,
        device="cpu",
        batch_size=4,
    )
    pairs = [("The cat", " sat"), ("The cat ", "sat on"), ("", "The cat"), ("The cat sat. " * 20, "It is going")]
    asked = requests("loglikelihood", pairs)
    ours, expected = harness.loglikelihood(asked), theirs.loglikelihood(asked)
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    texts = requests("loglikelihood_rolling", [("The cat sat on a roof. " * 30,)])
    assert harness.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-5)
    settings = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    generated = requests("generate_until", [("The cat", settings)])
    assert harness.generate_until(generated) == theirs.generate_until(generated)
