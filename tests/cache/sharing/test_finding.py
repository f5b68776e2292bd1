"""`cache list`: every store below a place is listed once, with its facts, or with the reason why it cannot be used."""

import json
import os
import shutil

import pytest

import cache
from cache.__main__ import main
from cache.commands.convert import convert_store
from cache.commands.list_stores import format_size
from cache.commands.pack import pack_store
from cache.files import client
from cache.sharing import finding
from cache.sharing.finding import find_stores, group_keys
from tests.support.servers.range_server import RangeServer
from tests.support.stores import small as small_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A folder with one store in three forms, and another store."""
    folder = tmp_path_factory.mktemp("stores")
    small_store.make(folder / "train.zarr")
    small_store.make(folder / "deep/er/val.zarr", count=9, views=1)
    convert_store(folder / "train.zarr", folder / "train.h5")
    pack_store(folder / "train.zarr", folder / "packed.zip")
    (folder / "notes.txt").write_text("not a store")
    return folder


def bytes_of(path):
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_facts_are_those_that_the_opened_store_has(stores):
    found = {store.name: store.to_json() for store in find_stores(stores)}
    assert list(found) == ["deep/er/val.zarr", "packed.zip", "train.h5", "train.zarr"]
    for name, facts in found.items():
        opened = cache.open_store(stores / name)
        assert facts == {
            "name": name,
            "path": str(stores / name),
            "layout": opened.layout,
            "instances": len(opened),
            "teacher": "blobs",
            "bytes": bytes_of(stores / name),
            "content_sha256": opened.manifest["content_sha256"],
            "complete": True,
            "problem": None,
        }


def test_a_store_itself_is_listed_alone_and_an_empty_folder_in_one_line(stores, tmp_path, capsys):
    for name in ("train.zarr", "train.h5", "packed.zip"):
        (store,) = find_stores(stores / name)
        assert (store.name, store.complete) == (name, True)
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no stores\n"
    assert main(["list", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    for missing in (tmp_path / "nowhere", stores / "notes.txt"):
        assert main(["list", str(missing)]) == 1
        line = capsys.readouterr().err
        assert line.startswith(f"error: {missing}: ")
        assert line.count("\n") == 1


@pytest.fixture
def wrecks(stores, tmp_path):
    """A folder with one example of everything that is not a usable store."""
    writer = small_store.begin(tmp_path / "begun.zarr", count=20)
    small_store.fill(writer, only=[0, 2])
    del writer
    shutil.copytree(stores / "train.zarr", tmp_path / "edited.zarr")
    document = json.loads((tmp_path / "edited.zarr/zarr.json").read_text())
    document["attributes"]["manifest"]["provenance"]["teacher"]["name"] = "another"
    (tmp_path / "edited.zarr/zarr.json").write_text(json.dumps(document))
    (tmp_path / "cut.h5").write_bytes((stores / "train.h5").read_bytes()[:3000])
    (tmp_path / "cut.zip").write_bytes((stores / "packed.zip").read_bytes()[:3000])
    (tmp_path / "other.zip").write_bytes(b"")
    (tmp_path / "bare.zarr").mkdir()
    (tmp_path / "no_json.zarr").mkdir()
    (tmp_path / "no_json.zarr/zarr.json").write_text("{")
    (tmp_path / "copy.zarr.pulling").mkdir()
    (tmp_path / "broken.zarr").symlink_to("nowhere.zarr")
    (tmp_path / "linked.zarr").symlink_to(stores / "train.zarr")
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def test_what_cannot_be_used_is_listed_with_the_reason(stores, wrecks, capsys):
    problems = {store.name: store.problem for store in find_stores(wrecks)}
    assert problems.pop("linked.zarr") is None
    reasons = {
        "bare.zarr": "without zarr.json",
        "begun.zarr.partial": "unfinished: 2 of 3 shards are written",
        "broken.zarr": "a broken link to nowhere.zarr",
        "copy.zarr.pulling": "an unfinished pull",
        "cut.h5": "damaged",
        "cut.zip": "a damaged ZIP archive",
        "edited.zarr": "does not match its own SHA-256",
        "loop": "a link to a folder",
        "no_json.zarr": "zarr.json: not a JSON document",
        "other.zip": "neither a Zarr directory",
    }
    assert problems.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in problems[name], name
        assert str(wrecks) not in problems[name]
        assert "\n" not in problems[name]
    assert main(["list", str(wrecks)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(reasons) + 1
    row = next(line for line in lines if line.startswith("begun.zarr.partial"))
    assert row.split()[1:3] == ["20", "blobs"]  # what the plan states


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_without_permission_is_listed_with_the_reason(stores, tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (found,) = find_stores(tmp_path)
    assert (found.name, found.problem) == ("closed", "cannot be listed: Permission denied")


def test_names_and_teachers_cannot_change_the_terminal(tmp_path, capsys):
    provenance = {"teacher": {"name": "red \x1b[31m\nsecond line"}}
    small_store.make(tmp_path / "a.zarr", count=2, provenance=provenance)
    assert main(["list", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 2
    assert "\x1b" not in shown


def test_keys_belong_to_the_outermost_store():
    sizes = {
        "a/t.zarr/zarr.json": 1,
        "a/t.zarr/heatmaps/zarr.json": 2,
        "a/t.zarr/heatmaps/codes/c/0": 4,
        "a/t.zarr.files.json": 100,
        "a/t.zarr.old/x": 100,
        "v.h5": 8,
        "v.h5.files.json": 100,
        "new/u.zarr.files.json": 100,
        "new/u.zarr/frames/data/c/0": 16,
        "w.zarr.files.json": 100,
        ".files.json": 100,
        "README.md": 100,
    }
    assert group_keys(sizes) == {"a/t.zarr": 7, "v.h5": 8, "new/u.zarr": 16, "w.zarr": 0}
    assert group_keys({"zarr.json": 1, "heatmaps/zarr.json": 2, "x/b.zip": 4}) == {"": 7}
    assert group_keys({"": 5}) == {"": 5}
    assert group_keys({}) == {}


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_700, "1.00 MB")],
)
def test_sizes_have_three_digits(nbytes, text):
    assert format_size(nbytes) == text


@pytest.fixture
def server(stores):
    pytest.importorskip("aiohttp", reason="needs the extra [share]")
    with RangeServer(stores.parent).running() as server:
        yield server


def test_a_web_folder_is_listed_where_the_server_shows_its_files(server, stores):
    shutil.copytree(stores / "train.zarr", stores / "with space.zarr", dirs_exist_ok=True)
    server.lists = True
    found = {store.name: store for store in find_stores(f"{server.url}/{stores.name}/")}
    shutil.rmtree(stores / "with space.zarr")
    names = ["deep/er/val.zarr", "packed.zip", "train.h5", "train.zarr", "with space.zarr"]
    assert list(found) == names
    assert [store.problem for store in found.values()] == [None] * len(names)
    for name in names[:4]:
        content = cache.open_store(stores / name).manifest["content_sha256"]
        assert found[name].to_json()["content_sha256"] == content
    assert found["train.h5"].nbytes == bytes_of(stores / "train.h5")
    read = {path for _, path, _ in server.requests if "train.zarr" in path}
    assert {path.rpartition("train.zarr")[2] for path in read} == {"/zarr.json", ".files.json"}  # the manifest alone


def test_a_web_server_that_lists_nothing_is_one_line(server, stores, capsys):
    url = f"{server.url}/{stores.name}"
    assert main(["list", url]) == 1
    line = capsys.readouterr().err
    assert line == f"error: {url}: this web server does not list its files; give the URL of a store itself, " + (
        f"e.g. {url}/train.zarr\n"
    )
    (store,) = find_stores(f"{url}/train.zarr")
    assert store.complete


def test_a_web_folder_that_cannot_be_reached_is_not_taken_for_one_without_a_list(server, stores, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    server.lists = True
    server.dies_after = 1  # the page of the folder itself is sent, that of the folder in it is not
    found = {store.name: store.problem for store in find_stores(f"{server.url}/{stores.name}")}
    assert "cannot be listed, tried 4 times" in found["deep"]
    with pytest.raises(cache.StoreError, match=r"cannot be listed, tried 4 times: .*; if the server does not list"):
        find_stores(f"{server.url}/{stores.name}")


def test_deep_web_folders_are_named_instead_of_searched(server, stores, monkeypatch):
    monkeypatch.setattr(finding, "_WEB_DEPTH", 1)
    server.lists = True
    found = {store.name: store.problem for store in find_stores(f"{server.url}/{stores.name}")}
    assert "not searched" in found["deep/er"]
    assert found["train.zarr"] is None
