"""What an expression means to `tokenizers` is what it means here, or it is refused."""

import random
import time

import pytest

from bpetok import FormatError, _core, patterns, reference
from bpetok.formats import oniguruma, probe

tokenizers = pytest.importorskip("tokenizers")

ALPHABET = "aAǅʰ中\u0301\u09031²٣ \t\u00a0\n\r\u0085\u2028\u3000'sſtlLrRevVEdDmM!/_🙂\ufeff\u200d\u0345ßKİı"
PIECES = [
    "'s",
    "'S",
    "'ſ",
    "'ll",
    "'LL",
    "'Re",
    "'vE",
    "  ",
    "\r\n",
    "ABC",
    "abc",
    "ʰA",
    "123",
    "12",
    "1234567",
    "\n\n",
]
EVERY_CHARACTER = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]

NAMED = [(spelling, name) for name, spelling in oniguruma.SPELLINGS.items()]
NAMED += [(spelling, name) for spelling, name in patterns.OTHER_SPELLINGS.items()]
OTHERS = [  # DeepSeek's, and one of each thing that is allowed
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s+$",
    r"\s++$|.|\n",
    "[一-龥ࠀ-一가-퟿]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?[^\s]+|\s+",
    r"(?:a|b)?c|(?=\S).|(?>\s+)x|\s",
    r"\d{2}|\s+?\S|[^\u0041-\u005a\x61-\x7a]++|[A-Za-z]",
    r".$|\p{Han}+|\P{Latin}",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chosen = random.Random("oniguruma")

    def one() -> str:
        kind = chosen.random()
        if kind < 0.5:
            return chosen.choice(ALPHABET)
        if kind < 0.8:
            return chosen.choice(PIECES)
        return chosen.choice(ALPHABET) * chosen.randrange(2, 9) if kind < 0.93 else chosen.choice(EVERY_CHARACTER)

    return ["".join(one() for _ in range(chosen.randrange(1, 25))) for _ in range(700)]


@pytest.fixture(scope="module")
def many_characters() -> list[str]:
    """Many code points, each between others that show where a text is cut."""
    some = [char for i, char in enumerate(EVERY_CHARACTER) if i < 0x1000 or i % 97 == 0]
    return ["".join(f"a{c}b 1{c}2 !{c}? '{c} {c}{c}\n" for c in some[i : i + 7]) for i in range(0, len(some), 7)]


@pytest.mark.parametrize(("spelling", "name"), NAMED, ids=[f"{name}: {spelling[:20]}" for spelling, name in NAMED])
def test_a_spelling_of_a_named_pattern_cuts_as_the_pattern(spelling, name, texts, many_characters):
    assert oniguruma.translated(spelling, "here") == name == oniguruma.named(spelling)
    cut = oniguruma.splitter(spelling, "here")
    for text in (*texts, *many_characters):
        data = text.encode()
        ends = _core.pretoken_ends(name, data).tolist()
        assert cut(text) == [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)], text


@pytest.mark.parametrize("expression", OTHERS)
def test_an_expression_that_is_not_refused_cuts_as_it_does_in_tokenizers(expression, texts):
    here = oniguruma.translated(expression, "here")
    cut = oniguruma.splitter(expression, "here")
    for text in (*texts, *probe.TEXTS):
        assert cut(text) == [piece.decode() for piece in reference.split(here, text)], text
    assert oniguruma.translated(here, "here") == here, "what is read can be written"


@pytest.mark.parametrize(
    "member", [r"\p{L}", r"\p{Lu}", r"\p{M}", r"\p{N}", r"\p{P}", r"\p{S}", r"\p{Han}", r"\s", r"\d"]
)
def test_a_class_holds_the_same_characters(member):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(member), "contiguous")
    text = "".join(EVERY_CHARACTER[:0x33000]) + "".join(EVERY_CHARACTER[0x33000::101])
    runs = [piece for piece, _ in split.pre_tokenize_str(text)]
    assert runs == [run.group() for run in patterns.compile_regex(f"{member}+|[^{member}]+").finditer(text)]


