"""Several stores as one dataset: the union of their persons, weights, orders, and stores that do not fit each other."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import cache
from kdlib.errors import KdlibError
from kdlib.samples import DistillationDataset, Part
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.mixture import MixedDataset, training_set
from kdlib.samples.views import Augmentation
from kdlib.skeletons.skeleton import COCO
from tests.support.stores.people import make_store

SIZE = (48, 64)
STRONG = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.2)
A, B = 9, 6
"""Persons of the two stores."""


def of_file(sha256, boxes=None):
    """Provenance of a store whose persons are annotated in a file with that hash, with boxes of another file."""
    dataset = {"annotations": {"name": "persons.json", "sha256": sha256}}
    return {"dataset": dataset | ({"boxes": {"name": "boxes.json", "sha256": boxes}} if boxes else {})}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores that differ in layout, codec, number of stored views, labels, and data set."""
    folder = tmp_path_factory.mktemp("stores")
    return (
        make_store(folder / "a.zarr", A, provenance=of_file("a")),
        make_store(
            folder / "b.h5", B, codec="float32", turned=True, labels="nothing", shift=1.0, provenance=of_file("b")
        ),
    )


def mixed(stores, *weights, **options):
    parts = [Part(store, weight) for store, weight in itertools.zip_longest(stores, weights, fillvalue=1.0)]
    return MixedDataset(parts, SIZE, options.pop("augmentation", STRONG), **{"seed": 3, **options})


def drawn(dataset, epochs):
    """(row, view) of every sample of the first epochs, (epochs, n, 2)."""
    indices = np.arange(len(dataset))
    return np.stack([np.stack(dataset.locate(indices, np.full_like(indices, e)), axis=1) for e in range(epochs)])


def batches(dataset, epoch=0, first=0, **options):
    loader = Loader(dataset, 4, shuffle=True, **options)
    return [{name: tensor.numpy().copy() for name, tensor in batch.items()} for batch in loader.epoch(epoch, first)]


def assert_equal_batches(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_the_samples_are_those_of_each_store(stores):
    dataset = mixed(stores)
    assert len(dataset) == A + B
    assert dataset.rows.tolist() == list(range(A + B))
    first = StoreDataset(stores[0], SIZE, STRONG, seed=3)
    plain = [MixedDataset([Part(store) for store in stores], SIZE), *(StoreDataset(store, SIZE) for store in stores)]
    for dataset.epoch in (0, 4):
        first.epoch = dataset.epoch
        for i in range(A + B):
            assert dataset[i]["row"] == i
            of_store, row = plain[1 + (i >= A)], i - A * (i >= A)
            pairs = [(plain[0][i], of_store[row]), *([(dataset[i], first[i])] if i < A else [])]
            for ours, theirs in pairs:
                assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != "row")
            assert bool(dataset[i]["labelled"].any()) == (i < A)
    with pytest.raises(IndexError, match=f"index {A + B} is out of range for a dataset of {A + B} samples"):
        dataset[A + B]


def test_persons_of_two_stores_in_the_same_row_are_augmented_differently(stores):
    dataset = mixed(stores)
    flips = [[np.linalg.det(dataset[first + i]["affine"][:, :2]) < 0 for i in range(B)] for first in (0, A)]
    affines = [np.stack([dataset[first + i]["affine"] for i in range(B)]) for first in (0, A)]
    assert np.abs(affines[0] - affines[1]).max(axis=(1, 2)).min() > 1  # the same boxes in both stores
    assert flips[0] != flips[1]


