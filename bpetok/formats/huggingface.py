r"""Hugging Face's `tokenizer.json`, of byte-level BPE: GPT-2's kind, Llama 3's, Qwen's, OLMo's, DeepSeek's.

| part | read | written |
|---|---|---|
| `model` | `BPE`: vocab, merges as `"a b"` or `["a", "b"]`, ignore_merges | the true merges |
| `pre_tokenizer` | `Split`s and `Digits`, one after the other, and `ByteLevel` last | likewise; gpt2 as `ByteLevel` |
| `normalizer` | null or `NFC` | likewise |
| `added_tokens` | special tokens here, also those that are not `special` there | with the flags that they had |
| `post_processor` | decides nothing here; kept in the provenance | as it was read, else `ByteLevel` |
| `decoder` | `ByteLevel` or null | `ByteLevel` |

Every text has the ids that `tokenizers` gives it: `encode(text, add_special_tokens=False).ids` there is
`encode(text, allowed_special="all")` here. All that would need more than this is refused, with the place in the file.
The expressions of a `Split` are Oniguruma's; see `bpetok.formats.oniguruma`.

A folder is a `tokenizer.json` and a `tokenizer_config.json`, as `transformers.AutoTokenizer.from_pretrained` reads it.

Known differences, measured with tokenizers 0.22.2 and Python 3.11: NFC goes by Unicode 9 there and by Python's tables
here, so 98 marks that came later are sorted among the marks beside them here and not there. No text without two marks
in a row, one of them such a late one, shows it.

Source: huggingface/tokenizers 0.22.2, `tokenizers/src`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpetok import _core, patterns
from bpetok.errors import FormatError
from bpetok.formats import added, documents, oniguruma, probe
from bpetok.formats.documents import member, spell, unspell
from bpetok.patterns import Pattern
from bpetok.vocab import END_OF_TEXT, MAX_ID, Normalization, Pair, Vocab

NAME = "huggingface"
FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
_KEYS = (
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"),
    "model",
)
_FIRST_KEY = re.compile(rb'\s*\{\s*"(' + "|".join(_KEYS).encode() + rb')"\s*:')
_OFF: dict[str, tuple[Any, ...]] = {  # settings of the model, and what they must be where they are there
    "dropout": (None, 0.0, 0),
    "unk_token": (None, ""),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
}
_MAX_STEPS = 16
# Rust's `char::is_numeric`: \p{N} of Unicode 16 and, last, the 13 numbers that Unicode 17 added.
_DIGIT = "[\\p{N}\U00011de0-\U00011de9\U00016ff4-\U00016ff6]"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_POST_PROCESSOR = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format: a JSON object whose first key is one of its."""
    return _FIRST_KEY.match(head) is not None


# ---- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> Vocab:
    """Reads a vocabulary, of a `tokenizer.json` or of the folder that it is in.

    Raises:
        FormatError: the file is not in this format, or holds what is not supported here; names the place.
        VocabError, PatternError: what it holds breaks the rules of a vocabulary or of a pattern.
    """
    file = path / FILE_NAME if path.is_dir() else path
    document = documents.read_json(file)
    where = f"{file}: "
    _check_keys(document, {*_KEYS}, where)
    if document.get("version") != "1.0":
        raise FormatError(f"{where}version must be '1.0', got {document.get('version')!r:.40}")
    for key in ("truncation", "padding"):
        if document.get(key) is not None:
            raise FormatError(f"{where}{key} must be null, got {document[key]!r:.60}", hint="cut and pad ids yourself")
    model = member(document, "model", dict, where)
    _check_model(model, f"{where}model.")
    pattern = _pattern(document.get("pre_tokenizer"), f"{where}pre_tokenizer")
    normalization = _normalization(document.get("normalizer"), f"{where}normalizer")
    _check_post_processor(document.get("post_processor"), f"{where}post_processor", depth=0)
    _check_decoder(document.get("decoder"), where)
    table = _table(model, f"{where}model.")
    tokens = added.read(document, table, normalization, where)
    ranks = _ranks(table, set(tokens.ids), f"{where}model.")
    merges = _merges(model, table, ranks, tokens, f"{where}model.")
    provenance: dict[str, Any] = {"read from": file.name}
    if tokens.flags or document.get("post_processor") != _POST_PROCESSOR:
        provenance[NAME] = {"added_tokens": tokens.flags, "post_processor": document.get("post_processor")}
    with documents.naming(file):
        return Vocab(
            ranks,
            tokens.ids,
            pattern,
            merges,
            file.absolute().parent.name if file.name == FILE_NAME else file.stem,
            provenance,
            "merges",
            ignore_merges=model.get("ignore_merges") is True,
            normalization=normalization,
        )


