"""A URL where a store is to be written is refused before any work, with the commands that get the store there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import cache
from cache.__main__ import main as cache_main
from cache.commands.convert import convert_store
from cache.commands.pull import pull_store
from cache.files.location import local_target
from precompute.__main__ import main as precompute_main
from tests.support.stores import small as small_store


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, beside a store and its archive."""
    small_store.make(tmp_path / "s.zarr")
    assert cache_main(["pack", str(tmp_path / "s.zarr"), str(tmp_path / "s.zip")]) == 0
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


PRECOMPUTE = "precompute --data nowhere --teacher hrnet_w32 --store"


@pytest.mark.parametrize(
    ("command", "url", "then"),
    [
        (PRECOMPUTE, "s3://team/coco/train.zarr", "python -m cache push train.zarr s3://team/coco/train.zarr"),
        (f"{PRECOMPUTE}=", "hf://datasets/me/x/v.h5", "python -m cache push v.h5 hf://datasets/me/x/v.h5"),
        (f"{PRECOMPUTE.replace('--data', '--dry-run --data')}", "gs://b/train.zarr", None),
        (f"{PRECOMPUTE.replace('--data', '--resume --data')}", "https://h/train.zarr", None),
        (PRECOMPUTE, "abfs://b/stores", None),
        ("cache convert ../s.zarr", "s3://b/s.h5", "python -m cache push s.h5 s3://b/s.h5"),
        ("cache pull ../s.zarr", "s3://b/stores", "python -m cache push NAME.zarr s3://b/stores"),
        ("cache pull ../s.zarr --limit 5", "s3://b/p.zarr", "python -m cache push p.zarr s3://b/p.zarr"),
        ("cache pack ../s.zarr", "hf://datasets/me/x/s.zip", "python -m cache push s.zip hf://datasets/me/x/s.zip"),
        ("cache unpack ../s.zip", "webdav://h/s.zarr", None),
    ],
)
def test_a_url_is_refused_with_the_two_commands(here, capsys, command, url, then):
    words = [*shlex.split(command)[1:], url]
    if words[-2].endswith("="):
        words[-2:] = [words[-2] + url]
    main = precompute_main if command.startswith("precompute") else cache_main
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {url}: a store is written to a path on this machine: `python -m ")
    assert line.endswith(f", then `{then}`" if then else line.partition(", then copy ")[2])
    assert ("cache push" in line) == bool(then)
    assert not list(here.iterdir())


def test_the_commands_of_the_message_do_what_they_promise(here, capsys):
    """With a path in the place of the URL, because no server is here."""
    assert cache_main(["convert", "../s.zarr", "s3://team/there.h5"]) == 1
    first, second = re.findall(r"`python -m cache ([^`]+)`", capsys.readouterr().err)
    assert cache_main(first.split()) == 0
    assert cache_main(second.replace("s3://team", "..").split()) == 0
    expected = cache.open_store("../s.zarr").manifest["content_sha256"]
    assert cache.open_store("../there.h5").manifest["content_sha256"] == expected


@pytest.mark.parametrize("url", ["s3://me:secret@b/s.zarr?signature=secret", "ftp://me:secret@b/s.zarr?k=secret"])
def test_functions_refuse_urls_as_text_and_as_paths_and_show_no_credentials(here, url):
    for place in (url, Path(url)):
        for write in (small_store.begin, lambda target: pull_store("../s.zarr", target)):
            with pytest.raises(cache.StoreError, match=r"s.zarr.* is written to a path on this machine") as refused:
                write(place)
            assert "secret" not in str(refused.value)
    assert not list(here.iterdir())


def test_paths_and_file_urls_are_paths(here):
    for name in ("a/b.zarr", "/a/b.zarr", "C:/b.zarr", "b:c.zarr", "a/s3:/b.zarr"):
        assert local_target(name) == local_target(Path(name)) == Path(name)
    url = (here / "a b.h5").as_uri()
    assert local_target(url) == here / "a b.h5"
    assert convert_store("../s.zarr", url) == here / "a b.h5"
    again = cache.open_store(Path(url.replace("%20", " ")))
    np.testing.assert_array_equal(again.heatmaps([3]), cache.open_store("a b.h5").heatmaps([3]))