@pytest.mark.parametrize("weight", [1, 3, 0.5, 1 / 3, 0.4, 2.5, 0.01])
def test_a_weight_is_how_often_a_person_is_seen_and_every_time_is_another_view(stores, weight):
    dataset, epochs = mixed(stores, 1.0, weight), 12
    samples = drawn(dataset, epochs)
    size = max(1, round(weight * B))
    assert len(dataset) == A + size
    of_a, of_b = samples[:, :A], samples[:, A:]
    np.testing.assert_array_equal(np.sort(of_a[..., 0]), np.tile(np.arange(A), (epochs, 1)))
    np.testing.assert_array_equal(of_a[..., 1], np.arange(epochs)[:, None].repeat(A, axis=1))
    seen = {}
    for epoch in range(epochs):
        for row, view in of_b[epoch].tolist():
            seen.setdefault(row, []).append(view)
        counts = np.bincount(of_b[: epoch + 1, :, 0].ravel() - A, minlength=B)
        assert counts.sum() == size * (epoch + 1)
        assert counts.max() - counts.min() <= 1
        np.testing.assert_array_equal(np.ptp(np.bincount(of_b[epoch, :, 0] - A, minlength=B)) <= 1, True)
    assert all(sorted(views) == list(range(len(views))) for views in seen.values())


def test_the_persons_of_an_epoch_of_half_a_store_are_a_random_half(stores):
    """They are not the first half of the store, whose persons may be of one photographer."""
    halves = {tuple(np.sort(drawn(mixed(stores, 1, 0.5, seed=seed), 1)[0, A:, 0])) for seed in range(6)}
    assert len(halves) > 3


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(stores):
    def order(epoch, **options):
        return np.concatenate([batch["row"] for batch in batches(mixed(stores, 1, 2, **options), epoch)])

    assert len(order(0)) == (A + 2 * B) // 4 * 4
    assert np.bincount(order(0)).max() == 2
    np.testing.assert_array_equal(order(5), order(5))
    assert not np.array_equal(order(5), order(6))
    assert not np.array_equal(order(5), order(5, seed=4))


@pytest.mark.parametrize("order", ["instances", "shards"])
def test_an_epoch_goes_on_where_it_stopped_with_any_number_of_threads(stores, order):
    def run(threads, first=0):
        return batches(mixed(stores, 1, 1.5), 2, first, threads=threads, order=order)

    assert_equal_batches(run(1), run(3))
    assert_equal_batches(run(3)[2:], run(2, first=2))


def test_ranks_share_every_batch(stores):
    dataset = mixed(stores, 1, 1.5)
    whole, parts = batches(dataset, 1), [batches(dataset, 1, part=(rank, 2)) for rank in range(2)]
    joined = [{name: np.concatenate([one[name], two[name]]) for name in one} for one, two in zip(*parts, strict=True)]
    assert_equal_batches(whole, joined)


def test_the_order_by_shards_reads_the_shards_of_each_store_together(stores):
    dataset = mixed(stores)
    shards = dataset.shards(dataset.rows)
    assert shards[:A].tolist() == stores[0].shard_of(range(A)).tolist()
    assert (shards[A:] - stores[0].spec.shards).tolist() == stores[1].shard_of(range(B)).tolist()


def test_one_store_is_ordered_as_it_always_was(stores):
    """The order of the versions before several stores: the generator of (seed, epoch) permutes the rows."""
    dataset = training_set([Part(stores[0])], SIZE, STRONG, seed=5)
    assert isinstance(dataset, StoreDataset)
    rows = np.concatenate([batch["row"] for batch in batches(dataset, 7)])
    np.testing.assert_array_equal(rows, np.random.default_rng((5, 7)).permutation(A)[: len(rows)])


def test_one_store_may_have_a_weight(stores):
    dataset = training_set([Part(stores[0], 1 / 3)], SIZE)
    assert len(dataset) == A / 3
    assert np.sort(drawn(dataset, 3)[..., 0].ravel()).tolist() == list(range(A))


@pytest.mark.parametrize("weight", [0.0, -1.0, 1001.0, float("nan"), float("inf")])
def test_weights_without_meaning_are_refused(stores, weight):
    with pytest.raises(KdlibError, match=r"the weight of .*a\.zarr must be above 0 and at most 1000, got "):
        Part(stores[0], weight)


# --- stores that do not fit each other --------------------------------------------------------------------------------


def changed(store, provenance=None, **sizes):
    """The store, opened again, with other sizes or entries of its provenance."""
    opened = cache.open_store(store.path)
    opened.spec = dataclasses.replace(opened.spec, **sizes)
    opened.manifest = {**opened.manifest, "provenance": {**opened.manifest["provenance"], **(provenance or {})}}
    return opened


