import ast
import json
import lzma
import math
import os
import re
import socket
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pooch
import pytest
import torch

import bpetok
from bpetok.errors import CorruptionError, DataError, UnavailableError
from lm.alphabet import Alphabet
from lm.config import Config
from lm.errors import ConfigError, NonFiniteError
from lm.hellaswag import ITEMS, URL, HellaSwag, Item, ask, find, read, stretches_of
from lm.models import LADDER
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config

ORIGINAL = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A cat is on a roof.",
    "ctx_b": "it",
    "ctx": "A cat is on a roof. it",
    "split": "val",
    "split_type": "indomain",
    "label": 3,
    "endings": ["barks.", "is a dog.", "reads.", "jumps down."],
    "source_id": "activitynet~v",
}
ALPHABET = Alphabet(" abcdx")


def skewed(chances: dict[str, float]) -> Bigram:
    """A bigram over `ALPHABET` that gives the same chances after every character."""
    model = Bigram(BigramConfig(context=64), ALPHABET.n_vocab)
    with torch.no_grad():
        logits_V = torch.tensor([chances[character] for character in ALPHABET.characters or ""]).log()
        model.table.weight.copy_(logits_V.expand(ALPHABET.n_vocab, ALPHABET.n_vocab))
    return model


def choose(model: Bigram | GPT2, vocabulary: object, items: Sequence[Item], tokens: int = 256) -> HellaSwag:
    return ask(model, vocabulary, items, tokens=tokens)


# ---- scoring -----------------------------------------------------------------------------------------------------


def test_the_three_accuracies_are_those_computed_by_hand() -> None:
    model = skewed({" ": 1 / 4, "a": 1 / 4, "b": 1 / 8, "c": 1 / 16, "d": 1 / 16, "x": 1 / 4})
    # In bits, with the blank before it: "c" is 2 + 4 of 2 tokens, "bb" 2 + 6 of 3, "aaaa" 2 + 8 of 5, "d" as "c".
    # Least in all: "c" (6, the first of equals). Per token: "aaaa" (2). Per byte of the ending, the blank's bits
    # being in but not its byte: "c" 6, "bb" 4, "aaaa" 2.5.
    endings = ("c", "bb", "aaaa", "d")
    found = [choose(model, ALPHABET, [Item("x", endings, label)]) for label in range(4)]
    assert [one.acc for one in found] == [1, 0, 0, 0]
    assert [one.acc_norm for one in found] == [0, 0, 1, 0]
    assert [one.acc_norm_bytes for one in found] == [0, 0, 1, 0]


def test_tokens_and_bytes_may_choose_otherwise() -> None:
    model = skewed({" ": 1 / 2, "a": 1 / 4, "b": 1 / 16, "c": 1 / 16, "d": 1 / 16, "x": 1 / 16})
    # "a": 1 + 2 bits, 1.5 a token, 3 a byte. "aaa": 1 + 6, 1.75 a token, 2.33 a byte.
    items = [Item("x", ("a", "aaa", "bb", "bb"), label) for label in (0, 1)]
    first, second = (choose(model, ALPHABET, [item]) for item in items)
    assert (first.acc, first.acc_norm, first.acc_norm_bytes) == (1, 1, 0)
    assert (second.acc, second.acc_norm, second.acc_norm_bytes) == (0, 0, 1)


def test_the_context_does_not_count_and_bytes_are_not_characters() -> None:
    alphabet = Alphabet(" aé")
    model = Bigram(BigramConfig(context=64), 3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([0.25, 0.5, 0.25]).log().expand(3, 3))
    # "éé": 2 + 4 bits of 4 bytes; "aaa": 2 + 3 of 3 bytes. Per byte 1.5 and 1.67, per character 3 and 1.67.
    for context in ("a", "é" * 40):
        found = choose(model, alphabet, [Item(context, ("éé", "aaa", "é", "é"), 0)])
        assert found.acc_norm_bytes == 1 and found.acc_norm == 0


