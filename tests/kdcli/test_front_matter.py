"""The header of cards: PyYAML reads the values that were written."""

import math
import random

import pytest

from kdcli.front_matter import front_matter

yaml = pytest.importorskip("yaml", reason="comes with huggingface_hub")

TEXTS = [
    "no",
    "On",
    "null",
    "1e3",
    "12:30",
    "0x1F",
    "~",
    "",
    "a: b",
    "- x",
    "#x",
    "it's",
    '"q"',
    "\\n",
    "ä→😀",
    "a b ",
    "%",
]


def read(text):
    head, body, rest = text.split("---\n")
    assert (head, rest) == ("", "")
    return yaml.safe_load(body)


@pytest.mark.parametrize("text", [*TEXTS, "keypoint-detection", "true", "inf", "y", "library_name", "2026-01-02"])
def test_a_text_stays_a_text_as_key_and_as_value(text):
    assert read(front_matter({text: text, "x": [text, {text: [text]}]})) == {text: text, "x": [text, {text: [text]}]}


def test_nested_values_are_read_as_they_were_written():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(7 if depth else 5)
        if kind < 5:
            return (rng.choice(TEXTS), rng.randrange(-9, 9), rng.uniform(-1, 1), None, True)[kind]
        size = rng.randrange(4)
        return (
            [value(depth - 1) for _ in range(size)] if kind == 5 else {f"key{i}": value(depth - 1) for i in range(size)}
        )

    for _ in range(200):
        document = {f"top{i}": value(3) for i in range(4)}
        assert read(front_matter(document)) == document


def test_small_and_large_numbers_stay_numbers():
    numbers = {"a": 1e-05, "b": -2e300, "c": 1.5e-7, "d": 3.0, "e": [1e22]}
    assert read(front_matter(numbers)) == numbers


def test_a_line_break_in_a_name_does_not_end_the_header():
    assert read(front_matter({"name": "a\n---\nb\x85c"})) == {"name": "a --- b c"}


def test_a_number_that_json_does_not_have_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        front_matter({"x": math.nan})
