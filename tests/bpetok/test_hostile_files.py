"""Tokenizer files from strangers: each is refused by a typed error that names it, within 2 seconds and 512 MB.

The cases of one format are read in one process, which may have 512 MB of address space in all.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import bpetok
from bpetok import Vocab
from bpetok.formats import gguf, plugin, tekken
from bpetok.formats.documents import spell

SECONDS = 2
MEGABYTES = 512
BYTES = [bytes([byte]) for byte in range(256)]
PLAIN = Vocab.from_merges([(97, 98), (256, 99)], pattern="gpt2", special_tokens=["<s>", "</s>"], name="plain")

Contents = str | bytes | Callable[[Path], object]


class Case(NamedTuple):
    """A file: what is wrong with it, its contents or what writes it, and what the error says; None where it loads."""

    name: str
    contents: Contents
    match: str | None
    arguments: dict | None = None


# ---- JSON, in whichever format --------------------------------------------------------------------------------------


def broken_json(text, first_key):
    """What no JSON document may be. The text is a good one, and begins with the key."""
    middle = len(text) // 2
    open_end = text.rstrip()[:-1]

    def adding(value):
        return f'{open_end}, "x": {value}}}'

    return [
        Case("cut in the middle", text[:middle], r":\d+: must be a JSON document"),
        Case("cut before its last byte", text.rstrip()[:-1], r":\d+: must be a JSON document"),
        Case("more behind its end", text + "{}", "must be a JSON document, got: Extra data"),
        Case(
            "a byte that is no UTF-8", text[:middle].encode() + b"\xff" + text[middle:].encode(), "must be UTF-8 text"
        ),
        Case("UTF-16", text.encode("utf-16-le"), "another known format"),
        Case("a byte-order mark", "\ufeff" + text, "another known format"),
        Case("NUL", text[:middle] + "\0" + text[middle:], "must be a JSON document"),
        Case("a key twice", text.replace("{", f'{{"{first_key}": 1, ', 1), f"key '{first_key}' twice in one object"),
        Case("a key twice inside", adding('{"a": 1, "b": 2, "a": 3}'), "the key 'a' twice in one object"),
        Case("arrays 100,000 deep", adding("[" * 100_000 + "]" * 100_000), "must be a JSON document"),
        Case("objects 100,000 deep", adding('{"a":' * 100_000 + "0" + "}" * 100_000), "must be a JSON document"),
        Case("an array that never ends", adding("[" * 1_000_000), "must be a JSON document"),
        Case("NaN", adding("NaN"), "NaN, which is no number of JSON"),
        Case("Infinity", adding("-Infinity"), "-Infinity, which is no number of JSON"),
        Case("a number of 5,000 digits", adding("9" * 5000), "must be a JSON document, got: Exceeds the limit"),
        Case("half of a surrogate pair", adding('"\\ud83d"'), "must not hold half of a surrogate pair"),
        Case(
            "five million empty arrays",
            later(lambda: adding("[" + "[]," * 5_000_000 + "0]")),
            "fewer values than a voc",
        ),
        Case(
            "two million objects", later(lambda: adding("[" + '{"":0},' * 2_000_000 + "0]")), "fewer values than a voc"
        ),
        Case("a gigabyte, mostly nothing", sparse(text), "a file of this format must be at most 67108864 bytes"),
    ]


def later(make):
    """Writes what `make` makes, which is too much to be kept here."""
    return lambda path: put(make(), path)


def sparse(start, size=1 << 30):
    """Writes a file that begins so and is a gigabyte long, of which the disk holds the beginning alone."""

    def write(path):
        path.write_bytes(start if isinstance(start, bytes) else start.encode())
        os.truncate(path, size)

    return write


# ---- our own --------------------------------------------------------------------------------------------------------


@cache
def native_text():
    document = {
        "format": "bpetok",
        "version": 1,
        "name": "plain",
        "pattern": PLAIN.pattern,
        "unicode": "16.0",
        "semantics": "rank",
        "tokens": [base64.b64encode(PLAIN[i]).decode() for i in range(258)],
        "merges": [[97, 98], [256, 99]],
        "special_tokens": {"<s>": 258, "</s>": 259},
        "provenance": {},
    }
    return signed(document)


def signed(document):
    document = {key: value for key, value in document.items() if key != "sha256"}
    compact = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return json.dumps(document | {"sha256": hashlib.sha256(compact.encode()).hexdigest()}, separators=(", ", ": "))


def own(change=None, **values):
    document = json.loads(native_text())
    document.update(values)
    if change is not None:
        change(document)
    return signed(document)


def specials(**ids):
    return {f"<{text}>": token_id for text, token_id in ids.items()}


NATIVE = [
    Case("a checksum of another file", native_text().replace('"plain"', '"other"'), "sha256 must be"),
    Case("no checksum", native_text().split(', "sha256"')[0] + "}", "sha256 must be None"),
    Case("a checksum that is an array", native_text().replace('56": "', '56": ["').replace('"}', '"]}'), "sha256"),
    Case("a later version", own(version=2), "version must be 1, got 2"),
    Case("a version that is true", own(version=True), "version must be 1, got True"),
    Case("a version of 1e400", own(version=1).replace(": 1,", ": 1e400,", 1), "version must be 1, got inf"),
    Case("a name that is a number", own(name=5), "name must be a string, got 5"),
    Case("a pattern that is a number", own(pattern=5), "pattern must be a string or an array or null, got 5"),
    Case("a pattern that does not compile", own(pattern="(", unicode=None), "does not compile"),
    Case("a pattern that searches backwards", own(pattern="(?r)a|b"), "must not search backwards"),
    Case("a pattern of a million parentheses", own(pattern="(" * 1_000_000), "at most 65536 characters, got 1000000"),
    Case("a pattern of 60,000 parentheses", own(pattern="(" * 60_000), r"pattern: '\(\(\("),
    Case("no steps", own(pattern=[]), "array of several strings"),
    Case("a hundred steps", own(pattern=["a|b"] * 100), "array of several strings"),
    Case("steps that are numbers", own(pattern=[1, 2]), "array of several strings"),
    Case("Unicode of another time", own(unicode="9.0"), r"unicode must be 16\.0, got 9\.0"),
    Case("Unicode that is a number", own(unicode=16), "unicode must be a string or null"),
    Case("semantics of another kind", own(semantics="score"), "semantics must be 'rank' or 'merges', got 'score'"),
    Case("semantics that are null", own(semantics=None), "semantics must be a string"),
    Case("merges to ignore that are a number", own(ignore_merges=1), "ignore_merges must be true or false, got 1"),
    Case("another normalization", own(normalization="NFKC"), "normalization must be 'NFC' or None, got 'NFKC'"),
    Case("a provenance that is an array", own(provenance=[]), "provenance must be an object"),
    Case("a key of nobody", own(extra=1), "no keys but those of the format, got 'extra'"),
    Case("levels that only just parse", own(provenance={"a": json.loads("[" * 400 + "]" * 400)}), None),
    Case("tokens that are an object", own(tokens={}), "tokens must be an array"),
    Case("no tokens", own(tokens=[]), "every single byte must be a token, missing b'\\\\x00'"),
    Case("a byte missing", own(lambda d: d["tokens"].__setitem__(65, None)), "must be a token, missing b'A'"),
    Case("a token twice", own(lambda d: d["tokens"].append("AA==")), r"tokens\[258\] must stand once"),
    Case("an empty token", own(lambda d: d["tokens"].append("")), "a token must not be empty"),
    Case("no base64", own(lambda d: d["tokens"].append("!")), r"tokens\[258\] must be base64"),
    Case("base64 with blanks", own(lambda d: d["tokens"].append("YWE\n")), r"tokens\[258\] must be base64"),
    Case("base64 without its end", own(lambda d: d["tokens"].append("YWE")), r"tokens\[258\] must be base64"),
    Case("base64 of another spelling", own(lambda d: d["tokens"].append("YWF=")), "must be base64 as RFC 4648"),
    Case("base64 beyond ASCII", own(lambda d: d["tokens"].append("ＹＷ==")), r"tokens\[258\] must be base64"),
    Case("a token that is a number", own(lambda d: d["tokens"].append(7)), r"tokens\[258\] must be base64 or null"),
    Case("merges that are an object", own(merges={}), "merges must be an array or null"),
    Case("a merge of one", own(merges=[[97]]), r"merges\[0\] must be a pair of ids"),
    Case("a merge of texts", own(merges=[["a", "b"]]), r"merges\[0\] must be a pair of ids"),
    Case("a merge of truths", own(merges=[[True, False]]), r"merges\[0\] must be a pair of ids"),
    Case("a merge of negative ids", own(merges=[[-1, 97]]), "a merge must make a token"),
    Case("a merge of ids of 2^63", own(merges=[[1 << 63, 97]]), "a merge must make a token"),
    Case("a merge that makes no token", own(merges=[[97, 97]]), "a merge must make a token"),
    Case("special tokens that are an array", own(special_tokens=[]), "special_tokens must be an object"),
    Case("an empty special token", own(special_tokens={"": 300}), "a special token must not be empty"),
    Case("a special token that merges", own(special_tokens={"ab": 300}), "must not also merge, got 'ab'"),
    Case("a special token with a token's id", own(special_tokens=specials(a=97)), "an id must belong to one token"),
    Case("a negative id", own(special_tokens=specials(a=-1)), "an id must be in 0 to 16777214, got -1"),
    Case("an id of 2^31", own(special_tokens=specials(a=1 << 31)), "an id must be in 0 to 16777214, got 2147483648"),
    Case("an id of 2^32", own(special_tokens=specials(a=1 << 32)), "an id must be in 0 to 16777214"),
    Case("an id of 2^63", own(special_tokens=specials(a=1 << 63)), "an id must be in 0 to 16777214"),
    Case("an id of 10^4000", own(special_tokens=specials(a=10**4000)), "an id must be in 0 to 16777214"),
    Case("an id of 1e400", own(special_tokens=specials(a=float("inf"))).replace("Infinity", "1e400"), "an id, got inf"),
    Case("an id that is a text", own(special_tokens=specials(a="300")), "must be an id, got '300'"),
    Case("an id that is true", own(special_tokens=specials(a=True)), "must be an id, got True"),
    Case("unused ids between the special tokens", own(special_tokens=specials(a=300, b=400)), None),
    Case("a name that is a path", own(name="../../etc/passwd"), None),
    Case("lines that end as on Windows", native_text().replace(", ", ",\r\n"), None),
    *broken_json(native_text(), "format"),
]


# ---- ranks ----------------------------------------------------------------------------------------------------------


def lines(tokens=BYTES, first=0):
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens, start=first))


BARE = {"pattern": "gpt2", "special_tokens": {}}


def ranks(name, contents, match, **arguments):
    return Case(name, contents, match, BARE | arguments)


RANKS = [
    ranks("an empty file", b"", "got an empty file"),
    ranks("a token twice", lines() + b"AA== 256\n", r":257: a token must stand once, got b'\\x00' again"),
    ranks("a rank twice", lines() + b"AAA= 255\n", r":257: a rank must stand once, got 255 again"),
    ranks("a byte missing", lines(BYTES[:-1]), r"must be a token, missing b'\\xff'"),
    ranks("a line left out", lines() + b"AAA= 257\n", "each rank up to 257 must be .* got no 256"),
    ranks("a first rank of 1", lines(first=1), "each rank up to 256 must be .* got no 0"),
    ranks("a negative rank", lines() + b"AAA= -1\n", ":257: must be base64, a space and a rank"),
    ranks("a rank of 2^24", lines() + b"AAA= 16777216\n", "an id must be in 0 to 16777214, got 16777216"),
    ranks("a rank of 2^31", lines() + b"AAA= 2147483648\n", "an id must be in 0 to 16777214, got 2147483648"),
    ranks("a rank of 2^32", lines() + b"AAA= 4294967296\n", ":257: must be base64, a space and a rank"),
    ranks("a rank of 2^63", lines() + b"AAA= 9223372036854775808\n", ":257: must be base64, a space and a rank"),
    ranks("a rank of 1e400", lines() + b"AAA= 1e400\n", ":257: must be base64, a space and a rank"),
    ranks("a rank of a million digits", lines() + b"AAA= " + b"9" * 1_000_000, ":257: must be base64"),
    ranks("a rank with an underscore", lines() + b"AAA= 2_56\n", ":257: must be base64, a space and a rank"),
    ranks("a rank with a sign", lines() + b"AAA= +256\n", ":257: must be base64, a space and a rank"),
    ranks("a rank in other digits", lines() + "AAA= ٢٥٦\n".encode(), ":257: must be base64, a space and a rank"),
    ranks("an empty token", lines() + b" 256\n", ":257: must be base64, a space and a rank"),
    ranks("no rank", lines() + b"AAA=\n", ":257: must be base64, a space and a rank"),
    ranks("a third column", lines() + b"AAA= 256 1\n", ":257: must be base64, a space and a rank"),
    ranks("a tab", lines() + b"AAA=\t256\n", ":257: must be base64, a space and a rank"),
    ranks("base64 without its end", lines() + b"AAA 256\n", ":257: must be base64, a space and a rank"),
    ranks("base64 with too much end", lines() + b"A=== 256\n", ":257: must be base64, a space and a rank"),
    ranks("base64 for web addresses", lines() + b"-_== 256\n", ":257: must be base64, a space and a rank"),
    ranks("base64 of another spelling", lines() + b"YWF= 256\n", ":257: must be base64 as RFC 4648 spells it"),
    ranks("NUL in a line", lines() + b"AA\0= 256\n", ":257: must be base64, a space and a rank"),
    ranks("a byte-order mark", b"\xef\xbb\xbf" + lines(), "another known format"),
    ranks("UTF-16", lines().decode().encode("utf-16-le"), "another known format"),
    ranks("old Macintosh lines", lines().replace(b"\n", b"\r"), "another known format"),
    ranks("a gigabyte in one line", sparse(b"AA== 0"), "another known format"),
    ranks("a gigabyte in its second line", sparse(lines()), "must be at most 67108864 bytes, got 1073741824"),
    ranks("a line of 50 MB", later(lambda: lines() + b"AAAA" * 12_500_000), ":257: must be base64, a space and a rank"),
    ranks("two million lines", later(lambda: b"AA== 0\n" * 2_000_000), ":2: a token must stand once"),
    ranks("four million lines", later(lambda: b"AA== 0\n" * 4_000_000), "at most 2097152 lines, got 4000000"),
    ranks("ten million lines", later(lambda: b"AA== 0\n" * 10_000_000), "must be at most 67108864 bytes"),
    ranks("a special token that merges", lines(), "must not also merge, got 'a'", special_tokens={"a": 256}),
    ranks("an empty special token", lines(), "must not be empty", special_tokens={"": 256}),
    ranks("a special token with a token's id", lines(), "an id must belong to one token", special_tokens={"<s>": 9}),
    ranks("half of a surrogate pair", lines(), "without lone surrogates", special_tokens={"\ud83d": 256}),
    ranks("neither pattern nor special tokens", lines(), "both must be given", pattern=None, special_tokens=None),
    ranks("Windows' lines", lines().replace(b"\n", b"\r\n"), None),
    ranks("no end of the last line", lines()[:-1], None),
    ranks("empty lines", lines().replace(b"\n", b"\n\n"), None),
    ranks("a gap that a special token fills", lines() + b"AAA= 257\n", None, special_tokens={"<s>": 256}),
    ranks("unused ids between special tokens", lines(), None, special_tokens={"<s>": 256, "<t>": 900}),
]


# ---- minbpe ---------------------------------------------------------------------------------------------------------


def model(*rows, pattern="", count=0):
    return "\n".join(["minbpe v1", pattern, str(count), *rows]) + "\n"


DOUBLING = [f"{i} {i}" for i in (97, *range(256, 320))]
MINBPE = [
    Case("a later version", "minbpe v2\n\n0\n", "another known format|must be 'minbpe v1'"),
    Case("a version and more", "minbpe v10\n\n0\n", ":1: must be 'minbpe v1'"),
    Case("its first line alone", "minbpe v1", ":1: must be 'minbpe v1'"),
    Case("a count that is none", model(count="x"), ":3: must be the number of special tokens, got 'x'"),
    Case("a negative count", model(count=-1), ":3: must be the number of special tokens, got '-1'"),
    Case("a count of 2^63", model(count=1 << 63), ":3: must be the number of special tokens"),
    Case("a count with an underscore", model("<s> 300", count="0_1"), ":3: must be the number of special tokens"),
    Case("a count of more than there are", model("<s> 300", count=90_000_000), ":3: must be the number of special"),
    Case("a special token without an id", model("<s>", count=1), ":4: must be a special token and its id, got '<s>'"),
    Case("an id without a special token", model(" 300", count=1), ":4: must be a special token and its id"),
    Case("a special token with a blank", model("<a b> 300", count=1), ":4: must be a special token and its id"),
    Case("a special token twice", model("<s> 300", "<s> 301", count=2), ":5: a special token must stand once"),
    Case("a special token that merges", model("ab 300", "97 98", count=1), "must not also merge, got 'ab'"),
    Case("a special token with a token's id", model("<s> 97", count=1), "an id must belong to one token"),
    Case("a special token with a negative id", model("<s> -1", count=1), ":4: must be a special token and its id"),
    Case("a special token with an id of 2^24", model("<s> 16777216", count=1), "an id must be in 0 to 16777214"),
    Case("a special token with an id of 2^31", model("<s> 2147483648", count=1), ":4: must be a special token"),
    Case("a special token with an id of 1e400", model("<s> 1e400", count=1), ":4: must be a special token"),
    Case("a merge of one", model("97"), ":4: a merge must join two ids of earlier tokens, got '97'"),
    Case("a merge of three", model("97 98 99"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge of texts", model("a b"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge with a later token", model("97 256"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge with a negative id", model("97 -1"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge with an underscore", model("9_7 98"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge in other digits", model("٩٧ 98"), ":4: a merge must join two ids of earlier tokens"),
    Case("a merge with an id of a million digits", model("9" * 1_000_000 + " 98"), ":4: a merge must join two ids"),
    Case("a merge twice", model("97 98", "97 98"), "two merges must not make the same token"),
    Case("two merges of one token", model("97 97", "256 97", "97 256"), "two merges must not make the same token"),
    Case("merges that double sixty times", model(*DOUBLING), ":20: must not make a token or tokens so long"),
    Case("a pattern that does not compile", model(pattern="("), "does not compile"),
    Case("a pattern that looks like a name", model(pattern="gpt5"), "must be a known name or a regular expression"),
    Case("a pattern of a million characters", model(pattern="a|" * 500_000), "at most 65536 characters"),
    Case("a carriage return in the pattern", model(pattern="a\rb"), ":2: must not hold a carriage return"),
    Case("NUL in a merge", model("97\0 98"), ":4: a merge must join two ids of earlier tokens"),
    Case("bytes that are no UTF-8", b"minbpe v1\n\n1\n\xff 300\n", ":4: must be UTF-8 text"),
    Case("a byte-order mark", "\ufeff" + model(), "another known format"),
    Case("a gigabyte", sparse(model("97 98")), "must be at most 67108864 bytes"),
    Case("Windows' lines", model("97 98").replace("\n", "\r\n"), None),
    Case("empty lines behind", model("97 98") + "\n\n", None),
    Case("unused ids before a special token", model("<s> 900", "97 98", count=1), None),
]


# ---- tekken ---------------------------------------------------------------------------------------------------------


@cache
def tekken_text():
    return json.dumps(tekken._document(tekken._moved(PLAIN, Path("tekken.json"))))


def mistral(change):
    document = json.loads(tekken_text())
    change(document)
    return json.dumps(document)


def config(**values):
    return mistral(lambda d: d["config"].update(values))


def entry(i, **values):
    return mistral(lambda d: d["vocab"][i].update(values))


TEKKEN = [
    Case("a list alone", json.dumps(json.loads(tekken_text())["vocab"]), "another known format"),
    Case("no config", mistral(lambda d: d.pop("config")), "config must be an object, got nothing"),
    Case("a config that is an array", mistral(lambda d: d.update(config=[])), "config must be an object"),
    Case("no pattern", mistral(lambda d: d["config"].pop("pattern")), r"config\.pattern must be a string, got nothing"),
    Case("a pattern that is null", config(pattern=None), r"config\.pattern must be a string, got None"),
    Case("a pattern that does not compile", config(pattern="("), "does not compile"),
    Case("a pattern of a million characters", config(pattern="a" * 70_000), "at most 65536|another known format"),
    Case("a version that is a number", config(version=7), r"config\.version must be a string"),
    Case("a size that is a text", config(default_vocab_size="260"), "default_vocab_size must be a whole number"),
    Case("a size of 1e400", config(default_vocab_size=1.5).replace("1.5", "1e400"), "must be a whole number, got inf"),
    Case("a negative size", config(default_vocab_size=-1), "default_vocab_size must be a number of tokens"),
    Case("a size of 2^63", config(default_vocab_size=1 << 63), "default_vocab_size must be a number of tokens"),
    Case("a size beyond its tokens", config(default_vocab_size=261), "must be 2 to 260, .* got 261"),
    Case("a size that cuts the bytes off", config(default_vocab_size=200), r"missing b'\\xc6'"),
    Case("no special tokens by number", config(default_num_special_tokens=0), "must be at least 2, got 0"),
    Case("ten million special tokens by number", config(default_num_special_tokens=10**7), "must be at most 65536"),
    Case("special tokens of 2^63 by number", config(default_num_special_tokens=1 << 63), "must be a number of tokens"),
    Case("tokens that are an object", mistral(lambda d: d.update(vocab={})), "vocab must be an array"),
    Case("a token that is a text", mistral(lambda d: d["vocab"].__setitem__(9, "x")), r"vocab\[9\] must be an object"),
    Case("a rank out of order", entry(9, rank=10), r"vocab\[9\]\.rank must be 9, got 10"),
    Case("a negative rank", entry(0, rank=-1), r"vocab\[0\]\.rank must be 0, got -1"),
    Case("a rank that is false", entry(0, rank=False), r"vocab\[0\]\.rank must be a whole number, got False"),
    Case("bytes out of order", entry(9, token_bytes="AA=="), r"vocab\[9\] must be the byte 9, got b'\\x00'"),
    Case("a token twice", entry(257, token_bytes="YWI="), r"vocab\[257\] must stand once, got b'ab' again"),
    Case("an empty token", entry(257, token_bytes=""), "a token must not be empty"),
    Case("base64 of another spelling", entry(257, token_bytes="YWF="), r"vocab\[257\]\.token_bytes must be base64"),
    Case("a token of no base64", entry(257, token_bytes="?"), r"vocab\[257\]\.token_bytes must be base64, got"),
    Case("a token that is null", entry(257, token_bytes=None), r"vocab\[257\]\.token_bytes must be a string"),
    Case(
        "no special tokens", mistral(lambda d: (d.pop("special_tokens"), d["config"].update(version="v11"))), "an array"
    ),
    Case("a special token twice", mistral(lambda d: d["special_tokens"][1].update(token_str="<s>")), "stand once"),
    Case("an empty special token", mistral(lambda d: d["special_tokens"][1].update(token_str="")), "must not be empty"),
    Case("a special token that merges", mistral(lambda d: d["special_tokens"][1].update(token_str="ab")), "also merge"),
    Case("special tokens out of order", mistral(lambda d: d["special_tokens"].reverse()), r"\.rank must be 0, got 1"),
    Case(
        "more special tokens by number than by name", config(default_num_special_tokens=4, default_vocab_size=262), None
    ),
    Case("what else Mistral writes", mistral(lambda d: d.update(image={"a": 1}, audio={"b": [2]})), None),
    *broken_json(tekken_text(), "config"),
]


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


@cache
def huggingface_text():
    tokens = [*map(spell, BYTES), "ab", "abc"]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": 258, "content": "<s>"} | added, {"id": 259, "content": "</s>"} | added],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [["a", "b"], ["ab", "c"]],
            },
        }
    )  # fmt: skip


def hugging(change):
    document = json.loads(huggingface_text())
    change(document)
    return json.dumps(document)


def bpe(**values):
    return hugging(lambda d: d["model"].update(values))


def table(**ids):
    return hugging(lambda d: d["model"]["vocab"].update(ids))


def rename(table, old, new):
    table[new] = table.pop(old)


def instead(old, new):
    """With another entry in an entry's place; "zz" is one that no merge makes."""

    def change(document):
        table = document["model"]["vocab"]
        table["zz"] = 258
        rename(table, old, new)
        for i, one in enumerate(document["added_tokens"]):
            one["id"] = 259 + i

    return hugging(change)


