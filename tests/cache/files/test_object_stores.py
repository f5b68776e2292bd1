"""Push to and read from S3 (a moto server on loopback) and the Hugging Face Hub (a filesystem that replaces it)."""

import socket

import pytest

import cache
from cache.__main__ import main
from cache.commands import push as push_module
from cache.commands.pull import pull_store
from cache.commands.push import push_store
from cache.commands.verify import verify_store
from cache.files import client as remote
from cache.sharing.finding import find_stores
from tests.cache.commands.test_sharing import tree
from tests.cache.reading.test_processes import digest
from tests.support.servers.hub import Hub
from tests.support.stores import small as small_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for name, count in (("train.zarr", 20), ("val.h5", 20), ("other.zarr", 9)):
        small_store.make(folder / name, count=count)
    return folder


@pytest.fixture(scope="module")
def endpoint():
    pytest.importorskip("s3fs", reason="needs the extra [share]")
    server = pytest.importorskip("moto.server", reason="needs the extra [dev]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    running.start()
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch, tmp_path, request):
    """An empty bucket; the credentials come from environment variables."""
    import s3fs

    settings = {
        "ENDPOINT_URL": endpoint,
        "ACCESS_KEY_ID": "AKIAKEY",
        "SECRET_ACCESS_KEY": "hush",
        "REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("POSE_TEACHER_CACHE_DIR", str(tmp_path / "blocks"))
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket{abs(hash(request.node.name))}"
    s3fs.S3FileSystem().mkdir(name)
    return name


def keys(bucket):
    import s3fs

    return {key.partition("/")[2] for key in s3fs.S3FileSystem(use_listings_cache=False).find(bucket)}


@pytest.mark.parametrize("name", ["train.zarr", "val.h5"])
def test_a_pushed_store_streams_verifies_and_comes_back(bucket, stores, name, tmp_path, capsys):
    import s3fs

    assert main(["push", str(stores / name), f"s3://{bucket}/coco/"]) == 0
    url = f"s3://{bucket}/coco/{name}"
    assert capsys.readouterr().out.strip() == url
    assert digest(cache.open_store(url)) == digest(cache.open_store(stores / name))
    assert verify_store(url) == []
    assert tree(pull_store(url, tmp_path / name)) == tree(stores / name)
    assert main(["push", str(stores / name), url]) == 0  # it is already there
    if name.endswith(".zarr"):
        s3fs.S3FileSystem().pipe_file(f"{url}/heatmaps/notes.txt", b"mine")
        foreign = "heatmaps/notes.txt: does not belong to the store, or is a link or device"
        assert [problem.message for problem in verify_store(url)] == [foreign]


def test_an_interrupted_push_is_no_store_and_goes_on(bucket, stores, monkeypatch):
    """The same command uploads what is missing; the document that makes it a store comes last."""
    url, sent = f"s3://{bucket}/t.zarr", []
    put = remote.Remote.put

    def fails_at_last(self, key, content):
        if len(sent) >= 12:
            raise cache.StoreError("the connection is gone")
        sent.append(key)
        put(self, key, content)

    monkeypatch.setattr(remote.Remote, "put", fails_at_last)
    monkeypatch.setattr(push_module, "_FILES_AT_ONCE", 1)
    with pytest.raises(cache.StoreError, match="connection is gone"):
        push_store(stores / "train.zarr", url)
    assert "t.zarr.files.json" in keys(bucket)
    with pytest.raises(cache.StoreNotFoundError):
        cache.open_store(url)
    with pytest.raises(cache.StoreError, match="unfinished push of another store"):
        push_store(stores / "other.zarr", url)
    first, sent[:] = list(sent), []
    monkeypatch.setattr(remote.Remote, "put", lambda self, key, content: (sent.append(key), put(self, key, content)))
    push_store(stores / "train.zarr", url)
    assert sent[-1] == "zarr.json"
    assert not set(first) & set(sent) - {""}
    assert verify_store(url) == []


def test_push_replaces_another_store_only_when_told(bucket, stores):
    url = push_store(stores / "train.zarr", f"s3://{bucket}/t.zarr")
    with pytest.raises(cache.StoreError, match=r"another store is there.*--overwrite"):
        push_store(stores / "other.zarr", url)
    assert len(cache.open_store(url)) == 20
    push_store(stores / "other.zarr", url, overwrite=True)
    assert len(cache.open_store(url)) == 9
    expected = {f"t.zarr/{key}" for key in tree(stores / "other.zarr")} | {"t.zarr.files.json"}
    assert keys(bucket) == expected


def test_a_bucket_that_is_not_there(bucket, stores, capsys):
    assert main(["push", str(stores / "val.h5"), "s3://no-such-bucket-here/x.h5"]) == 1
    err = capsys.readouterr().err
    assert "s3://no-such-bucket-here/x.h5" in err
    assert "hush" not in err


def test_a_push_to_the_hub_is_one_commit(stores, monkeypatch, tmp_path):
    """The Hub is not available on loopback: a repository in memory replaces its filesystem and its API."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    hub, url = Hub(), "hf://datasets/me/coco/store/train.zarr"
    monkeypatch.setattr(remote, "_connect", lambda root: hub)
    push_store(stores / "train.zarr", url)
    push_store(stores / "train.zarr", url)
    assert hub.commits == [("me/coco", "dataset", "main", "Store train.zarr")]
    beside = {"README.md", "store/train.zarr.files.json"}
    assert {
        key.removeprefix("store/train.zarr/"): data for key, data in hub.files.items() if key not in beside
    } == tree(stores / "train.zarr")
    assert digest(cache.open_store(url, local=tmp_path)) == digest(cache.open_store(stores / "train.zarr"))
    with pytest.raises(cache.StoreError, match="--overwrite"):
        push_store(stores / "other.zarr", url)
    push_store(stores / "other.zarr", url, overwrite=True)
    assert len(hub.commits) == 2
    assert len(hub.files) == len(tree(stores / "other.zarr")) + len(beside)


@pytest.fixture
def hub(monkeypatch):
    """A repository in memory in place of the Hub."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    hub = Hub()
    monkeypatch.setattr(remote, "_connect", lambda root: hub)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    return hub


def test_the_card_of_a_repository_describes_all_of_its_stores(hub, stores, tmp_path):
    repository = "hf://datasets/me/coco"
    hub.files["README.md"] = b"# Our teacher\n"
    assert main(["push", str(stores / "train.zarr"), f"{repository}/"]) == 0
    assert main(["push", str(stores / "val.h5"), f"{repository}/small/"]) == 0
    assert [message for *_, message in hub.commits] == ["Store train.zarr", "Store val.h5"]  # the card comes with them
    card = hub.files["README.md"].decode()
    assert "# Our teacher" in card
    assert card.count("## train.zarr") == card.count("## small/val.h5") == 1
    assert card.count(cache.open_store(stores / "train.zarr").manifest["content_sha256"]) == 2  # the same content
    push_store(stores / "other.zarr", f"{repository}/train.zarr", overwrite=True)
    card = hub.files["README.md"].decode()
    assert cache.open_store(stores / "other.zarr").manifest["content_sha256"] in card
    del hub.files["README.md"]
    push_store(stores / "val.h5", f"{repository}/small/val.h5", card=False)
    assert "README.md" not in hub.files
    push_store(stores / "val.h5", f"{repository}/small/val.h5")  # the store is there, its card is not
    assert hub.commits[-1][-1] == "Card of val.h5"
    assert verify_store(f"{repository}/train.zarr") == []
    assert tree(pull_store(f"{repository}/train.zarr", tmp_path / "t.zarr")) == tree(stores / "other.zarr")


def test_a_damaged_store_in_the_repository_is_left_out_of_the_card_and_named(hub, stores, capsys):
    push_store(stores / "train.zarr", "hf://datasets/me/coco/train.zarr")
    hub.files["train.zarr/instances/image_id/zarr.json"] = b"{}"
    push_store(stores / "val.h5", "hf://datasets/me/coco/val.h5")
    assert "not on the card: hf://datasets/me/coco/train.zarr" in capsys.readouterr().err
    card = hub.files["README.md"].decode()
    assert "## val.h5" in card
    assert "## train.zarr" not in card


def test_a_store_cannot_be_a_whole_repository(hub, stores, capsys):
    assert main(["push", str(stores / "train.zarr"), "hf://datasets/me/coco.zarr"]) == 1
    assert "give the store a name in it" in capsys.readouterr().err
    assert hub.commits == []


def test_a_repository_that_is_not_there_is_one_line(hub, stores, monkeypatch, capsys):
    def missing(self, url, **_):
        raise FileNotFoundError(url)

    monkeypatch.setattr(Hub, "resolve_path", missing)
    assert main(["push", str(stores / "train.zarr"), "hf://datasets/me/coco/"]) == 1
    assert capsys.readouterr().err == (
        "error: hf://datasets/me/coco/train.zarr: no such repository; create it first, or check the name\n"
    )
    assert main(["list", "hf://datasets/me/coco"]) == 1
    assert "no such bucket, repository or folder" in capsys.readouterr().err


def test_a_repository_of_one_store_has_files_of_its_own(hub, stores):
    """Every repository has these two files; they do not make the store inconsistent."""
    for key, data in tree(stores / "train.zarr").items():
        hub.files[key] = data
    hub.files |= {"README.md": b"#", ".gitattributes": b""}
    assert verify_store("hf://datasets/me/coco") == []
    hub.files["notes.txt"] = b"mine"
    assert len(verify_store("hf://datasets/me/coco")) == 1
    (found,) = find_stores("hf://datasets/me/coco")
    assert (found.name, found.complete) == ("coco", True)


@pytest.mark.parametrize("where", ["bucket", "hub"])
def test_the_stores_of_a_bucket_and_of_a_repository_are_listed(where, stores, request, capsys):
    place = f"s3://{request.getfixturevalue('bucket')}" if where == "bucket" else "hf://datasets/me/coco"
    if where == "hub":
        request.getfixturevalue("hub")
    for name in ("train.zarr", "val.h5"):
        push_store(stores / name, f"{place}/deep/{name}")
    found = {store.name: store.to_json() for store in find_stores(place)}
    assert list(found) == ["deep/train.zarr", "deep/val.h5"]
    for name, facts in found.items():
        local = cache.open_store(stores / name.removeprefix("deep/"))
        assert facts["content_sha256"] == local.manifest["content_sha256"]
        assert (facts["instances"], facts["bytes"], facts["layout"]) == (20, local.nbytes, local.layout)
        assert (facts["path"], facts["complete"]) == (f"{place}/{name}", True)
        (itself,) = find_stores(f"{place}/{name}")
        assert itself.to_json() == {**facts, "name": name.removeprefix("deep/")}
    assert main(["list", f"{place}/elsewhere"]) == 0
    assert capsys.readouterr().out == f"{place}/elsewhere: no stores\n"


def test_an_unfinished_push_is_listed_with_what_to_do(bucket, stores, monkeypatch):
    put = remote.Remote.put

    def fails_at_the_root(self, key, content):
        if key == "zarr.json":
            raise cache.StoreError("the connection is gone")
        put(self, key, content)

    monkeypatch.setattr(remote.Remote, "put", fails_at_the_root)
    with pytest.raises(cache.StoreError, match="connection is gone"):
        push_store(stores / "other.zarr", f"s3://{bucket}/t.zarr")
    (found,) = find_stores(f"s3://{bucket}")
    assert (found.name, found.complete) == ("t.zarr", False)
    assert found.problem == "an unfinished push; repeat the command to continue"


def test_the_hubs_own_filesystem_takes_our_urls():
    """huggingface_hub accepts our `hf://` URLs; this needs no request."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    import fsspec

    assert isinstance(fsspec.filesystem("hf", use_listings_cache=False), hub.HfFileSystem)
