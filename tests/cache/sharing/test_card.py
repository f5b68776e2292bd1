"""The dataset card: what the manifests state and nothing else, in a form that the Hub reads; own text is kept."""

import copy
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import cache
from cache.__main__ import _parser
from cache.codec.base import ERROR_KINDS
from cache.sharing.card import BEGIN, END, NOT_STATED, CardEntry, card_entry, card_header, card_text, merge_card
from tests.support.stores import small as small_store

REPOSITORY = "hf://datasets/team/coco-teacher"
PROVENANCE = {
    "teacher": {
        "name": "hrnet_w32+hrnet_w48",
        "weights_sha256": "a" * 64,
        "input_size": [192, 256],
        "members": [{"name": "hrnet_w32", "weights_sha256": "b" * 64}],
    },
    "dataset": {
        "split": "val",
        "annotations": {"name": "person_keypoints_val2017.json", "sha256": "c" * 64},
        "boxes": {"name": "detections.json", "sha256": "d" * 64},
    },
    "views": {"flip_test": True, "seed": 3},
    "licence": "The licences of images and weights apply.",
    "created": "2026-11-30T12:00:00+00:00",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "val.zarr"
    return small_store.make(path, metrics={"ap": 61.25, "pck@0.05": 80.5}, count=20, provenance=PROVENANCE)


@pytest.fixture
def entry(store):
    return card_entry("val.zarr", store)


def changed(entry, name="val.zarr", **provenance):
    """The entry with another name and other entries of the provenance; None removes an entry."""
    manifest = copy.deepcopy(dict(entry.manifest))
    merged = {**manifest["provenance"], **provenance}
    manifest["provenance"] = {key: value for key, value in merged.items() if value is not None}
    return entry._replace(name=name, manifest=manifest)


def sized(entry, name, count):
    manifest = copy.deepcopy(dict(entry.manifest))
    manifest["spec"]["instances"] = count
    return entry._replace(name=name, manifest=manifest)


def header_of(text):
    """The header as the Hub's own library parses it."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra [share]")
    return hub.DatasetCard(text, ignore_metadata_errors=False).data.to_dict()


def rows(text):
    """First cell -> second cell of the table rows with two cells."""
    cells = re.findall(r"^\| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return {name.replace("\\", ""): value.replace("\\", "") for name, value in cells}


def test_the_hub_reads_the_header(entry):
    data = header_of(merge_card(None, REPOSITORY, [entry]))
    assert data["license"] == "other"
    assert data["pretty_name"] == "coco-teacher: heatmaps of hrnet_w32+hrnet_w48"
    assert data["task_categories"] == ["keypoint-detection"]
    assert data["size_categories"] == ["n<1K"]
    assert {"pose-estimation", "zarr"} <= set(data["tags"])
    assert data["viewer"] is False


def test_every_fact_of_the_manifest_is_on_the_card(entry, store):
    facts = rows(card_text(REPOSITORY, [entry]))
    assert facts["instances"] == "20 in 10 images, 20 written"
    assert facts["teacher"] == f"hrnet_w32+hrnet_w48, SHA-256 of its weights: {'a' * 64}"
    assert facts["member of the ensemble"] == f"hrnet_w32, SHA-256 of its weights: {'b' * 64}"
    assert facts["teacher's input"] == "192x256 pixels (width x height)"
    assert facts["annotations"] == f"person_keypoints_val2017.json, SHA-256 {'c' * 64}"
    assert facts["boxes"] == f"detections.json, SHA-256 {'d' * 64}"
    assert facts["views"] == "2 per instance (flip_test True, seed 3)"
    assert facts["heatmaps"] == "5 joints, 8x12 pixels (width x height)"
    assert facts["codec"] == "name root4, floor 0.003, levels 127"
    assert facts["teacher's accuracy, measured from this store"] == "ap 61.25, pck@0.05 80.5"
    assert facts["licence"] == PROVENANCE["licence"]
    assert facts["content SHA-256"] == store.manifest["content_sha256"]
    assert facts["format"] == "pose-teacher-cache version 1, Zarr v3"
    for kind in ERROR_KINDS:
        error = store.manifest["codec_error"][kind]
        stated = [float(number) for number in re.findall(r"[0-9.]+e[+-][0-9]+", facts[f"codec error, {kind}"])]
        assert stated == pytest.approx([error["mean"], error["worst"]], rel=0.05)


def test_what_no_manifest_states_is_not_invented(entry):
    bare = changed(entry, **dict.fromkeys(PROVENANCE))
    bare.manifest["teacher_metrics"] = None
    facts = rows(card_text(REPOSITORY, [bare]))
    for name in ("data set", "annotations", "boxes", "licence", "made"):
        assert facts[name] == NOT_STATED
    assert facts["teacher"] == f"{NOT_STATED}, SHA-256 of its weights: {NOT_STATED}"
    assert facts["teacher's accuracy, measured from this store"] == "not measured"
    assert header_of(merge_card(None, REPOSITORY, [bare]))["license"] == "unknown"
    boxless = changed(entry, dataset={"boxes": None})
    assert rows(card_text(REPOSITORY, [boxless]))["boxes"] == "those of the annotations"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"licence": "CC-BY-4.0"}, {"licence": "cc-by-4.0"}, "cc-by-4.0"),
        ({"licence": "cc-by-4.0"}, {"licence": "mit"}, "other"),
        ({"licence": "cc-by-4.0"}, {"licence": None}, "other"),
        ({"licence": "my own terms"}, {"licence": "my own terms"}, "other"),
        ({"licence": "cc-by-4.0", "dataset": {"licences": ["nobody knows"]}}, {"licence": "cc-by-4.0"}, "other"),
        ({"licence": None}, {"licence": None}, "unknown"),
    ],
)
def test_the_licence_is_the_one_that_all_stores_state(entry, first, second, expected):
    entries = [changed(entry, "train.zarr", **first), changed(entry, "val.zarr", **second)]
    assert header_of(card_header(REPOSITORY, entries))["license"] == expected


@pytest.mark.parametrize(
    ("counts", "category"),
    [
        ([999], "n<1K"),
        ([999, 1], "1K<n<10K"),
        ([149_813, 6_352], "100K<n<1M"),
        ([2_000_000], "1M<n<10M"),
    ],
)
def test_the_size_is_that_of_all_stores(entry, counts, category):
    entries = [sized(entry, f"{number}.zarr", count) for number, count in enumerate(counts)]
    assert header_of(card_header(REPOSITORY, entries))["size_categories"] == [category]


def commands(text):
    return re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].splitlines()


def test_the_commands_of_the_card_are_those_of_the_program(entry, monkeypatch, store):
    """What the card tells to type is parsed by the program, and the Python lines run."""
    entries = [entry._replace(name="train.zarr"), entry]
    text = card_text(REPOSITORY, entries)
    *pulls, training = commands(text)
    for line, name in zip(pulls, ("train.zarr", "val.zarr"), strict=True):
        options = _parser().parse_args(line.split()[3:])
        assert options.command == "pull"
        assert (options.src, options.dst) == (f"{REPOSITORY}/{name}", f"stores/coco-teacher/{name}")
    assert training == "make distill DATA=coco-teacher"
    opened, real = [], cache.open_store
    monkeypatch.setattr(cache, "open_store", lambda url: opened.append(url) or real(store.path))
    found: dict = {}
    exec(re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1], found)
    assert opened == [f"{REPOSITORY}/train.zarr"]
    assert found["maps"].shape == (1, 2, small_store.K, small_store.H, small_store.W)
    assert found["boxes"].shape == (20, 4)


def test_make_takes_the_training_line_to_the_pulled_stores(entry):
    """The Makefile's own variables lead to where the card's pulls put the stores."""
    for suffix in ("zarr", "h5"):
        entries = [entry._replace(name=f"{split}.{suffix}") for split in ("train", "val")]
        *_, training = commands(card_text(REPOSITORY, entries))
        root = Path(__file__).resolve().parents[3]
        dry = subprocess.run(
            [*shlex.split(training), "-n", "READY=", "PYTHON=false"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f'--store "stores/coco-teacher/train.{suffix}" --val-store "stores/coco-teacher/val.{suffix}"' in dry


@pytest.mark.parametrize(
    ("names", "frames", "training"),
    [
        (
            ["train.zarr", "val.zarr"],
            False,
            'make distill DATA=coco-teacher TRAIN_ARGS="--images DIR --val-images DIR"',
        ),
        (
            ["a/my train.zarr", "b/val.h5"],
            True,
            "python -m train distill --store 'stores/coco-teacher/a/my train.zarr' "
            "--val-store stores/coco-teacher/b/val.h5 --out runs/coco-teacher/distilled",
        ),
        (
            ["only.zarr"],
            False,
            "python -m train distill --store TRAIN --val-store VAL --out runs/coco-teacher/distilled "
            "--images DIR --val-images DIR",
        ),
    ],
)
def test_the_training_line_fits_the_names_and_the_frames(entry, names, frames, training):
    entries = [entry._replace(name=name, manifest=copy.deepcopy(dict(entry.manifest))) for name in names]
    for one in entries:
        one.manifest["spec"]["frames"] = frames
    assert commands(card_text(REPOSITORY, entries))[-1] == training


def test_own_text_and_own_header_are_kept(entry):
    card = merge_card(None, REPOSITORY, [entry])
    assert merge_card(card, REPOSITORY, [entry]) == card
    own = card.replace("license: other", "license: cc-by-4.0\nlanguage: en")
    own = own.replace(BEGIN, f"Thanks to all.\n\n{BEGIN}") + "\n## Contact\n\nme\n"
    train = sized(entry, "train.zarr", 150_000)
    updated = merge_card(own, REPOSITORY, [train, entry])
    assert updated.partition(BEGIN)[0] == own.partition(BEGIN)[0].replace("n<1K", "100K<n<1M")
    assert updated.partition(END)[2] == own.partition(END)[2]
    assert "## train.zarr" in updated
    assert "## train.zarr" not in merge_card(updated, REPOSITORY, [entry])
    assert header_of(updated)["license"] == "cc-by-4.0"


@pytest.mark.parametrize("existing", ["# Mine\n\ntext\n", "---\nlicense: mit\n---\n# Mine\n\ntext\n", "# Mine\r\ntext"])
def test_a_readme_that_someone_wrote_is_kept_and_the_card_follows(entry, existing):
    card = merge_card(existing, REPOSITORY, [entry])
    assert card.index("# Mine") < card.index("text") < card.index(BEGIN) < card.index(END)
    assert card.count("license:") == 1
    assert merge_card(card, REPOSITORY, [entry]) == card


@pytest.mark.parametrize("damage", [(BEGIN, ""), (END, ""), (END, f"{END}\n{END}"), (BEGIN, END)])
def test_a_card_with_damaged_marks_is_refused(entry, damage):
    broken = merge_card(None, REPOSITORY, [entry]).replace(*damage)
    with pytest.raises(cache.StoreError, match=r"coco-teacher/README.md: the marks of the card are damaged.*--no-card"):
        merge_card(broken, REPOSITORY, [entry])


def test_text_of_a_manifest_cannot_change_the_page(entry):
    evil = f'x\n---\nlicense: mit | <script>alert(1)</script> {END} [a](http://b) ``` "'
    card = merge_card(None, REPOSITORY, [changed(entry, teacher={"name": evil}, licence=evil)])
    assert header_of(card)["license"] == "other"
    assert header_of(card)["pretty_name"].startswith("coco-teacher: heatmaps of x --- license: mit")
    body = card.partition(BEGIN)[2]
    assert body.count(END) == 1
    assert "<script>" not in body
    assert body.count("```") == 4  # the two blocks of commands
    for line in body.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 7)


def test_an_entry_counts_images_not_instances(store):
    found = card_entry("sub/val.zarr", store)
    assert isinstance(found, CardEntry)
    assert (found.images, found.layout, found.nbytes) == (10, "zarr", store.nbytes)