def added(i=0, **values):
    return hugging(lambda d: d["added_tokens"][i].update(values))


HUGGINGFACE = [
    Case("another version", hugging(lambda d: d.update(version="2.0")), "version must be '1.0', got '2.0'"),
    Case("a model that is null", hugging(lambda d: d.update(model=None)), "model must be an object"),
    Case("a model of another kind", bpe(type="Unigram"), r"model\.type .*Unigram"),
    Case("bytes for what is unknown", bpe(byte_fallback=True), r"model\.byte_fallback .*True"),
    Case("dropout", bpe(dropout=0.1), r"model\.dropout .*0\.1"),
    Case("a table that is an array", bpe(vocab=[]), r"model\.vocab must be an object"),
    Case("no table", hugging(lambda d: d["model"].pop("vocab")), r"model\.vocab must be an object"),
    Case("a byte missing", hugging(lambda d: rename(d["model"]["vocab"], "!", "zz")), "none for b'!'"),
    Case("an id twice", table(abc=256), "256"),
    Case("a negative id", table(abc=-1), "-1"),
    Case("an id of 2^31", table(abc=1 << 31), "2147483648"),
    Case("an id of 2^32", table(abc=1 << 32), "4294967296"),
    Case("an id of 2^63", table(abc=1 << 63), "9223372036854775808"),
    Case("an id of 1e400", table(abc=1.5).replace("1.5", "1e400"), "inf"),
    Case("an id that is a text", table(abc="257"), "'257'"),
    Case("an id that is true", table(abc=True), "True"),
    Case("an empty token", instead("zz", ""), "empty|''"),
    Case("a token in other letters", instead("zz", "a b"), "'a b'"),
    Case("merges that are an object", bpe(merges={}), r"model\.merges must be an array"),
    Case("a merge of one", bpe(merges=["ab"]), r"merges\[0\]"),
    Case("a merge of three", bpe(merges=[["a", "b", "c"]]), r"merges\[0\]"),
    Case("a merge of numbers", bpe(merges=[[97, 98]]), r"merges\[0\]"),
    Case("a merge of no token", bpe(merges=[["a", "zz"]]), r"merges\[0\]"),
    Case("a merge that makes no token", bpe(merges=[["b", "a"]]), "merge"),
    Case("a merge twice", bpe(merges=[["a", "b"], ["a", "b"]]), "merge"),
    Case(
        "added tokens that are an object", hugging(lambda d: d.update(added_tokens={})), "added_tokens must be an array"
    ),
    Case("an added token that is a text", hugging(lambda d: d.update(added_tokens=["<s>"])), r"added_tokens\[0\]"),
    Case("an empty added token", added(content=""), "empty|''"),
    Case("an added token with a token's id", added(id=97), "97|'a'"),
    Case("an added token with a negative id", added(id=-1), "-1"),
    Case("an added token with an id of 2^63", added(id=1 << 63), "9223372036854775808"),
    Case("an added token without an id", hugging(lambda d: d["added_tokens"][0].pop("id")), r"added_tokens\[0\]"),
    Case(
        "a pre-tokenizer of another kind", hugging(lambda d: d.update(pre_tokenizer={"type": "Metaspace"})), "Metaspace"
    ),
    Case("a pre-tokenizer that is a text", hugging(lambda d: d.update(pre_tokenizer="ByteLevel")), "pre_tokenizer"),
    Case("a normalizer of another kind", hugging(lambda d: d.update(normalizer={"type": "Lowercase"})), "Lowercase"),
    Case("a decoder of another kind", hugging(lambda d: d.update(decoder={"type": "WordPiece"})), "WordPiece"),
    Case("what it is when nothing is wrong", huggingface_text(), None),
    *broken_json(huggingface_text(), "version"),
]


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def packed(*changes, count=None, version=3):
    """A file with all fields; a change is a name and its bytes, None for none."""
    tokens = [*map(spell, BYTES), "ab", "abc", "<s>"]
    fields = {
        "model": gguf_text("gpt2"),
        "pre": gguf_text("gpt-2"),
        "tokens": texts(tokens),
        "token_type": struct.pack("<IIQ", 9, 5, 259) + struct.pack("<259i", *[1] * 258, 3),
        "merges": texts(["a b", "ab c"]),
    } | dict(changes)
    kept = [gguf._string(f"tokenizer.ggml.{key}") + value for key, value in fields.items() if value is not None]
    head = struct.pack("<4sIQQ", b"GGUF", version, 0, len(kept) if count is None else count)
    return head + b"".join(kept)