def test_standard_errors_are_those_of_a_mean() -> None:
    model = skewed({" ": 1 / 4, "a": 1 / 4, "b": 1 / 8, "c": 1 / 16, "d": 1 / 16, "x": 1 / 4})
    items = [Item("x", ("a", "b", "c", "d"), label) for label in (0, 0, 0, 1)]
    found = choose(model, ALPHABET, items)
    assert (found.items, found.acc) == (4, 0.75)
    assert found.acc_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3)), "as the harness, n - 1"
    assert choose(model, ALPHABET, items[:1]).acc_error is None


@pytest.mark.parametrize("rung", LADDER)
def test_every_rung_answers(small_run: Callable[..., Config], rung: str) -> None:
    torch.manual_seed(0)
    model = LADDER[rung].build(small_run(rung).model, ALPHABET.n_vocab)
    items = [Item("ab" * n, ("cd", "c", "dd d", "x"), n % 4) for n in range(1, 6)]
    found = choose(model, ALPHABET, items)
    assert found.items == 5 and found.acc in {n / 5 for n in range(6)}
    assert found.cut == 3, "of 6, 8 and 10 ids and the longest ending the context of 8 has no room for all"


def test_how_much_goes_at_once_changes_no_answer() -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=16, layers=1, heads=2, width=16), ALPHABET.n_vocab)
    items = [Item("abcd" * n, ("cd" * n, "c", "dd d", "xa"), n % 4) for n in range(1, 20)]
    assert choose(model, ALPHABET, items, tokens=1) == choose(model, ALPHABET, items, tokens=10**6)


def test_a_model_that_knows_nothing_is_right_by_chance() -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=32, layers=1, heads=2, width=16), ALPHABET.n_vocab)
    generator = torch.Generator().manual_seed(0)

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (), generator=generator))
        return "".join("abcdx"[int(i)] for i in torch.randint(5, (length,), generator=generator))

    items = [
        Item(
            text(5, 20),
            (text(2, 9), text(2, 9), text(2, 9), text(2, 9)),
            int(torch.randint(4, (), generator=generator)),
        )
        for _ in range(1000)
    ]
    found = choose(model, ALPHABET, items, tokens=8192)
    for share, error in ((found.acc, found.acc_error), (found.acc_norm, found.acc_norm_error)):
        assert error is not None and abs(share - 0.25) < 3 * error


def test_a_model_that_has_diverged_gives_no_answers() -> None:
    model = skewed(dict.fromkeys(" abcdx", math.nan))
    with pytest.raises(NonFiniteError, match="score: losses must be finite"):
        choose(model, ALPHABET, [Item("a", ("a", "b", "c", "d"), 0)])


def test_no_items_are_refused() -> None:
    with pytest.raises(DataError, match="hellaswag: items must be 1 or more, got none"):
        choose(skewed(dict.fromkeys(" abcdx", 1 / 6)), ALPHABET, [])


# ---- against build-nanogpt ---------------------------------------------------------------------------------------


def build_nanogpt() -> types.SimpleNamespace:
    """Its functions of hellaswag.py, unchanged, over another tokenizer and model than it would download."""
    path = Path(os.environ.get("BPETOK_PEERS") or "peers") / "build-nanogpt" / "hellaswag.py"
    if not path.is_file():
        get = "git clone https://github.com/karpathy/build-nanogpt"
        pytest.skip(f"needs build-nanogpt in the folder that BPETOK_PEERS names: {get}")
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    names = types.SimpleNamespace(torch=torch, F=torch.nn.functional)
    exec(compile(ast.Module(functions, type_ignores=[]), str(path), "exec"), vars(names))
    return names


@pytest.fixture(scope="module")
def tokenizer() -> bpetok.Tokenizer:
    words = "The cat sat on a roof. It is going down, then jumps over the dogs and runs. They're not sure.\n"
    return bpetok.train(words * 50, vocab_size=320, pattern="gpt2", special_tokens=["<|endoftext|>"])


