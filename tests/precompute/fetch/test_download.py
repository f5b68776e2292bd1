"""Downloads are resumed and verified, and incomplete files never get the final name. The server has real faults."""

import errno
import fcntl
import hashlib
import io
import stat
import threading
import warnings
import zipfile

import numpy as np
import pytest

from precompute.data.folder import Split, find_split
from precompute.fetch import coco, download
from precompute.fetch.download import DownloadError, RemoteFile
from precompute.fetch.unzip import ArchiveError, unzip
from tests.support.servers.web_server import serve

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serve() as site:
        site.files["/weights.pth"] = CONTENT
        yield site


def remote(site, **known):
    return RemoteFile(f"{site.url}/weights.pth", **known)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(site, tmp_path):
    target = tmp_path / "new/weights.pth"
    assert download.download(remote(site, size=300_000, digest=("sha256", SHA256[:8])), target) == target
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["weights.pth"]
    download.download(remote(site), target)
    assert len(site.requests) == 1  # an existing file is not requested again


def test_dropped_connections_are_taken_up_where_they_broke(site, tmp_path):
    site.drop_after = 70_000
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, *(f"bytes={i * 70_000}-" for i in range(1, 5))]


def test_a_server_without_ranges_is_asked_for_everything(site, tmp_path):
    site.drop_after, site.ranges = 100_000, False
    with pytest.raises(
        DownloadError, match=r"cannot download .*weights.pth: the connection was lost after 100000 of 300000"
    ):
        download.download(remote(site), tmp_path / "w")
    assert not (tmp_path / "w").exists()
    site.drop_after = None
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_parts_of_two_versions_are_not_joined(site, tmp_path, monkeypatch):
    site.drop_after = 100_000
    site.files["/weights.pth"], site.version = bytes(300_000), 0
    monkeypatch.setattr(download, "_receive", download._request)
    with pytest.raises(download._ConnectionBrokenError):
        download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w.part").stat().st_size == 100_000
    site.drop_after, site.version, site.files["/weights.pth"] = None, 2, CONTENT
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_that_ignores_if_range_is_detected(site, tmp_path, monkeypatch):
    """It sends the rest of another file than the one that was begun; only its ETag shows that."""
    site.drop_after, site.files["/weights.pth"] = 100_000, bytes(300_000)
    with monkeypatch.context() as patched:
        patched.setattr(download, "_receive", download._request)
        with pytest.raises(download._ConnectionBrokenError):
            download.download(remote(site), tmp_path / "w")
    site.drop_after, site.version, site.files["/weights.pth"], site.compares = None, 2, CONTENT, False
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=100000-", None]


def test_a_disk_that_fills_up_is_said_at_once_and_the_download_goes_on_later(site, tmp_path, monkeypatch):
    site.drop_after = 100_000
    opened = type(tmp_path).open

    class Full(io.BytesIO):
        def write(self, chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(path, mode="r", **options):
        full = mode == "r+b" and (tmp_path / "w.part").stat().st_size >= 200_000
        return Full() if full else opened(path, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "open", open_full)
        with pytest.raises(
            DownloadError, match=r"w\.part: .*No space left on device; 0 MB were received, run the same"
        ):
            download.download(remote(site), tmp_path / "w")
    assert len(site.requests) == 3
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert site.requests[3][1] == "bytes=200000-"


def test_a_part_of_unknown_origin_is_not_used(site, tmp_path):
    (tmp_path / "w.part").write_bytes(bytes(1000))
    download.download(remote(site), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"size": 299_999}, "it has 300000 bytes instead of 299999"),
        ({"digest": ("sha256", "00000000")}, f"its sha256 is {SHA256[:8]} instead of 00000000"),
    ],
)
def test_what_is_not_the_file_is_deleted(site, tmp_path, known, message):
    with pytest.raises(DownloadError, match=message):
        download.download(remote(site, **known), tmp_path / "w")
    assert names(tmp_path) == []
    (tmp_path / "w").write_bytes(CONTENT)
    with pytest.raises(DownloadError, match=f"{message}; delete it to download it again"):
        download.download(remote(site, **known), tmp_path / "w")
    assert (tmp_path / "w").exists()  # a file of the user is kept