def gguf_text(text):
    return struct.pack("<I", 8) + gguf._string(text)


def texts(values):
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(gguf._string, values))


def array(kind, count):
    return struct.pack("<IIQ", 9, kind, count)


GGUF = [
    Case("its first four bytes alone", b"GGUF", "24 bytes must follow byte 0, got 4"),
    Case("version 1", packed(version=1), "must be a GGUF file of version 2 or 3"),
    Case("the bytes of another machine", packed(version=3 << 24), "writes the greatest byte first"),
    Case("2^64 - 1 fields", packed(count=(1 << 64) - 1), "must hold at most 4096 fields"),
    Case("a field more than there are", packed(count=6), "8 bytes must follow byte"),
    Case("cut in the middle", packed()[:2000], "must follow byte"),
    Case("a name of 2^63 bytes", struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 63), "9223372036854775808 bytes must"),
    Case(
        "a name that is no UTF-8", struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"\xff", "a field's name must be UTF-8"
    ),
    Case("a field twice", packed(count=6) + gguf._string("tokenizer.ggml.pre") + gguf_text("x"), "must stand once"),
    Case("a type of 99", packed(("x", struct.pack("<I", 99))), "must be of a type from 0 to 12, got 99"),
    Case("an array of 2^64 - 1 bytes", packed(("x", array(0, (1 << 64) - 1))), "bytes must follow byte"),
    Case("an array of 2^62 numbers of 4 bytes", packed(("x", array(5, 1 << 62))), "bytes must follow byte"),
    Case("an array of 2^61 strings", packed(("x", array(8, 1 << 61))), "bytes must follow byte"),
    Case("an array of arrays", packed(("x", array(9, 1))), "must be an array of strings or numbers, got 9"),
    Case("an array of arrays, 100 deep", packed(("x", array(9, 1) * 100)), "must be an array of strings or numbers"),
    Case(
        "five million empty strings",
        later(lambda: packed(("x", array(8, 5_000_000) + bytes(40_000_000)))),
        "at most 1048576 strings",
    ),
    Case("a sentencepiece vocabulary", packed(("model", gguf_text("llama"))), "model must be 'gpt2', .* got 'llama'"),
    Case("no model", packed(("model", None)), "model must be a string, got nothing"),
    Case("a model that is a number", packed(("model", struct.pack("<II", 4, 7))), "model must be a string, got 7"),
    Case("no pre-tokenizer", packed(("pre", None)), "pre must be a string, got nothing"),
    Case("an unknown pre-tokenizer", packed(("pre", gguf_text("../x"))), r"pre must be one of .*, got '\.\./x'"),
    Case("no tokens", packed(("tokens", None)), "tokens must be an array, got nothing"),
    Case("tokens that are numbers", packed(("tokens", array(0, 259) + bytes(259))), r"tokens\[0\] must be a text"),
    Case("a token twice", packed(("tokens", texts([*map(spell, BYTES), "ab", "ab", "<s>"]))), r"tokens\[257\] must st"),
    Case("an empty token", packed(("tokens", texts([*map(spell, BYTES), "ab", "", "<s>"]))), r"tokens\[257\] must be"),
    Case("a token in other letters", packed(("tokens", texts([*map(spell, BYTES), "ab", " ", "x"]))), r"tokens\[257\]"),
    Case("a byte missing", packed(("tokens", texts(["xy", *map(spell, BYTES[1:]), "ab", "abc", "<s>"]))), "missing b'"),
    Case(
        "types for fewer tokens", packed(("token_type", array(5, 1) + bytes(4))), "token_type must be an array of 259"
    ),
    Case("a type of a token that is none", packed(("token_type", array(5, 259) + b"\xff" * 1036)), "of the type 1, 2"),
    Case("no merges", packed(("merges", None)), "merges must be an array, got nothing"),
    Case("a merge of one", packed(("merges", texts(["ab"]))), r"merges\[0\] must be two tokens"),
    Case("a merge of no token", packed(("merges", texts(["a zz"]))), r"merges\[0\] must be two tokens"),
    Case("a merge that makes no token", packed(("merges", texts(["b a"]))), "a merge must make a token"),
    Case("a merge twice", packed(("merges", texts(["a b", "a b"]))), "a merge must stand once"),
    Case(
        "a special token that merges", packed(("tokens", texts([*map(spell, BYTES), "ab", "Ġa", " a"]))), "also merge"
    ),
    Case("a gigabyte of weights behind", sparse(packed()), None),
]