OTHER = dataclasses.replace(COCO, name="other", joints=("snout", *COCO.joints[1:])).to_json()
UNPAIRED = dataclasses.replace(COCO, name="unpaired", flip_pairs=COCO.flip_pairs[1:]).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 64}, r"its heatmap size is 64x24, not 32x24; the stores of one training set need the same joints"),
        ({"width": 48}, r"its heatmap size is 32x48, not 32x24"),
        ({"provenance": {"skeleton": OTHER}}, r"joint 1 is 'snout', not 'nose'"),
        ({"provenance": {"skeleton": UNPAIRED}}, r"the flip pairs of its skeleton are "),
    ],
)
def test_a_store_that_does_not_fit_is_named_with_the_field(stores, change, message):
    with pytest.raises(KdlibError, match=rf"b\.h5 cannot be mixed with .*a\.zarr: {message}"):
        mixed([stores[0], changed(stores[1], **change)])


def test_teachers_of_other_input_sizes_need_the_students(stores):
    teacher = {**stores[1].manifest["provenance"]["teacher"], "input_size": [192, 256]}
    other = changed(stores[1], {"teacher": teacher})
    with pytest.raises(KdlibError, match=r"size is 256x192 in .*b\.h5 and 128x96 in .*a\.zarr; give the student's"):
        MixedDataset([Part(stores[0]), Part(other)])
    assert MixedDataset([Part(stores[0]), Part(other)], SIZE).input_size == SIZE


def test_the_largest_floor_is_used(stores):
    assert mixed([stores[0], changed(stores[1], {"logits": {"transform": "log", "floor": 0.01}})]).floor == 0.01


# --- persons in several stores ----------------------------------------------------------------------------------------


def test_a_person_of_two_stores_counts_once_where_its_weight_is_largest(tmp_path, stores):
    """The second store has six of the nine persons of the first, as another teacher sees them."""
    again = make_store(tmp_path / "again.h5", B, shift=1.0, provenance=of_file("a"))
    heavier = mixed([stores[0], again], 1, 3)
    assert heavier.rows.tolist() == [6, 7, 8, *range(A, A + B)]
    assert len(heavier) == 3 + 3 * B
    (sentence,) = heavier.shared
    shared = f"6 of the 9 persons of {stores[0].path} are also in {again.path}, and are used from there"
    assert sentence == f"{shared}: a person counts once"
    lighter = mixed([again, stores[0]])
    assert lighter.rows.tolist() == [*range(B), B + 6, B + 7, B + 8]
    with pytest.raises(KdlibError, match=r"every person of .*again\.h5 is also in .*a\.zarr .* leave the store out"):
        mixed([stores[0], again])
    with pytest.raises(KdlibError, match=r"every person of .*a\.zarr is also in .*a\.zarr "):
        mixed([stores[0], stores[0]])


def test_equal_ids_of_other_files_are_other_persons(tmp_path, stores):
    """Boxes of a detector have numbers of their own, which mean something in their box file only."""
    boxes = make_store(tmp_path / "boxes.zarr", B, shift=1.0, provenance=of_file("a", boxes="c"))
    unknown = make_store(tmp_path / "unknown.zarr", B)
    dataset = mixed([*stores, boxes, unknown])
    assert (len(dataset), dataset.shared) == (A + 3 * B, [])
    with pytest.raises(KdlibError, match=r"every person of .* is also in .*unknown\.zarr"):
        mixed([unknown, unknown])  # its content tells


# --- messages and bad records -----------------------------------------------------------------------------------------


def test_messages_name_the_store_of_a_person(stores):
    assert mixed(stores).annotation_ids(np.array([A + 1, 0, 2])) == (
        f"1000, 1002 of {stores[0].path} and 1001 of {stores[1].path}"
    )
    assert StoreDataset(stores[0]).annotation_ids(np.array([2, 0])) == "1002, 1000"