def _check_keys(thing: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := thing.keys() - known:
        raise FormatError(f"{where}{min(unknown)!s:.60} must not be there: it is nothing that is known here")


def _check_decoder(decoder: Any, where: str) -> None:
    if decoder is None:  # ids are the same without one; their text is that of their bytes
        return
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise FormatError(f"{where}decoder must be of the type 'ByteLevel', got {decoder!r:.60}")


def _check_post_processor(thing: Any, where: str, *, depth: int) -> None:
    """Makes sure that it changes no ids where the special tokens around a text are not asked for."""
    if thing is None and depth == 0:
        return
    if not depth and not _is_shallow(thing, 8):
        raise FormatError(f"{where} must have at most 8 levels")
    kinds = ("ByteLevel", "TemplateProcessing") if depth else ("ByteLevel", "TemplateProcessing", "Sequence")
    kind = thing.get("type") if isinstance(thing, dict) else thing
    if kind not in kinds:
        raise FormatError(f"{where}.type must be one of {', '.join(kinds)}, got {kind!r:.60}")
    if kind == "Sequence":
        for i, one in enumerate(member(thing, "processors", list, f"{where}.")):
            _check_post_processor(one, f"{where}.processors[{i}]", depth=1)


def _is_shallow(thing: Any, levels: int) -> bool:
    inner = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _normalization(thing: Any, where: str) -> Normalization | None:
    if thing is None:
        return None
    kind = thing.get("type") if isinstance(thing, dict) else thing
    if kind == "Sequence":
        parts = member(thing, "normalizers", list, f"{where}.")
        if any(part != {"type": "NFC"} for part in parts):
            raise FormatError(f"{where}.normalizers must each be of the type 'NFC', got {parts!r:.60}")
        return "NFC" if parts else None
    if kind != "NFC":
        raise FormatError(f"{where}.type must be 'NFC', got {kind!r:.60}")
    return "NFC"


def _check_model(model: Mapping[str, Any], where: str) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise FormatError(f"{where}type must be 'BPE', got {kind!r:.60}")
    _check_keys(model, {"type", "vocab", "merges", "ignore_merges", *_OFF}, where)
    for key, values in _OFF.items():
        value = model.get(key)
        if not any(type(value) is type(off) and value == off for off in values):
            raise FormatError(f"{where}{key} must be null or {json.dumps(values[1])}, got {value!r:.60}")
    if not isinstance(model.get("ignore_merges", False), bool | None):
        raise FormatError(f"{where}ignore_merges must be true or false, got {model['ignore_merges']!r:.60}")


def _table(model: Mapping[str, Any], where: str) -> dict[str, int]:
    """The tokens as they are spelled in the file, and their ids."""
    table: dict[str, int] = member(model, "vocab", dict, where)
    for text, token_id in table.items():
        if type(token_id) is not int or not 0 <= token_id <= MAX_ID:
            raise FormatError(f"{where}vocab[{text!r:.60}] must be an id in 0 to {MAX_ID}, got {token_id!r:.60}")
    if len(set(table.values())) != len(table):
        twice, _ = Counter(table.values()).most_common(1)[0]
        texts = [text for text, token_id in table.items() if token_id == twice]
        raise FormatError(f"{where}vocab must give each token an id of its own, got {twice} for {texts!r:.80}")
    return table


def _ranks(table: Mapping[str, int], added_tokens: set[str], where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for text, token_id in table.items():
        if text in added_tokens:
            continue
        token = unspell(text)
        if not token:
            raise FormatError(f"{where}vocab must hold tokens in the letters of byte-level BPE, got {text!r:.60}")
        ranks[token] = token_id
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise FormatError(f"{where}vocab must hold each single byte, got none for {bytes(missing[:1])!r}")
    return ranks


def _merges(
    model: Mapping[str, Any], table: Mapping[str, int], ranks: Mapping[bytes, int], tokens: added.Tokens, where: str
) -> list[Pair]:
    listed = member(model, "merges", list, where)
    merges: dict[Pair, int] = {}
    for i, merge in enumerate(listed):
        here = f"{where}merges[{i}]"
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or type(merge) is not type(listed[0]):
            raise FormatError(f"{here} must be two tokens, as in merges[0], got {merge!r:.60}")
        left, right = parts
        if type(left) is not str or type(right) is not str or left not in table or right not in table:
            raise FormatError(f"{here} must be two tokens of the vocab, got {merge!r:.60}")
        if left + right not in table:
            raise FormatError(f"{here} must make a token of the vocab, got {merge!r:.60}")
        if isinstance(merge, str) and merge.startswith("#version"):  # the library leaves such a line out
            raise FormatError(f"{here} must be two tokens, got {merge!r:.60}, which reads like a comment")
        # The text of an added token is cut out before anything merges, so what makes or takes it never happens.
        if tokens.ids.keys() & {left, right, left + right}:
            continue
        pair = table[left], table[right]
        if merges.setdefault(pair, i) != i:
            raise FormatError(f"{here} must stand once, got {merge!r:.60} again")
    return list(merges)


def _pattern(thing: Any, where: str) -> Pattern:
    """The steps by which text is cut; `ByteLevel` has to be the last of them."""
    steps: list[Any] = [thing]
    names = [where]
    if isinstance(thing, dict) and thing.get("type") == "Sequence":
        steps = member(thing, "pretokenizers", list, f"{where}.")
        names = [f"{where}.pretokenizers[{i}]" for i in range(len(steps))]
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    if not kinds or kinds[-1] != "ByteLevel":
        got = kinds[-1] if kinds else None
        raise FormatError(f"{(names or [where])[-1]}.type must be 'ByteLevel', which makes it bytes, got {got!r:.60}")
    if len(steps) > _MAX_STEPS:
        raise FormatError(f"{where}.pretokenizers must be at most {_MAX_STEPS}, got {len(steps)}")
    readers = {"Split": _split, "Digits": _digits}
    cuts: list[str] = []
    for step, kind, name in zip(steps[:-1], kinds, names, strict=False):
        if kind not in readers:
            raise FormatError(f"{name}.type must be 'Split' or 'Digits', got {kind!r:.60}")
        cuts.append(readers[kind](step, name))
    if _byte_level(steps[-1], names[-1]):
        cuts.append("gpt2")
    return None if not cuts else cuts[0] if len(cuts) == 1 else tuple(cuts)


def _split(step: Mapping[str, Any], where: str) -> str:
    _check_keys(step, {"type", "pattern", "behavior", "invert"}, f"{where}.")
    wanted = member(step, "pattern", dict, f"{where}.")
    if len(wanted) != 1 or not wanted.keys() <= {"Regex", "String"}:
        raise FormatError(f"{where}.pattern must hold one of 'Regex' and 'String', got {[*wanted]!r:.60}")
    ((kind, _),) = wanted.items()
    expression: str = member(wanted, kind, str, f"{where}.pattern.")
    if kind == "String":
        expression = re.escape(expression)
    manner = step.get("behavior"), step.get("invert")
    if manner == ("Removed", True) and oniguruma.skips_nothing(expression):
        manner = "Isolated", False  # what matches is kept, and nothing else is there
    if manner[0] != "Isolated" or not isinstance(manner[1], bool):
        hint = "'Removed' with invert is the same where the expression is a known one that skips nothing"
        raise FormatError(
            f"{where}.behavior must be 'Isolated', got {manner[0]!r:.40} with invert {manner[1]!r:.40}", hint=hint
        )
    place = f"{where}.pattern.{kind}"
    pattern = oniguruma.translated(expression, place)
    if oniguruma.named(expression) is None:
        oniguruma.prove(expression, pattern, place)
    return pattern


def _digits(step: Mapping[str, Any], where: str) -> str:
    _check_keys(step, {"type", "individual_digits"}, f"{where}.")
    return _DIGIT if member(step, "individual_digits", bool, f"{where}.") else _DIGIT + "+"


def _byte_level(step: Mapping[str, Any], where: str) -> bool:
    """Whether it cuts as GPT-2 does."""
    _check_keys(step, {*_BYTE_LEVEL}, f"{where}.")
    if step.get("add_prefix_space", True) is not False:
        raise FormatError(f"{where}.add_prefix_space must be false, got {step.get('add_prefix_space', True)!r:.60}")
    use_regex = step.get("use_regex", True)
    if not isinstance(use_regex, bool):
        raise FormatError(f"{where}.use_regex must be true or false, got {use_regex!r:.60}")
    return use_regex


# ---- writing -----------------------------------------------------------------------------------------------------


def write(vocab: Vocab, path: Path) -> None:
    """Writes a `tokenizer.json`, or a folder with it and a `tokenizer_config.json`.

    What is written is proven first: read again it gives the probe our ids, and so it does in `tokenizers`, where that
    is installed. A split pattern without a name can only be proven there.

    Args:
        vocab: the vocabulary.
        path: a file whose name ends with `.json`, or else the folder, which may be there.

    Raises:
        FormatError: the format cannot hold the vocabulary, or the proof fails.
    """
    from bpetok.tokenizer import Tokenizer

    whole = path.suffix != ".json" or path.is_dir()
    document = _document(vocab, path)
    with probe.proven(path) as written:
        file = written
        if whole:
            written.mkdir()
            file = written / FILE_NAME
            (written / CONFIG_NAME).write_text(json.dumps(_config(vocab), indent=2) + "\n", encoding="utf-8")
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        file.write_text(text + "\n", encoding="utf-8")
        again = read(file)
        for part in ("ranks", "special_tokens", "pattern", "normalization"):
            if getattr(again, part) != getattr(vocab, part):
                raise FormatError(f"{path}: {part} must be the same when they are read again")
        ours = Tokenizer(again)
        probe.prove(
            vocab, lambda text: ours.encode(text, allowed_special="all"), f"{path}, read again", allowed_special="all"
        )
        if importlib.util.find_spec("tokenizers") is not None:
            library = importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
            probe.prove(
                vocab,
                lambda text: library.encode(text, add_special_tokens=False).ids,
                f"{path} in tokenizers",
                allowed_special="all",
            )


def _document(vocab: Vocab, path: Path) -> dict[str, Any]:
    table = {spell(token): token_id for token, token_id in sorted(vocab.ranks.items(), key=lambda item: item[1])}
    texts = {token_id: text for text, token_id in table.items()}
    merges, ignore_merges = _true_merges(vocab, path)
    kept = vocab.provenance.get(NAME)
    kept = kept if isinstance(kept, dict) else {}
    tokens = added.write(vocab, table, kept.get("added_tokens") or {}, ignore_merges, path)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": vocab.normalization} if vocab.normalization else None,
        "pre_tokenizer": _pre_tokenizer(vocab.pattern, path),
        "post_processor": _post_processor(kept.get("post_processor", _POST_PROCESSOR), vocab, path),
        "decoder": _DECODER,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": dict(sorted(table.items(), key=lambda item: item[1])),
            "merges": [[texts[left], texts[right]] for left, right in merges],
        },
    }