# ---- plugins --------------------------------------------------------------------------------------------------------


def module(change, ranks=None, pattern="gpt2", special_tokens=None):
    """Writes a plugin whose module was changed, with its ranks beside it."""
    ranks = lines() if ranks is None else ranks

    def write(path):
        name = path.stem
        pattern_text = bpetok.patterns.resolve(pattern).regex if pattern == "gpt2" else pattern
        source = plugin._module(name, pattern_text, special_tokens or {}, hashlib.sha256(ranks).hexdigest())
        path.write_text(change(source), encoding="utf-8")
        path.with_suffix(".tiktoken").write_bytes(ranks)

    return write


def same(source):
    return source


def replacing(old, new):
    return lambda source: source.replace(old, new, 1)


PLUGIN = [
    Case(
        "another's code", "import os\nENCODING_CONSTRUCTORS = {'x': os.abort}\n", "must hold NAME, PATTERN and SHA256"
    ),
    Case("a line more", module(lambda source: source + "import os\n"), "must be a module as bpetok writes it"),
    Case("a name that is a path", module(replacing("NAME = '", "NAME = '../")), "as bpetok writes it|that of the file"),
    Case("a name that is code", module(replacing("NAME = '", "NAME = str() + '")), "NAME must be a literal"),
    Case("a name that is a number", module(replacing("NAME = '", "NAME = 5 #")), "must hold NAME, PATTERN and SHA256"),
    Case("no checksum", module(replacing("SHA256 = ", "SHA = ")), "must hold NAME, PATTERN and SHA256"),
    Case(
        "special tokens that are a list",
        module(replacing("TOKENS = {", "TOKENS = [] #")),
        "must be texts and their ids",
    ),
    Case("a checksum that is none", module(replacing("SHA256 = '", "SHA256 = '\\ud800")), "64 hexadecimal digits"),
    Case("half of a surrogate pair", module(replacing("PATTERN = ", "PATTERN = '\\ud83d' ")), "half of a surrogate"),
    Case("parentheses 100,000 deep", module(replacing("NAME = ", "NAME = " + "(" * 100_000)), "NAME must be a literal"),
    Case("a sum 100,000 long", module(replacing("NAME = ", "NAME = " + "-" * 100_000)), "NAME must be a literal"),
    Case("an id of 2^63", module(same, special_tokens={"<s>": 1 << 63}), "an id must be in 0 to 16777214"),
    Case("an empty special token", module(same, special_tokens={"": 300}), "must not be empty"),
    Case("a special token that merges", module(same, special_tokens={"a": 300}), "must not also merge"),
    Case("a pattern that does not compile", module(same, pattern="("), "does not compile"),
    Case("a pattern of 100,000 characters", module(same, pattern="a|" * 50_000), "at most 65536 characters"),
    Case("ranks with a byte missing", module(same, ranks=lines(BYTES[1:])), r"missing b'\\x00'"),
    Case(
        "ranks with a token twice", module(same, ranks=lines() + b"AA== 256\n"), r"\.tiktoken:257: a token must stand"
    ),
    Case("three megabytes", module(lambda source: source + "#" * 3_000_000), "must be at most 2097152 bytes"),
    Case("a gigabyte", sparse('"""An encoding for tiktoken, written by bpetok.\n'), "must be at most 2097152 bytes"),
    Case("what it is when nothing is wrong", module(same, special_tokens={"<s>": 300}), None),
]


