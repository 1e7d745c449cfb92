"""The core's table of character classes."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import regex

from bpetok import _core

CLASSES = {1: r"[\p{Lu}\p{Lt}]", 2: r"\p{Ll}", 3: r"[\p{Lm}\p{Lo}]", 4: r"\p{M}", 5: r"\p{N}", 6: r"\s"}
SURROGATES = range(0xD800, 0xE000)
EVERY_CODE_POINT = range(0x110000)


def code_points_matching(expression):
    text = "".join(map(chr, EVERY_CODE_POINT))
    return {i for match in regex.finditer(f"(?:{expression})+", text) for i in range(*match.span())}


def code_points_of_class(number):
    return {code_point for code_point in EVERY_CODE_POINT if _core.char_class(code_point) == number}


@pytest.mark.parametrize("number", CLASSES)
def test_every_code_point_has_the_class_that_unicode_16_gives_it(number):
    if version("regex") != "2024.11.6" and number not in (4, 5, 6):
        pytest.skip(f"letters of Unicode 16.0 need regex 2024.11.6, installed is {version('regex')}")
    assert code_points_of_class(number) == code_points_matching(CLASSES[number])


def test_every_code_point_that_no_class_claims_is_other():
    assert {_core.char_class(code_point) for code_point in EVERY_CODE_POINT} == set(range(7))
    assert {_core.char_class(code_point) for code_point in SURROGATES} == {0}


@pytest.mark.parametrize(("number", "char"), list(enumerate("!Aaʰ\u03011 ")))
def test_known_characters_have_their_class(number, char):
    assert _core.char_class(ord(char)) == number


def test_the_letter_with_a_small_second_half_is_a_capital():
    assert _core.char_class(ord("ǅ")) == 1  # U+01C5, Lt


@pytest.mark.parametrize("number", [0x110000, 0x200000, 2**32 - 1])
def test_a_number_above_the_last_code_point_has_no_class(number):
    # Run in a process of its own: reading past the end of the table may end it.
    code = f"from bpetok import _core\ntry: print(_core.char_class({number}))\nexcept ValueError: print('refused')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("0", "refused"), f"read past the table: exit {done.returncode}, {done.stdout}"


def test_the_table_names_its_unicode_version():
    assert _core.unicode_version == "16.0"