# fmt: off
REFUSED = [
    (patterns.SPELLINGS["gpt4"], "with intervals of single characters"),  # a possessive interval is a repeat there
    (r"\p{N}{1,3}+", "with intervals of single characters"), (r"a{2}?", "with intervals"), (r"a{,3}", "with intervals"),
    (r"a{2}{3}", "with intervals"), (r"(ab){2}", "with intervals"),
    (r"\w+", "whose escapes mean the same"), (r"\h", "whose escapes"), (r"\R", "whose escapes"), (r"\bfoo", "whose e"),
    (r"\Aa", "whose escapes"), (r"a\z", "whose escapes"), (r"\x85", "whose escapes"), (r"(a)\1", "whose escapes"),
    (r"\p{Lowercase}", "whose escapes"), (r"\pL", "whose escapes"), (r"\p{^L}", "whose escapes"), ("\\", "whose e"),
    (r"^a", "whose signs are escaped"), (r"*a", "whose signs"), (r"a]", "whose signs"), (r"}", "whose signs"),
    (r"[[:alpha:]]+", "without sets in sets"), (r"[a&&b]", "without sets in sets"), (r"[ab--c]", "with ranges"),
    (r"[^(\s|[.,!?])]+", "without sets in sets"),  # BLOOM's
    (r"[", "with a bracket that closes"), (r"[a", "with a bracket that closes"), (r"[]a]", "with no empty set"),
    (r"[z-a]", "with ranges from a lower"), (r"[\s-a]", "with ranges"), (r"[a-\d]", "with ranges"),
    (r"(?i:abc)", "whose groups are"), (r"(?<=a)b", "whose groups"), (r"(?<!a)b", "whose groups"), (r"(?m)a", "whose"),
    (r"(?P<n>a)", "whose groups"), (r"(?#c)a", "whose groups"), (r"(?R)", "whose groups"),
    (r"(a", "with a bracket that closes each group"), (r"a)", "with a group for each bracket"),
    (r"(a+)+b", "in which a group is at most made optional"), (r"(?:a|a)*b", "in which a group"),
    (r"a**", "with one quantifier at a time"), (r"a+++", "with one quantifier"), (r"$+a", "that repeats nothing"),
    (r"(?=a)*b", "that repeats nothing"), (r"(?!a){2}b", "that repeats nothing"),
    (r"", "that never matches the empty text"), (r"a*", "that never matches"), (r"a|", "that never matches"),
    (r"(?=a)", "that never matches"), (r"$", "that never matches"), (r"a{0,3}", "that never matches"),
    (r"\s*\s*\s*\s*x", "with fewer ways to match"), (r"\s?" * 30 + "x", "with fewer"), (r"\s{0,99}" * 5 + "x", "with"),
    ("(?:a|a)" * 30 + "x", "with fewer ways"), (r"(?=\s*\s*\s*\s*x)x", "with fewer"), (r"a{3,2}", "with intervals"),
    ("(" * 50 + "a" + ")" * 50, "with at most 16 groups"), ("a" * 9000, "of at most 8192 characters, got 9000"),
]
# fmt: on


@pytest.mark.parametrize(("expression", "match"), REFUSED)
def test_what_could_mean_something_else_is_refused_by_name(expression, match):
    with pytest.raises(FormatError, match=r"f\.json: pattern must be an expression .*" + match):
        oniguruma.translated(expression, "f.json: pattern")


def test_the_possessive_interval_of_gpt4_means_something_else_in_oniguruma():
    assert oniguruma.splitter(patterns.SPELLINGS["gpt4"], "here")("1234567") == ["1234567"]
    assert oniguruma.splitter(oniguruma.SPELLINGS["gpt4"], "here")("1234567") == ["123", "456", "7"]


def test_the_proof_finds_an_expression_that_is_another_function():
    with pytest.raises(FormatError, match=r"here must cut .* as here, into '١٢٣', got '١٢٣٤٥'"):
        oniguruma.prove(r"\p{N}+|\P{N}+", r"\p{N}{1,3}|\P{N}+", "here")
    with pytest.raises(FormatError, match=r"here must be an expression that tokenizers takes, got: .*Oniguruma error"):
        oniguruma.prove("(", "a", "here")


def test_an_expression_that_backtracks_for_long_is_refused_soon():
    start = time.perf_counter()
    with pytest.raises(FormatError, match="here must cut a page of text within a second"):
        oniguruma.prove(r"[\s\S]*[\s\S]*[\s\S]*\p{Cn}|.|\n", r"[\s\S]*[\s\S]*[\s\S]*\p{Cn}|.|\n", "here")
    assert time.perf_counter() - start < 8


def test_an_expression_on_which_oniguruma_gives_up_is_refused():
    with pytest.raises(FormatError, match=r"here must be an expression that Oniguruma can run, got: .*retry-limit"):
        oniguruma.splitter(r"[\s\S]*[\s\S]*\p{Cn}|.|\n", "here")("ab c\n" * 1500)