# ---- what is none of these ------------------------------------------------------------------------------------------


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


OTHERS = [
    Case("an empty file", b"", "another known format, got an empty file"),
    Case("a text", "hello world\n", "another known format, got a file that begins with b'hello world"),
    Case("NUL, a gigabyte of it", sparse(b""), "another known format"),
    Case("a pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93.", "a pickle, which"),
    Case("a pickle of the oldest kind", b"cos\nsystem\n(S'true'\ntR.", "another known format"),
    Case("a zip file", b"PK\x03\x04" + bytes(40), "a zip file"),
    Case("a gzip file", b"\x1f\x8b\x08" + zlib.compress(lines()), "a gzip file"),
    Case(
        "a sentencepiece model",
        b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x0c\n\x03<s>\x15\0\0\0\0\x18\x03",
        "sentencep",
    ),
    Case("safetensors", struct.pack("<Q", 16) + b'{"__metadata__":', "safetensors"),
    Case("weights of llama.cpp's old kind", b"tjgg\x03\x00\x00\x00" + bytes(100), "another known format"),
    Case("a program", b"\x7fELF" + bytes(100), "another known format"),
    Case("JSON of something else", '{"name": "x", "a": [1, 2, 3]}', "another known format"),
    Case("a JSON array", "[1, 2, 3]", "another known format"),
    Case("GPT-2's encoder.json", json.dumps({spell(byte): i for i, byte in enumerate(BYTES)}), "another known format"),
    Case("GPT-2's vocab.bpe", "#version: 0.2\nĠ t\nĠ a\n", "another known format"),
    Case("a pipe that nobody writes to", pipe, "got a pipe or a device"),
    Case("a device that never ends", device, "got a pipe or a device"),
    Case("an empty folder", folder, "a tokenizer's folder must hold one of"),
]