def test_a_bad_record_is_replaced_and_counted_once(stores, monkeypatch):
    frame = type(stores[1]).frame

    def damaged(self, row):
        if self is stores[1] and row == B - 1:
            raise cache.StoreFormatError(f"{self.path}: instance {row}")
        return frame(self, row)

    monkeypatch.setattr(type(stores[1]), "frame", damaged)
    with pytest.raises(cache.StoreFormatError, match=r"b\.h5: instance 5"):
        batches(mixed(stores, 1, 3))
    loader = Loader(mixed(stores, 1, 3), 3, shuffle=True, skip_bad=True)
    counts = np.bincount(np.concatenate([batch["row"] for batch in loader.epoch()]), minlength=A + B)
    assert loader.bad == {A + B - 1: f"{stores[1].path}: instance 5"}
    assert counts.tolist() == [4, *[1] * (A - 1), *[3] * (B - 1), 0]  # the next good record is the first one


# --- DistillationDataset ----------------------------------------------------------------------------------------------


def test_the_dataset_for_any_training_loop_takes_several_stores(stores):
    alone = [DistillationDataset(store, SIZE, logits="raw") for store in stores]
    both = DistillationDataset([stores[0].path, f"{stores[1].path}:2"], SIZE, logits="raw")
    assert len(both) == A + 2 * B
    loaded = [
        {name: tensor[0] for name, tensor in batch.items()}
        for batch in torch.utils.data.DataLoader(both, 1, num_workers=1)
    ]
    for i, sample in enumerate(loaded):
        expected = alone[0][i] if i < A else alone[1][(i - A) % B]
        assert all(torch.equal(sample[name], expected[name]) for name in expected if name != "index")
        assert sample["index"] == i


def test_a_fraction_of_a_store_is_drawn_at_random(stores):
    torch.manual_seed(1)
    dataset = DistillationDataset([Part(stores[0]), Part(stores[1], 0.5)], SIZE)
    assert len(dataset) == A + B // 2
    whole = DistillationDataset(stores[1], SIZE)
    persons = [whole[i]["image"].numpy().tobytes() for i in range(B)]
    shown = [persons.index(dataset[i]["image"].numpy().tobytes()) for i in range(A, A + B // 2) for _ in range(40)]
    counts = np.bincount(shown, minlength=B)
    assert np.abs(counts - 20).max() < 15  # 4 standard deviations of 40 draws of one of two persons


def test_what_is_not_a_weight_is_part_of_the_name(tmp_path, stores):
    with pytest.raises(KdlibError, match=r"the weight of a\.zarr must be above 0, got 0"):
        DistillationDataset(["a.zarr:0"])
    with pytest.raises(cache.StoreError, match=r"b\.zarr:x: no such store"):
        DistillationDataset([stores[0], f"{tmp_path}/b.zarr:x"])
    with pytest.raises(KdlibError, match="at least one store"):
        DistillationDataset([])


@pytest.mark.parametrize(("weight", "share"), [(1, A / (2 + A)), (4, A / (8 + A))])
def test_labelled_persons_are_seen_as_often_as_their_weight_also_where_labels_are_few(
    tmp_path, monkeypatch, weight, share
):
    """Two of the persons of the first store have labels, and all of the second one."""
    few, full = (make_store(tmp_path / f"{name}.zarr", A, provenance=of_file(name)) for name in ("few", "full"))
    keypoints = few.instances["keypoints"].copy()
    keypoints[2:] = 0
    monkeypatch.setattr(few, "instances", {**few.instances, "keypoints": keypoints})
    dataset = mixed((few, full), weight, labelled_only=True)
    assert (len(dataset), len(dataset.rows), dataset.instances) == ((weight + 1) * A, 2 + A, 2 * A)
    assert dataset.sizes[1] == round(share * len(dataset))
    samples = drawn(dataset, 6)
    counts = np.bincount(samples[..., 0].ravel(), minlength=2 * A)
    assert counts[2:A].sum() == 0
    assert counts[:2].mean() / counts[A:].mean() == pytest.approx(weight, rel=0.15)
    assert len(np.unique(samples.reshape(-1, 2), axis=0)) == samples.size // 2  # every time another view
