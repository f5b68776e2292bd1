"""File names of two lists: which fit, which of several fits best, and which are ambiguous."""

import unicodedata

import pytest

from kdlib.inputs.names import ABSENT, SEVERAL, Names

NAMES = ["a/7.jpg", "b/7.jpg", "c/sub/8.png", "9.jpg", "x.y.jpg", "gar\u00e7on.jpg", "no_suffix", ".hidden"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("a/7.jpg", 0),
        ("./a/7.jpg", 0),
        ("b\\7.jpg", 1),
        ("data/set/b/7.jpg", 1),
        ("C:\\data\\b\\7.jpg", 1),
        ("https://example.org/data/9.jpg", 3),
        ("/abs/9.jpg", 3),
        ("8.png", 2),
        ("sub/8.png", 2),
        ("8", 2),
        ("sub/8", 2),
        ("b/7", 1),
        ("other/9", 3),
        ("x.y", 4),
        (unicodedata.normalize("NFD", "gar\u00e7on.jpg"), 5),
        ("no_suffix", 6),
        (".hidden", 7),
        ("7.jpg", SEVERAL),
        ("7", SEVERAL),
        ("d/7.jpg", ABSENT),
        ("d/sub/8.png", ABSENT),
        ("c/8.png", ABSENT),
        ("8.jpg", ABSENT),
        ("09.jpg", ABSENT),
        ("x", ABSENT),
        ("", ABSENT),
        ("jpg", ABSENT),
    ],
)
def test_the_best_fit_is_found(name, row):
    assert Names(NAMES).find(name) == row


def test_the_same_path_wins_over_longer_and_shorter_ones():
    names = Names(["7.jpg", "a/7.jpg", "b/a/7.jpg", "7.jpg.png"])
    assert [names.find(name) for name in ("7.jpg", "a/7.jpg", "b/a/7.jpg", "c/7.jpg", "7.jpg.png")] == [0, 1, 2, 0, 3]


def test_two_spellings_of_one_name_are_told_apart_by_their_bytes_alone():
    composed, decomposed = "\u00e9.jpg", "e\u0301.jpg"
    names = Names([composed, decomposed])
    assert [names.find(composed), names.find(decomposed), names.find("\u00e9")] == [0, 1, SEVERAL]


def test_the_same_path_is_meant_with_or_without_suffix():
    names = Names(NAMES)
    assert [names.same_path(0, name) for name in ("a/7.jpg", "a\\7", "7.jpg", "c/a/7.jpg")] == [
        True,
        True,
        False,
        False,
    ]
