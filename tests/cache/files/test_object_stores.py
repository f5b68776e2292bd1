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
from tests.cache.commands.test_sharing import tree
from tests.cache.reading.test_processes import digest
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


class Hub:
    """The part of `HfFileSystem` and `HfApi` that push uses, with a repository in memory."""

    def __init__(self):
        self.files, self.commits, self._api = {}, [], self

    def resolve_path(self, url):
        repository, _, path = url.removeprefix("hf://datasets/").partition("/store/")
        return type(
            "Resolved",
            (),
            {"repo_id": repository, "repo_type": "dataset", "revision": "main", "path_in_repo": f"store/{path}"},
        )

    def info(self, url):
        path = self.resolve_path(url).path_in_repo
        if path not in self.files:
            raise FileNotFoundError(url)
        return {"type": "file", "size": len(self.files[path]), "blob_id": str(hash(self.files[path]))}

    def open(self, url, mode, **_):
        import io

        return io.BytesIO(self.files[self.resolve_path(url).path_in_repo])

    def create_commit(self, repo_id, operations, *, repo_type, revision, commit_message):
        self.commits.append((repo_id, repo_type, revision, commit_message))
        for operation in operations:
            if type(operation).__name__ == "CommitOperationDelete":
                del self.files[operation.path_in_repo]
            else:
                with operation.as_file() as file:
                    self.files[operation.path_in_repo] = file.read()


def test_a_push_to_the_hub_is_one_commit(stores, monkeypatch, tmp_path):
    """The Hub is not available on loopback: a repository in memory replaces its filesystem and its API."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    hub, url = Hub(), "hf://datasets/me/coco/store/train.zarr"
    monkeypatch.setattr(remote, "_connect", lambda root: hub)
    push_store(stores / "train.zarr", url)
    push_store(stores / "train.zarr", url)
    assert hub.commits == [("me/coco", "dataset", "main", "Store train.zarr")]
    assert {
        key.removeprefix("store/train.zarr/"): data for key, data in hub.files.items() if "files" not in key
    } == tree(stores / "train.zarr")
    assert digest(cache.open_store(url, local=tmp_path)) == digest(cache.open_store(stores / "train.zarr"))
    with pytest.raises(cache.StoreError, match="--overwrite"):
        push_store(stores / "other.zarr", url)
    push_store(stores / "other.zarr", url, overwrite=True)
    assert len(hub.commits) == 2
    assert len(hub.files) == len(tree(stores / "other.zarr")) + 1


def test_the_hubs_own_filesystem_takes_our_urls():
    """huggingface_hub accepts our `hf://` URLs; this needs no request."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    import fsspec

    assert isinstance(fsspec.filesystem("hf", use_listings_cache=False), hub.HfFileSystem)
