"""The split patterns: names, spellings, and that nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import patterns


@pytest.mark.parametrize(
    ("name", "scanner"),
    [
        ("gpt2", "gpt2"),
        ("r50k_base", "gpt2"),
        ("p50k_base", "gpt2"),
        ("p50k_edit", "gpt2"),
        ("gpt4", "gpt4"),
        ("cl100k", "gpt4"),
        ("cl100k_base", "gpt4"),
        ("gpt4o", "gpt4o"),
        ("o200k", "gpt4o"),
        ("o200k_base", "gpt4o"),
        ("o200k_harmony", "gpt4o"),
        ("none", "none"),
        (None, "none"),
    ],
)
def test_a_name_stands_for_its_scanner(name, scanner):
    assert patterns.resolve(name).scanner == scanner


@pytest.mark.parametrize(
    ("name", "encoding_name"), [("gpt2", "r50k_base"), ("gpt4", "cl100k_base"), ("gpt4o", "o200k_base")]
)
def test_the_spelling_is_the_one_of_tiktoken(tiktoken_encoding, name, encoding_name):
    assert patterns.resolve(name).regex == tiktoken_encoding(encoding_name)._pat_str


@pytest.mark.parametrize("name", patterns.SPELLINGS)
def test_the_exact_spelling_is_recognised_and_no_other(name):
    named = patterns.resolve(name)
    assert patterns.resolve(named.regex) is named
    assert patterns.resolve(f"(?:{named.regex})").scanner is None
    assert str(named) == name


def test_any_other_expression_is_left_to_the_regex_module():
    pattern = patterns.resolve(r"\w+|\W")
    assert (pattern.scanner, pattern.name, pattern.unicode_version) == (None, None, "regex module")
    assert str(pattern) == r"\w+|\W"
    assert str(patterns.resolve(None)) == "none"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("gtp4", "did you mean 'gpt4'"), ("zzzzzzzz", "the names are gpt2, gpt4, gpt4o, llama3"), ("", "")],
)
def test_what_looks_like_a_name_but_is_none_is_refused(wrong, hint):
    with pytest.raises(
        bpetok.PatternError, match=f"must be a known name or a regular expression, got '{wrong}'"
    ) as caught:
        patterns.resolve(wrong)
    assert hint in caught.value.hint


@pytest.mark.parametrize("wrong", ["(", "[a-", "a{2,1}", r"\p{Nope}", "(?P<x>a)(?P=y)"])
def test_an_expression_that_does_not_compile_is_refused(wrong):
    with pytest.raises(bpetok.PatternError, match="does not compile"):
        patterns.resolve(wrong)


def test_an_expression_that_searches_backwards_is_refused():
    with pytest.raises(bpetok.PatternError, match="must not search backwards") as caught:
        patterns.resolve(r"(?r)\w+")
    assert caught.value.hint == "leave out (?r)"


EXPRESSIONS = [r"\w+", r"[a-z]", r"\b", r"(?=a)", r"a*", r"(?<=a)b", r"\p{Lu}", r"a\Kb", r"(a)|(b)", r"$"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(text=st.text("abAB1 \n", max_size=12))
def test_text_that_an_expression_skips_is_not_lost(expression, text):
    pieces = patterns.cut(patterns.compile_regex(expression), text)
    assert "".join(pieces) == text
    assert "" not in pieces


def test_skipped_text_is_a_pretoken_of_its_own():
    assert patterns.cut(patterns.compile_regex(r"\d"), "ab12cd") == ["ab", "1", "2", "cd"]


@pytest.mark.parametrize("name", patterns.SPELLINGS)
def test_pinned_letters_are_those_of_the_core(name):
    # U+1C89 and U+1C8A are a capital and a small letter since Unicode 16.0 (tiktoken 0.14 knows them).
    expression = patterns.pinned(patterns.resolve(name))
    assert patterns.cut(expression, "a\u1c8ab") == ["a\u1c8ab"]


def test_an_expression_of_the_users_own_is_not_pinned():
    pattern = patterns.resolve(r"\p{L}+")
    assert patterns.pinned(pattern).pattern == r"\p{L}+"