def _true_merges(vocab: Vocab, path: Path) -> tuple[list[Pair], bool]:
    """The merges, and whether tokens have to be found whole, since some are not what the merges make of their bytes."""
    if vocab.semantics == "merges":
        return list(vocab.merges or ()), vocab.ignore_merges
    ranks = dict(vocab.ranks)
    if vocab.merges is None:
        for token in _core.Encoder(ranks, "none", 0).unreachable():  # a whole pretoken or nothing
            del ranks[token]
    with documents.naming(path):
        merges = vocab.recover_merges() if len(ranks) == len(vocab.ranks) else Vocab(ranks).recover_merges()
    return merges, bool(_core.Encoder(dict(vocab.ranks), "none", 0, merges).unreachable())


def _pre_tokenizer(pattern: Pattern, path: Path) -> dict[str, Any]:
    steps = [*patterns.resolve(pattern).steps]
    gpt2_last = bool(steps) and patterns.resolve(steps[-1]).name == "gpt2"
    parts: list[dict[str, Any]] = [_step(step, path) for step in (steps[:-1] if gpt2_last else steps)]
    parts.append(_BYTE_LEVEL | {"use_regex": gpt2_last})
    return parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}


def _step(step: str, path: Path) -> dict[str, Any]:
    if step in (_DIGIT, _DIGIT + "+"):
        return {"type": "Digits", "individual_digits": step == _DIGIT}
    name = patterns.resolve(step).name
    if name is None:
        where = f"{path}: the split pattern"
        if importlib.util.find_spec("tokenizers") is None:
            hint = "pip install tokenizers, which proves it; the patterns that have a name need no proof"
            raise FormatError(
                f"{where} must have a name where tokenizers is not installed, got {step!r:.80}", hint=hint
            )
        if oniguruma.translated(step, where) != step:
            raise FormatError(f"{where} must mean the same in Oniguruma as here, got {step!r:.80}")
        oniguruma.prove(step, step, where)
    expression = step if name is None else oniguruma.SPELLINGS[name]
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _post_processor(kept: Any, vocab: Vocab, path: Path) -> Any:
    """The one that was read, if the special tokens that it writes are still those of the vocabulary."""
    if kept is None:
        return None
    parts = kept.get("processors", [kept]) if isinstance(kept, dict) else [kept]
    for part in parts:
        named = part.get("special_tokens", {}) if isinstance(part, dict) else None
        for one in named.values() if isinstance(named, dict) else ():
            pairs = zip(one.get("tokens", ()), one.get("ids", ()), strict=False)
            if any(vocab.special_tokens.get(text) != token_id for text, token_id in pairs):
                raise FormatError(f"{path}: post_processor must name special tokens by their ids, got {one!r:.80}")
    return kept


def _config(vocab: Vocab) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    if END_OF_TEXT in vocab.special_tokens:
        config |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return config
