"""`python -m cache`: the output and the exit codes of the commands."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import cache
from cache.__main__ import main
from cache.codec.divergence import log_divergence
from cache.codec.registry import CODECS, SPELLINGS
from cache.commands.diff import diff_stores
from cache.format.integrity import with_manifest_hash
from tests.support.stores import people as people_store
from tests.support.stores import small as small_store
from tests.support.stores.hdf5_mutations import lookup3, sealed_blocks

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=[".zarr", ".h5"])
def path(request, tmp_path):
    return small_store.make(tmp_path / f"s{request.param}", skip=(4,), metrics={"ap": 0.512}).path


def run(capsys, *arguments):
    """Exit code, standard output and error of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_info_is_a_page_for_people(path, capsys):
    code, out, _ = run(capsys, "info", path)
    assert code == 0
    for fact in ("complete", "19 of 20", "2 views, 5 joints", "8x12", "root4", "nats on average", "0.512", "blobs"):
        assert fact in out
    assert cache.open_store(path).manifest["content_sha256"] in out


def test_info_has_the_same_for_programs(path, capsys):
    facts = json.loads(run(capsys, "info", path, "--json")[1])
    store = cache.open_store(path)
    assert facts["complete"] is True
    assert facts["teacher_metrics"] == {"ap": 0.512}
    assert facts["frame_bytes"] == sum(len(store.frame(int(i))) for i in np.flatnonzero(store.written))
    assert 0 < facts["heatmap_ratio_to_float32"] < 1
    assert facts["provenance"] == store.manifest["provenance"]


def test_info_of_an_unfinished_store_says_how_to_go_on(tmp_path, capsys):
    small_store.fill(small_store.begin(tmp_path / "s.h5"), only=[0])
    code, out, _ = run(capsys, "info", tmp_path / "s.h5.partial")
    assert code == 0
    assert "incomplete: 1 of 3 shards written" in out
    assert run(capsys, "info", tmp_path / "s.h5")[1] == out
    assert "--resume" in out


def test_verify_of_a_sound_store(path, capsys):
    assert run(capsys, "verify", path)[0] == 0
    found = json.loads(run(capsys, "verify", path, "--json")[1])
    assert found == {"ok": True, "bad_instances": [], "bad_shards": [], "problems": []}


def test_verify_survives_what_kills_hdf5s_library(tmp_path, capsys):
    """A B-tree whose records have size 0, with a matching checksum: HDF5 divides by the size."""
    data = bytearray((ROOT / "tests" / "golden" / "v1-root4.h5").read_bytes())
    start, length = next(b for b in sealed_blocks(bytes(data)) if data[b[0] : b[0] + 4] == b"BTHD")
    data[start + 10 : start + 12] = b"\0\0"
    data[start + length : start + length + 4] = lookup3(bytes(data[start : start + length])).to_bytes(4, "little")
    path = tmp_path / "malicious.h5"
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "crashes on this file" in out + err
    assert path.read_bytes() == data


def test_verify_lists_bad_records(tmp_path, capsys):
    path = small_store.make(tmp_path / "s.zarr").path
    shard = path / "frames/data/c/1"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert "instance 8 (annotation 124), frame" in out
    assert json.loads(run(capsys, "verify", path, "--json")[1])["bad_instances"] == [8]


@pytest.mark.parametrize("target", ["t.zarr", "t.h5"])
def test_convert_loses_nothing(path, tmp_path, capsys, target):
    code, out, _ = run(capsys, "convert", path, tmp_path / target)
    assert (code, out.strip()) == (0, str(tmp_path / target))
    stores = [cache.open_store(path), cache.open_store(tmp_path / target)]
    manifests = [{k: v for k, v in s.manifest.items() if k != "columns"} for s in stores]
    assert manifests[0] == manifests[1]
    assert run(capsys, "diff", path, tmp_path / target)[0] == 0
    assert run(capsys, "verify", tmp_path / target)[0] == 0
    refused = run(capsys, "convert", path, tmp_path / target)
    assert refused[0] == 1
    assert "--overwrite" in refused[2]
    assert run(capsys, "convert", path, tmp_path / target, "--overwrite")[0] == 0


@pytest.mark.parametrize("sealed", [True, False])
def test_convert_refuses_a_source_whose_content_hash_lies(path, tmp_path, capsys, sealed):
    """If the manifest's own hash matches, the content is compared; otherwise the manifest is refused."""
    store = cache.open_store(path)
    manifest = {**store.manifest, "content_sha256": "0" * 64}
    manifest = with_manifest_hash(manifest) if sealed else manifest
    if store.layout == "zarr":
        document = json.loads((path / "zarr.json").read_text())
        document["attributes"]["manifest"] = manifest
        (path / "zarr.json").write_text(json.dumps(document))
    else:
        with h5py.File(path, "r+") as file:
            file.attrs["manifest"] = np.bytes_(json.dumps(manifest).encode())
    code, _, error = run(capsys, "convert", path, tmp_path / "t.zarr")
    assert code == 1
    assert ("not copied" if sealed else "damaged or edited") in error
    assert not (tmp_path / "t.zarr").exists()


