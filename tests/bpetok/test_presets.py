"""Patterns of other published tokenizers run on the core's scanners, and are the functions that they are spelled as."""

import random

import pytest

from bpetok import _core, patterns

WORDS = [
    "a",
    "ab",
    "A",
    "AB",
    "Ab",
    "é",
    "É",
    "ſ",
    "中文",
    "ʰ",
    "ǅ",
    "ไทย",
    "\u0301",
    "\u093f",
    "'s",
    "'S",
    "'ſ",
    "'ll",
    "'Re",
]
OTHERS = [
    "1",
    "12",
    "1234567",
    "²",
    "٣",
    "!",
    "?!",
    "'",
    "/",
    "//",
    "—",
    "🙂",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
]
BORDER = "words that fill a block of the scanner, all but a little: "
NEW = sorted(set(patterns.SPELLINGS) - {"gpt2", "gpt4", "gpt4o"})
TEXTS = 1500


@pytest.fixture(scope="module")
def texts():
    draw = random.Random("presets")
    made = []
    for _ in range(TEXTS):
        units = draw.choices(WORDS + OTHERS, k=draw.randint(2, 6))
        text = "".join(draw.choices(units, k=draw.randint(1, 12)))
        made.append(draw.choice(["", BORDER[: draw.randint(50, 58)]]) + text + draw.choice(["", "", " \n ", "  "]))
    return made


@pytest.mark.parametrize("name", NEW)
def test_a_preset_is_cut_as_the_regex_module_cuts_its_spelling(texts, name):
    expression = patterns.compile_regex(patterns.SPELLINGS[name])
    for text in texts:
        pieces = [len(piece.encode()) for piece in patterns.cut(expression, text)]
        ends = [sum(pieces[: i + 1]) for i in range(len(pieces))]
        assert _core.pretoken_ends(name, text).tolist() == ends, text


@pytest.mark.parametrize("name", NEW)
def test_a_preset_has_tiktokens_ids(tier, twins, texts, name):
    ours, theirs = twins("narrow pairs", name)
    assert ours.vocab.split.scanner == name
    assert ours.encode_ordinary_batch(texts) == [theirs.encode_ordinary(text) for text in texts]


@pytest.mark.parametrize("spelling", patterns.OTHER_SPELLINGS)
def test_another_spelling_is_the_same_function(texts, spelling):
    named = patterns.resolve(spelling)
    assert named.name == patterns.OTHER_SPELLINGS[spelling]
    one, other = patterns.compile_regex(spelling), patterns.compile_regex(named.regex)
    assert one.pattern != other.pattern
    for text in texts:
        assert patterns.cut(one, text) == patterns.cut(other, text), text


def test_presets_differ_from_each_other(texts):
    cuts = {}
    for name in patterns.SPELLINGS:
        cuts.setdefault(tuple(tuple(_core.pretoken_ends(name, text)) for text in texts), []).append(name)
    assert [names for names in cuts.values() if len(names) > 1] == []