def drawn_items(count: int) -> list[dict[str, Any]]:
    words = ["the", "cat", "sat", "on", "a", "roof", "dogs", "jumps", "over", "runs", "It", "they're", "going"]
    generator = torch.Generator().manual_seed(1)

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (), generator=generator))
        return " ".join(words[int(i)] for i in torch.randint(len(words), (length,), generator=generator)) + "."

    return [
        {
            "ctx": text(3, 9),
            "endings": [text(1, 9) for _ in range(4)],
            "label": int(torch.randint(4, (), generator=generator)),
        }
        for _ in range(count)
    ]


def test_ids_and_answers_are_those_of_build_nanogpt(
    tokenizer: bpetok.Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = build_nanogpt()
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=128, layers=2, heads=2, width=32), tokenizer.n_vocab).eval()
    with torch.no_grad():  # at the start all ids are about as likely; so they are not
        model.head_PC.mul_(20)
    rows = drawn_items(60)
    peer.enc = tokenizer
    items = [Item(row["ctx"], tuple(row["endings"]), row["label"]) for row in rows]
    sums_right = 0
    for row, item in zip(rows, items, strict=True):
        _, tokens_ET, mask_ET, _ = peer.render_example(row)
        for ids_T, mask_T, stretch in zip(tokens_ET, mask_ET, stretches_of(item, tokenizer), strict=True):
            assert ids_T[: len(stretch.ids)].tolist() == list(stretch.ids)
            assert mask_T.nonzero().flatten().tolist() == list(range(stretch.first, len(stretch.ids)))
        with torch.no_grad():  # the sum is told by nothing of the peer's but its mask
            losses_ET = torch.nn.functional.cross_entropy(
                model(tokens_ET[:, :-1]).transpose(1, 2), tokens_ET[:, 1:], reduction="none"
            )
        sums_right += int((losses_ET * mask_ET[:, 1:]).sum(dim=1).argmin()) == row["label"]
    found = choose(model, tokenizer, items)
    assert found.acc == sums_right / 60

    peer.iterate_examples = lambda split: rows
    wrapped = torch.nn.Module()
    wrapped.forward = lambda ids_BT: types.SimpleNamespace(logits=model(ids_BT))
    peer.GPT2LMHeadModel = types.SimpleNamespace(from_pretrained=lambda name: wrapped)
    precision = torch.get_float32_matmul_precision()
    try:
        peer.evaluate("gpt2", "cpu")
    finally:
        torch.set_float32_matmul_precision(precision)
    printed = re.findall(r"^(\d+) acc_norm: (\d+)/(\d+)=", capsys.readouterr().out, flags=re.MULTILINE)
    assert printed[-1][0] == "60" and found.acc_norm == int(printed[-1][1]) / 60
    for number in (1, 20, 40):
        assert choose(model, tokenizer, items[:number]).acc_norm == pytest.approx(int(printed[number - 1][1]) / number)


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.xz"])
def test_rows_of_the_original_and_of_its_cleaned_form_are_read_packed_or_not(tmp_path: Path, name: str) -> None:
    cleaned = {"row": 1, "activity_label": "x", "ctx": "A dog", "label": 0, "endings": ["a", "b", "c", "é"]}
    hub = {**ORIGINAL, "label": "2"}
    content = "".join(json.dumps(row) + "\n" for row in (ORIGINAL, cleaned, hub)).encode()
    (tmp_path / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    (tmp_path / "plain").write_bytes(content)
    found = read(tmp_path / name)
    assert found.items == (
        Item("A cat is on a roof. it", ("barks.", "is a dog.", "reads.", "jumps down."), 3),
        Item("A dog", ("a", "b", "c", "é"), 0),
        Item("A cat is on a roof. it", ("barks.", "is a dog.", "reads.", "jumps down."), 2),
    )
    assert found.total == 3 and found.path == tmp_path / name
    assert found.sha256 == read(tmp_path / "plain").sha256, "of what is in it, packed or not"
    some = read(tmp_path / name, limit=2)
    assert (len(some.items), some.total, some.sha256) == (2, 3, found.sha256)


@pytest.mark.parametrize(
    "change",
    [
        {"label": 4},
        {"label": -1},
        {"label": ""},
        {"label": "01"},
        {"label": True},
        {"label": 1.0},
        {"label": None},
        {"endings": ["a", "b", "c"]},
        {"endings": "abcd"},
        {"endings": ["a", "b", "c", ""]},
        {"endings": ["a", "b", "c", 4]},
        {"endings": None},
        {"ctx": ""},
        {"ctx": None},
        {"ctx": "\ud800"},
    ],
    ids=str,
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (ORIGINAL, {**ORIGINAL, **change})))
    message = rf"{path}: line 2 must be a JSON object with ctx, 4 endings and a label from 0 to 3, got b'\{{\"ind\": 24"
    with pytest.raises(DataError, match=message):
        read(path)
    assert len(read(path, limit=1).items) == 1