def test_a_missing_file_and_a_missing_network_are_said_in_one_line(site, tmp_path):
    with pytest.raises(DownloadError, match=r"none.pth: the server answered 404"):
        download.download(RemoteFile(f"{site.url}/none.pth"), tmp_path / "w")
    with pytest.raises(DownloadError, match=r"cannot download http://127.0.0.1:9/x: .*refused"):
        download.download(RemoteFile("http://127.0.0.1:9/x"), tmp_path / "w")


def test_a_failure_leaves_no_lock_but_what_came_stays(site, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download.download(RemoteFile(f"{site.url}/none.pth"), tmp_path / "new/w")
    assert names(tmp_path / "new") == []
    site.drop_after, site.ranges = 100_000, False
    with pytest.raises(DownloadError, match="the connection was lost"):
        download.download(remote(site), tmp_path / "new/w")
    assert names(tmp_path / "new") == ["w.part", "w.part.json"]


def test_two_at_once_download_once(site, tmp_path):
    site.drop_after = 30_000
    threads = [threading.Thread(target=download.download, args=(remote(site), tmp_path / "w")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests].count(None) == 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_obstacle(site, tmp_path, monkeypatch, code):
    def refuse(handle, operation):
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with warnings.catch_warnings(action="ignore"):  # filelock warns where it uses another kind of lock
        download.download(remote(site), tmp_path / "w")
    assert names(tmp_path) == ["w"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_of_several_at_once_each_says_why_it_failed(site, tmp_path):
    messages = []

    def run_one():
        try:
            download.download(RemoteFile(f"{site.url}/none.pth"), tmp_path / "new/w")
        except Exception as error:
            messages.append(str(error))

    threads = [threading.Thread(target=run_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages == [f"{site.url}/none.pth: the server answered 404 Not Found"] * 4
    assert names(tmp_path / "new") == []


def archive(entries, compression=zipfile.ZIP_STORED):
    """Bytes of a zip with these (name, content) entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


IMAGES = [("val2017/", b""), *((f"val2017/{i:012d}.jpg", bytes([i]) * 5000) for i in range(4))]
ANNOTATIONS = [
    ("annotations/person_keypoints_val2017.json", b'{"images": []}'),
    ("annotations/captions_val2017.json", b"{}"),
]


@pytest.fixture
def small_coco(site, monkeypatch):
    """A small COCO: the files, sizes and digests of `coco.FILES`, four images."""
    for key, path, entries in (
        ("val", "zips/val2017.zip", IMAGES),
        ("annotations", "annotations/annotations_trainval2017.zip", ANNOTATIONS),
    ):
        content = archive(entries)
        site.files[f"/{path}"] = content
        monkeypatch.setitem(coco.FILES, key, (path, len(content), hashlib.sha1(content).hexdigest()))
    monkeypatch.setitem(coco.IMAGES, "val", 4)
    monkeypatch.setattr(coco, "SPARE", 0)
    return site


def run(site, root, *flags):
    return coco.main(["--out", str(root), "--splits", "val", "--site", site.url, *flags])


def test_coco_arrives_in_its_own_layout_and_only_once(small_coco, tmp_path, capsys):
    root = tmp_path / "with a space/coco"
    small_coco.drop_after = 9000
    assert run(small_coco, root) == 0
    assert names(root) == ["annotations", "val2017"]
    assert names(root / "annotations") == ["person_keypoints_val2017.json"]
    assert (root / "val2017/000000000003.jpg").read_bytes() == bytes([3]) * 5000
    assert "GB to download" in capsys.readouterr().err
    asked = len(small_coco.requests)
    assert run(small_coco, root) == 0
    assert "exist already" in capsys.readouterr().out
    assert len(small_coco.requests) == asked


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("validation/data", "raw/person_keypoints_val2017.json"),
        ("images/val2017", "annotations/person_keypoints_val2017.json"),
        ("images", "annotations/person_keypoints_val.json"),
        ("images/val", "annotations/person_keypoints_val.json"),
        ("val", "annotations/person_keypoints_val.json"),
        ("validation", "annotations/person_keypoints_validation.json"),
    ],
)
def test_coco_in_another_layout_is_used_as_it_is(small_coco, tmp_path, capsys, images, annotations):
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / annotations).parent.mkdir()
    (tmp_path / annotations).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert run(small_coco, tmp_path) == 0
    assert f"{tmp_path / images} and {tmp_path / annotations} exist already" in capsys.readouterr().out
    assert small_coco.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def put_images(folder):
    folder.mkdir(parents=True)
    for name, content in IMAGES[1:]:
        (folder / name.rpartition("/")[2]).write_bytes(content)


@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "validation/data"])
@pytest.mark.parametrize("others", ["annotations", "raw"])
def test_images_without_keypoints_are_not_fetched_again(small_coco, tmp_path, capsys, folder, others):
    put_images(tmp_path / folder)
    (tmp_path / others).mkdir()
    (tmp_path / others / "instances_val2017.json").write_text("{}")
    assert run(small_coco, tmp_path) == 0
    assert {path for path, _ in small_coco.requests} == {"/annotations/annotations_trainval2017.zip"}
    need = small_coco.files["/annotations/annotations_trainval2017.zip"]
    assert f"{len(need) / 1e9:.1f} GB to download, 0.0 GB on disk" in capsys.readouterr().err
    keypoints = tmp_path / "annotations/person_keypoints_val2017.json"
    assert find_split(tmp_path, "val") == Split(tmp_path / folder, keypoints)


@pytest.mark.parametrize("folder", ["annotations", "raw"])
def test_keypoints_without_images_are_not_fetched_again(small_coco, tmp_path, folder):
    keypoints = tmp_path / folder / "person_keypoints_val2017.json"
    keypoints.parent.mkdir()
    keypoints.write_text("mine")
    assert run(small_coco, tmp_path) == 0
    assert {path for path, _ in small_coco.requests} == {"/zips/val2017.zip"}
    assert find_split(tmp_path, "val") == Split(tmp_path / "val2017", keypoints)
    assert keypoints.read_text() == "mine"


def test_the_disk_need_is_that_of_what_is_lacking(small_coco, tmp_path, monkeypatch, capsys):
    """With COCO's sizes, the annotations alone are 0.3 GB, not the 20 GB with the images."""
    for key, size in (("train", 19_336_861_798), ("val", 815_585_330), ("annotations", 252_907_541)):
        path, _, digest = coco.FILES[key]
        monkeypatch.setitem(coco.FILES, key, (path, size, digest))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.setitem(coco.IMAGES, "train", 4)
    for split in ("train", "val"):
        put_images(tmp_path / f"images/{split}2017")
    command = ["--site", small_coco.url, "--splits", "train", "val", "--out"]
    assert coco.main([*command, str(tmp_path)]) == 1
    assert "0.3 GB to download, 0.4 GB on disk at the end, 0.7 GB at peak" in capsys.readouterr().err
    assert coco.main([*command, str(tmp_path / "other")]) == 1
    assert "20.4 GB to download, 20.6 GB on disk at the end" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["val", "validation"])
def test_fiftyones_name_of_a_split_is_taken_for_cocos(small_coco, tmp_path, name):
    assert coco.main(["--out", str(tmp_path), "--site", small_coco.url, "--splits", name]) == 0
    assert names(tmp_path) == ["annotations", "val2017"]


def test_somebodys_smaller_folder_is_left_alone(small_coco, tmp_path, capsys):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/000000000001.jpg").write_bytes(b"mine")
    assert run(small_coco, tmp_path) == 1
    assert "has 1 of 4 images" in capsys.readouterr().err
    assert small_coco.requests == []


def test_a_disk_that_is_too_small_is_said_before_anything_is_asked_for(small_coco, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert run(small_coco, tmp_path / "coco") == 1
    assert "GB free and" in capsys.readouterr().err
    assert small_coco.requests == []
    assert not (tmp_path / "coco").exists()


def test_an_archive_with_too_few_images_never_becomes_a_split(small_coco, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(coco.IMAGES, "val", 5)
    assert run(small_coco, tmp_path) == 1
    assert "has 4 files in val2017/, expected 5" in capsys.readouterr().err
    assert not (tmp_path / "val2017").exists()


def test_no_network_is_one_line_with_a_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    assert coco.main(["--out", str(tmp_path / "coco"), "--splits", "val", "--site", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2  # the disk space, and this error
    assert "has no annotations/person_keypoints_val2017.json or raw/person_keypoints_val2017.json" in error[-1]
    assert "--images DIR --annotations FILE" in error[-1]
    assert names(tmp_path) == []


def test_a_failure_in_somebodys_folder_leaves_it_as_it_was(small_coco, tmp_path, capsys):
    put_images(tmp_path / "images/val2017")
    before = sorted(tmp_path.rglob("*"))
    del small_coco.files["/annotations/annotations_trainval2017.zip"]
    assert run(small_coco, tmp_path) == 1
    assert "the server answered 404" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "archives").mkdir()  # left by an earlier failure
    assert run(small_coco, tmp_path) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "val2017/../../evil.jpg", "C:/evil.jpg", "..\\evil.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(archive([*IMAGES, (name, b"evil")]))
    with pytest.raises(ArchiveError, match="points outside its folder"):
        unzip(tmp_path / "a.zip", "val2017", tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


def test_links_in_an_archive_are_refused(tmp_path):
    link = zipfile.ZipInfo("val2017/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    (tmp_path / "a.zip").write_bytes(archive([*IMAGES, (link, b"/etc/passwd")]))
    with pytest.raises(ArchiveError, match="points outside its folder"):
        unzip(tmp_path / "a.zip", "val2017", tmp_path / "out")


def test_a_damaged_archive_is_named_and_an_interrupted_one_goes_on(tmp_path):
    content = bytearray(archive(IMAGES))
    (tmp_path / "a.zip").write_bytes(content)
    damaged = content.index(bytes([2]) * 100)
    (tmp_path / "b.zip").write_bytes(content[:damaged] + b"x" + content[damaged + 1 :])
    with pytest.raises(ArchiveError, match=r"b.zip is damaged"):
        unzip(tmp_path / "b.zip", "val2017", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(unzip(tmp_path / "a.zip", "val2017", tmp_path / "out")) == 4
    assert (tmp_path / "out/000000000002.jpg").read_bytes() == bytes([2]) * 5000
    (tmp_path / "c.zip").write_bytes(content[:-40])
    with pytest.raises(ArchiveError, match=r"c.zip is damaged"):
        unzip(tmp_path / "c.zip", "val2017", tmp_path / "other")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_damaged_in_a_compressed_archive_ends_in_one_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    entries = [("annotations/a.json", rng.bytes(3000) * 3), ("annotations/b.json", b"{}" * 500)]
    content = bytearray(archive(entries, zipfile.ZIP_DEFLATED))
    places = rng.integers(0, len(content), 4)
    for place in places:
        content[place] ^= 1 << rng.integers(0, 8)
    (tmp_path / "a.zip").write_bytes(content)
    try:
        files = unzip(tmp_path / "a.zip", "annotations", tmp_path / "out", count=2)
    except ArchiveError:
        assert not (tmp_path / "out").exists()
    else:
        assert [file.read_bytes() for file in files] == [data for _, data in entries]


def test_an_encrypted_member_and_one_without_a_name_are_refused_in_one_line(tmp_path):
    content = archive(IMAGES)
    (tmp_path / "a.zip").write_bytes(content.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"))
    assert (tmp_path / "a.zip").read_bytes() != content
    with pytest.raises(ArchiveError, match="is damaged"):
        unzip(tmp_path / "a.zip", "val2017", tmp_path / "out")
    (tmp_path / "b.zip").write_bytes(archive([(".", b"x")]))
    with pytest.raises(ArchiveError, match="has 0 files in val2017/"):
        unzip(tmp_path / "b.zip", "val2017", tmp_path / "out")