FORMATS = {
    "native": (NATIVE, "x.bpetok"),
    "ranks": (RANKS, "x.tiktoken"),
    "minbpe": (MINBPE, "x.model"),
    "tekken": (TEKKEN, "tekken.json"),
    "huggingface": (HUGGINGFACE, "tokenizer.json"),
    "gguf": (GGUF, "x.gguf"),
    "plugin": (PLUGIN, "x.py"),
    "others": (OTHERS, "x"),
}
ALL = [
    pytest.param(name, i, id=f"{name}: {case.name}")
    for name, (cases, _) in FORMATS.items()
    for i, case in enumerate(cases)
]

READER = """
import json, resource, sys, time
from pathlib import Path
import bpetok
from bpetok import formats

limit = int(sys.argv[1]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for line in sys.stdin:
    case = json.loads(line)
    start = time.process_time()
    try:
        formats.read(Path(case["path"]), **(case["arguments"] or {}))
        result = ["", "", ""]
    except BaseException as error:
        typed = isinstance(error, bpetok.BpetokError)
        result = [type(error).__name__, str(error)[:4000], "typed" if typed else ""]
        del error
    print(json.dumps([*result, time.process_time() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each case of a format: the error's class and message, "typed" if it is ours, and the seconds."""

    @cache
    def of(name):
        cases, file_name = FORMATS[name]
        top = tmp_path_factory.mktemp(name)
        paths, orders = [], []
        for i, case in enumerate(cases):
            (top / str(i)).mkdir()
            paths.append(path := top / str(i) / file_name)
            put(case.contents, path)
            orders.append(json.dumps({"path": str(path), "arguments": case.arguments}))
        done = subprocess.run(
            [sys.executable, "-c", READER, str(MEGABYTES)],
            input="\n".join(orders), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        shutil.rmtree(top)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) == len(cases), f"the reader died at {cases[len(results)].name!r}: {done.stderr[-2000:]}"
        return list(zip(paths, results, strict=True))

    return of


def put(contents, path):
    if callable(contents):
        contents(path)
    else:
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(("name", "i"), ALL)
def test_a_strangers_file_is_refused_by_a_typed_error_in_time(outcomes, name, i):
    case = FORMATS[name][0][i]
    path, (kind, message, typed, seconds) = outcomes(name)[i]
    assert seconds < SECONDS, f"{seconds:.1f} s for {kind}: {message:.200}"
    if case.match is None:
        assert not kind, f"must load, got {kind}: {message:.400}"
        return
    assert kind, "must be refused, but was read"
    assert typed, f"must be one of bpetok's errors, got {kind}: {message:.400}"
    assert path.stem in message and str(path.parent) in message, f"must name the file, got {message:.400}"
    assert re.search(case.match, message), f"must say {case.match!r}, got {message:.400}"


def test_there_are_many_cases_and_each_has_a_name_of_its_own():
    names = [f"{name}: {case.name}" for name, (cases, _) in FORMATS.items() for case in cases]
    refused = [case for cases, _ in FORMATS.values() for case in cases if case.match is not None]
    assert len(set(names)) == len(names)
    assert len(refused) >= 110