@pytest.mark.parametrize("line", ["", "[]", "5", "{", '{"ctx": "a"}', "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"items.jsonl: line 1 must be a JSON object"):
        read(path)


def test_files_that_hold_no_items_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl.xz"
    with pytest.raises(ConfigError, match=r"items.jsonl.xz: items must be a readable file, got No such file"):
        read(path)
    path.write_bytes(b"not packed")
    with pytest.raises(DataError, match="items must be packed with xz, got Input format not supported"):
        read(path)
    path.write_bytes(lzma.compress(json.dumps(ORIGINAL).encode() * 100)[:-20])
    with pytest.raises(DataError, match="items must be packed with xz, got Compressed file ended"):
        read(path)
    path.write_bytes(lzma.compress(b""))
    with pytest.raises(DataError, match="items must be 1 or more, got none"):
        read(path)
    with pytest.raises(ConfigError, match="hellaswag: limit must be at least 1, got 0"):
        read(path, limit=0)


def test_a_file_too_big_to_be_the_set_is_not_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm.hellaswag._MOST_BYTES", 1000)
    (tmp_path / "items.xz").write_bytes(lzma.compress(b" " * 10**6))
    with pytest.raises(DataError, match="items must be at most 1,000 bytes, got more"):
        read(tmp_path / "items.xz")


# ---- where the set is from ---------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """`(data, cache)`, both empty, and no network."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("BPETOK_DATA", str(data))
    monkeypatch.setenv("BPETOK_CACHE_DIR", str(cache))

    def no_network(*arguments: object, **settings: object) -> None:
        raise AssertionError("a test must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    return data, cache


def fetch(monkeypatch: pytest.MonkeyPatch, lines: int) -> list[str]:
    urls = []

    def retrieve(url: str, known_hash: None, name: str, folder: Path, **settings: object) -> str:
        urls.append(url)
        (folder / name).write_bytes(b"{}\n" * lines)
        return str(folder / name)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return urls


def test_the_set_is_downloaded_once(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    urls = fetch(monkeypatch, ITEMS)
    assert find() == find() == folders[1] / "hellaswag_val.jsonl"
    assert urls == [URL]
    (folders[0] / "hellaswag_val.jsonl.xz").touch()
    assert find() == folders[0] / "hellaswag_val.jsonl.xz", "the data folder comes first"


def test_what_has_another_number_of_items_is_not_kept(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(monkeypatch, 12)
    with pytest.raises(CorruptionError, match=rf"{URL}: items must be 10,042, got 12\nhint: try again"):
        find()
    assert not list(folders[1].iterdir())


def test_without_a_network_the_error_names_the_address_and_the_place(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrieve(*arguments: object, **settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    message = (
        rf"hellaswag_val.jsonl: {URL} is not on this machine and could not be downloaded: no route to host\n"
        rf"hint: fetch it elsewhere and put it here: {folders[1] / 'hellaswag_val.jsonl'}, or let BPETOK_DATA name"
    )
    with pytest.raises(UnavailableError, match=message):
        find()


def test_the_whole_set_is_read() -> None:
    path = Path(os.environ.get("BPETOK_DATA", "")) / "hellaswag_val.jsonl.xz"
    if not path.is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with hellaswag_val.jsonl.xz")
    found = read(path)
    assert len(found.items) == found.total == ITEMS
    counts = [sum(item.label == label for item in found.items) for label in range(4)]
    assert counts == [2515, 2485, 2584, 2458]