def make_other(tmp_path, **changes):
    return small_store.make(tmp_path / "other.h5", **{"skip": (4,), "metrics": {"ap": 0.512}, **changes}).path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": (4, 7)}, "records: 1 are written in only one of the stores"),
        ({"metrics": {"ap": 0.4}}, "teacher_metrics.ap: 0.512 -> 0.4"),
        ({"views": 1}, "spec.views: 2 -> 1"),
        ({"codec": cache.RootCodec(levels=64)}, "maps: 19 instances differ"),
        ({"count": 19}, "instances or sizes differ"),
        ({"provenance": {"teacher": {"name": "x"}}}, 'provenance.teacher.name: "blobs" -> "x"'),
        ({"with_frames": False}, "spec.frames: true -> false"),
    ],
)
def test_diff_says_what_differs(path, tmp_path, capsys, changes, message):
    code, out, _ = run(capsys, "diff", path, make_other(tmp_path, **changes))
    assert code == 1
    assert message in out


def test_diff_counts_maps_frames_and_rows(path, tmp_path, monkeypatch):
    maps, images, columns = small_store.blobs(20, 2), small_store.frames(20), small_store.instances(20)
    maps[13, 1, 2, 3, 4] += 0.4
    images[2] += b"x"
    truth = small_store.ground_truth(20)
    columns["bbox"][[1, 5]] += 1
    monkeypatch.setattr(small_store, "blobs", lambda *_: maps)
    monkeypatch.setattr(small_store, "frames", lambda *_: images)
    monkeypatch.setattr(small_store, "instances", lambda count, joints, seed=0: columns)
    monkeypatch.setattr(small_store, "ground_truth", lambda count, joints: truth)
    found = diff_stores(path, make_other(tmp_path))
    assert found["columns"] == {"instances/bbox": "2 rows differ"}
    assert (found["records"]["maps"], found["records"]["frames"]) == (1, 1)
    assert found["records"]["largest_difference"] == pytest.approx(0.4, abs=0.3)


@pytest.mark.parametrize("codec", ["root4", "root4:64", "float16", "float16-cut"])
def test_diff_knows_what_the_codecs_explain(path, tmp_path, capsys, codec):
    """An exact and a coded store of one teacher are equal within the codec's error, which numpy measures here."""
    exact = make_other(tmp_path, codec=cache.codec_from_name("float32"))
    coded = small_store.make(tmp_path / "c.zarr", skip=(4,), metrics={"ap": 0.5}, codec=cache.codec_from_name(codec))
    code, out, _ = run(capsys, "diff", exact, coded.path)
    assert code == 1
    assert "equal within the codecs' error" in out
    assert "instances: the same" in out
    assert run(capsys, "diff", coded.path, exact, "--within-codec-error")[0] == 0
    found = json.loads(run(capsys, "diff", exact, coded.path, "--json")[1])
    rows = np.flatnonzero(coded.written)
    maps, shown = cache.open_store(exact).heatmaps(rows), coded.heatmaps(rows)
    nats = log_divergence(maps, shown, coded.codec.floor, 1)
    apart = found["records"]["divergence"]["log_t1"]
    assert apart["mean"] == pytest.approx(np.nanmean(nats), rel=1e-4)
    assert apart["worst"] == pytest.approx(np.nanmax(nats), rel=1e-4)
    assert found["records"]["largest_difference"] == pytest.approx(np.abs(maps - shown).max())
    assert found["records"]["mean_difference"] == pytest.approx(np.abs(maps - shown).mean(), rel=1e-5)


def test_diff_of_another_teacher_is_more_than_the_codec_explains(path, tmp_path, monkeypatch):
    """Maps that are 2 % wider or narrower differ by more than the codec's error."""
    blobs = small_store.blobs
    for power, apart in ((0.98, True), (1.02, True), (1.0, False)):
        monkeypatch.setattr(small_store, "blobs", lambda *sizes, power=power: np.maximum(blobs(*sizes), 0) ** power)
        other = small_store.make(tmp_path / f"{power}.zarr", skip=(4,), metrics={"ap": 0.512})
        assert diff_stores(path, other.path)["within_codec_error"] is not apart


def test_a_float_store_converted_to_codes_is_the_store_of_codes(tmp_path, capsys):
    """Encoding exact maps later gives the same content and stated error as encoding them at once."""
    exact = small_store.make(tmp_path / "e.h5", skip=(4,), codec=cache.codec_from_name("float32"))
    coded = small_store.make(tmp_path / "c.zarr", skip=(4,), codec=cache.codec_from_name("root4:64"))
    assert run(capsys, "convert", exact.path, tmp_path / "t.zarr", "--codec", "root4:64")[0] == 0
    made = cache.open_store(tmp_path / "t.zarr")
    assert made.manifest["content_sha256"] == coded.manifest["content_sha256"]
    for kind, error in coded.manifest["codec_error"].items():
        assert {name: made.manifest["codec_error"][kind][name] for name in error} == error
    source = made.manifest["provenance"]["conversions"][0]
    assert source["codec"]["name"] == "float32"
    assert source["content_sha256"] == exact.manifest["content_sha256"]
    assert source["teacher_metrics"] == {"ap": 0.5}
    assert made.manifest["teacher_metrics"] is None
    assert run(capsys, "diff", exact.path, made.path, "--within-codec-error")[0] == 0
    assert run(capsys, "verify", made.path)[0] == 0


def test_a_conversion_to_float32_and_back_loses_nothing(path, tmp_path, capsys):
    store = cache.open_store(path)
    assert run(capsys, "convert", path, tmp_path / "f.zarr", "--codec", "float32")[0] == 0
    exact = cache.open_store(tmp_path / "f.zarr")
    rows = np.flatnonzero(store.written)
    assert (exact.heatmaps(rows) == store.heatmaps(rows)).all()
    assert exact.manifest["codec_error"] == store.manifest["codec_error"]
    assert exact.manifest["teacher_metrics"] == store.manifest["teacher_metrics"]
    assert run(capsys, "convert", tmp_path / "f.zarr", tmp_path / "b.h5", "--codec", "root4")[0] == 0
    back = cache.open_store(tmp_path / "b.h5")
    assert back.manifest["content_sha256"] == store.manifest["content_sha256"]
    assert [entry["codec"]["name"] for entry in back.manifest["provenance"]["conversions"]] == ["root4", "float32"]


def test_the_error_of_two_codecs_adds_up_and_covers_the_truth(path, tmp_path, capsys):
    """127 levels, then 40: the stated error is at least the error against the teacher's own maps."""
    assert run(capsys, "convert", path, tmp_path / "t.h5", "--codec", "root4:40")[0] == 0
    source, made = cache.open_store(path), cache.open_store(tmp_path / "t.h5")
    rows = np.flatnonzero(made.written)
    nats = log_divergence(small_store.blobs(20, 2)[rows], made.heatmaps(rows), made.codec.floor, 1)
    stated = made.manifest["codec_error"]["log_t1"]
    assert np.nanmean(nats) <= stated["mean"] <= 2 * np.nanmean(nats)
    assert np.nanmax(nats) <= stated["worst"]
    converted = log_divergence(source.heatmaps(rows), made.heatmaps(rows), made.codec.floor, 1)
    assert stated["converted"]["mean"] == pytest.approx(np.nanmean(converted), rel=1e-3)


def test_an_unknown_codec_is_refused(path, tmp_path, capsys):
    code, _, error = run(capsys, "convert", path, tmp_path / "t.h5", "--codec", "jpeg")
    assert code == 1
    assert "known codecs: root4, root4:LEVELS, float16, float32" in error


@pytest.mark.parametrize("command", ["info", "verify", "diff", "convert"])
def test_a_refusal_is_one_line_and_code_1(tmp_path, capsys, command):
    second = [tmp_path / "b.zarr"] if command in ("diff", "convert") else []
    code, out, error = run(capsys, command, tmp_path / "a.zarr", *second)
    assert code == 1
    assert "no such store" in error
    assert out == ""
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_url_of_a_kind_that_is_not_known_is_named_as_it_was_given(capsys, command):
    code, _, error = run(capsys, command, "htp://host/x.zarr")
    assert code == 1
    assert error.startswith(
        "error: htp://host/x.zarr: a store is a path, or a URL that begins with http, https, s3, hf"
    )


def test_help_answers_without_heavy_imports():
    code = "import sys; from cache.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'numba', 'zarr', 'h5py', 'numcodecs', 'cv2', 'kdlib'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["cache", "convert"], ["precompute"]])
def test_help_lists_every_codec(capsys, command):
    """The help texts are made from the registry: a new codec appears in them without further changes."""
    with pytest.raises(SystemExit):
        importlib.import_module(f"{command[0]}.__main__").main([*command[1:], "--help"])
    words = re.split(r"[\s,()]+", capsys.readouterr().out)
    assert CODECS
    assert set(SPELLINGS) >= set(CODECS)
    assert [spelling for spelling in SPELLINGS if spelling not in words] == []


def test_usage_errors_exit_with_2():
    with pytest.raises(SystemExit) as left:
        main(["inspect"])
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("package", "arguments", "codes"),
    [
        ("cache", ["info", "s.zarr"], {141}),
        ("train", ["evaluate", "--teacher", "--store", "s.zarr"], {141}),
        ("precompute", ["--help"], {0, 141}),  # argparse ignores a closed pipe, if it notices
    ],
)
def test_a_reader_that_stops_is_no_mistake(tmp_path, package, arguments, codes):
    """As with `| head`: the pipe is closed before anything is written."""
    people_store.make_store(tmp_path / "s.zarr")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", package, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in codes
