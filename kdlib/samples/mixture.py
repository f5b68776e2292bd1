"""Several stores as one dataset, in which every person counts once, or as often as the weight of its store.

**Weights.** The N persons of a store with weight w form a circle, and each epoch takes the next M = round(w * N) places
of it. Of M consecutive places, no person has more than one place more than another, so after any number of epochs every
person was seen equally often, up to once. Place c of the circle, counted from the first epoch on, shows person c mod N
in the augmented view c div N: a person that is seen twice in an epoch is seen in two views. If M is a multiple of N, an
epoch holds every person equally often, and the order of the circle does not matter; otherwise it is a permutation drawn
from (seed, number of the store).

With weight 1, person and view are those of a `StoreDataset`: each person once, in the view of the epoch.

**Rows.** The rows of the stores are counted one after the other: row r of the second store is row N + r, where N is the
number of rows of the first store, including those of which nothing was written.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import cache
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE
from kdlib.samples.dataset import StoreDataset, as_tensors, store_skeleton
from kdlib.samples.views import Augmentation, Epoch, epoch_of

MAX_WEIGHT: Final = 1000.0
_LARGEST_UINT64: Final = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Part:
    """One store of a training set.

    Attributes:
        store: An opened store (`cache.open_store`).
        weight: How often each of its persons is seen per epoch; above 0, at most `MAX_WEIGHT`, and not necessarily a
            whole number.
        images: Folder of the original images, for a store without frames.
    """

    store: cache.Store
    weight: float = 1.0
    images: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight <= MAX_WEIGHT:
            raise KdlibError(
                f"the weight of {self.store.path} must be above 0 and at most {MAX_WEIGHT:g}, got {self.weight:g}"
            )


def training_set(
    parts: Sequence[Part],
    input_size: tuple[int, int] | None = None,
    augmentation: Augmentation | None = None,
    *,
    stride: int = STRIDE,
    views: str | None = "average",
    seed: int = 0,
    labelled_only: bool = False,
) -> "StoreDataset | MixedDataset":
    """Build the dataset of one or several stores: a `StoreDataset` for one store of weight 1.

    For the arguments and errors, see `MixedDataset`.
    """
    options: dict[str, Any] = {"stride": stride, "views": views, "seed": seed, "labelled_only": labelled_only}
    if len(parts) == 1 and parts[0].weight == 1:
        return StoreDataset(parts[0].store, input_size, augmentation, images=parts[0].images, **options)
    return MixedDataset(parts, input_size, augmentation, **options)


class MixedDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Samples of several stores of the same skeleton and heatmap size, as those of `StoreDataset`.

    The stores may differ in everything else: teacher, codec, layout, stored views, place, and which persons are
    labelled. The dataset has M samples per store (see the module); its length is their sum. ``row`` of a sample counts
    the rows of all stores. A sample depends on (seed, epoch, index) alone.

    A person that is in several stores is used from one of them: the one with the largest weight, of equal weights the
    first. Two instances are the same person if annotation file, box file and annotation id are the same. ``shared``
    names the stores that share persons.

    Args:
        parts: The stores with their weights.
        input_size: Width and height of the student's input in pixels; None takes the teachers'.
        augmentation: How augmented views are drawn; None gives the plain crop.
        stride: Input pixels per heatmap pixel: 2, 4 or 8.
        views: Which stored views the heatmaps are made from, see `StoreDataset`.
        seed: Seed of the augmentation and of the order of persons. The first store is augmented as in a dataset of its
            own; the others have seeds derived from this one, so that equal rows do not have equal views.
        labelled_only: Whether to leave out persons without a labelled joint. The dataset keeps its number of samples
            (up to rounding); the labelled persons share them by the weights of their stores.

    Attributes:
        parts: The stores with their weights.
        datasets: The dataset of each store, without the persons that are used from another store.
        skeleton: The skeleton of the first store; all have its joints and flip pairs.
        rows: The rows that are used, ascending.
        sizes: M of each store, samples per epoch.
        shared: One sentence per store that shares persons with another one and does not use them.

    Raises:
        KdlibError: If there is no store; if two stores differ in joints, flip pairs or heatmap size; if their teachers'
            input sizes differ and ``input_size`` is None; if all persons of a store are used from others; and as for
            `StoreDataset`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        views: str | None = "average",
        seed: int = 0,
        labelled_only: bool = False,
    ) -> None:
        stores = [part.store for part in parts]
        if not stores:
            raise KdlibError("a dataset needs at least one store")
        check_agreement(stores)
        self.parts, self.seed, self.epoch = tuple(parts), seed, 0
        self.datasets = [
            StoreDataset(
                part.store,
                input_size or common_input_size(stores),
                augmentation,
                stride=stride,
                views=views,
                images=part.images,
                seed=_seed(seed, number),
            )
            for number, part in enumerate(parts)
        ]
        first = self.datasets[0]
        self.skeleton, self.input_size, self.heatmap_size = first.skeleton, first.input_size, first.heatmap_size
        self.shared = _drop_repeated(self.parts, self.datasets)
        self.sizes = [max(1, round(part.weight * len(of.rows))) for part, of in zip(parts, self.datasets, strict=True)]
        if labelled_only:
            self._keep_labelled()
        self._first_index, self._first_row, self._first_shard = (
            np.cumsum([0, *counts])
            for counts in (self.sizes, [len(store) for store in stores], [store.spec.shards for store in stores])
        )
        self.rows = np.concatenate([of.rows + first for of, first in zip(self.datasets, self._first_row, strict=False)])
        self._circles = [
            _circle(of.rows, size, (seed & _LARGEST_UINT64, number))
            for number, (of, size) in enumerate(zip(self.datasets, self.sizes, strict=True))
        ]

    def __len__(self) -> int:
        return int(self._first_index[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = self.empty_batch(1)
        rows, epochs = self.locate(np.array([index]), self.epoch)
        self.fill(batch, np.zeros(1, np.int64), rows, epochs)
        return {name: tensor[0] for name, tensor in as_tensors(batch).items()}

    def _keep_labelled(self) -> None:
        total = sum(self.sizes)
        for dataset in self.datasets:
            dataset.keep_labelled()
        shares = [part.weight * len(of.rows) for part, of in zip(self.parts, self.datasets, strict=True)]
        if not sum(shares):
            paths = ", ".join(str(part.store.path) for part in self.parts)
            raise KdlibError(f"none of the stores holds a labelled instance: {paths}")
        if any(of.instances > len(of.rows) for of in self.datasets):
            self.sizes = [max(1, round(share * total / sum(shares))) if share else 0 for share in shares]

    @property
    def instances(self) -> int:
        """Number of persons of the stores, each counted once, labelled or not."""
        return sum(of.instances for of in self.datasets)

    @property
    def labelled(self) -> int:
        """Number of used persons with a labelled joint."""
        return sum(of.labelled for of in self.datasets)

    @property
    def floor(self) -> float:
        """The largest of the stores' floors: below it, not every store holds the teacher's values."""
        return max(of.floor for of in self.datasets)

    def locate(self, indices: NDArray[np.int64], epoch: Epoch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the rows (n,) of samples (n,) and the epochs (n,) that their augmented views are drawn for.

        Args:
            indices: Indices in the dataset.
            epoch: Epoch of the samples; one number, or one for each, (n,).

        Raises:
            IndexError: If an index is out of range.
        """
        size = len(self)
        wrong = (indices < -size) | (indices >= size)
        if wrong.any():
            raise IndexError(f"index {indices[wrong.argmax()]} is out of range for a dataset of {size} samples")
        places, rows, views = indices % size, np.empty(len(indices), np.int64), np.empty(len(indices), np.int64)
        for number, chosen in self._by_store(places, self._first_index):
            place = epoch_of(epoch, chosen) * self.sizes[number] + places[chosen] - self._first_index[number]
            circle = self._circles[number]
            rows[chosen] = circle[place % len(circle)] + self._first_row[number]
            views[chosen] = place // len(circle)
        return rows, views

    def shards(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard (n,) that holds each row (n,); the shards of the stores are counted like the rows."""
        shards = np.empty(len(rows), np.int64)
        for number, chosen in self._by_store(rows, self._first_row):
            of_store = self.parts[number].store.shard_of(rows[chosen] - self._first_row[number])
            shards[chosen] = of_store + self._first_shard[number]
        return shards

    def annotation_ids(self, rows: NDArray[np.int64]) -> str:
        """The annotation ids of some rows (n,), by store, for a message."""
        return " and ".join(
            f"{self.datasets[number].annotation_ids(rows[chosen] - self._first_row[number])} of "
            f"{self.parts[number].store.path}"
            for number, chosen in self._by_store(rows, self._first_row)
        )

    def empty_batch(self, size: int) -> dict[str, NDArray[Any]]:
        """Uninitialised arrays for a batch, see `StoreDataset.empty_batch`."""
        return self.datasets[0].empty_batch(size)

    def fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: Epoch
    ) -> None:
        """Write the samples of rows (n,) to slots (n,) of a batch, see `StoreDataset.fill`.

        Each step is done for the samples of all stores before the next one begins, as there.
        """
        groups = [
            (
                self.datasets[number],
                slots[chosen],
                self.datasets[number].placer.place(rows[chosen] - self._first_row[number], epoch_of(epoch, chosen)),
            )
            for number, chosen in self._by_store(rows, self._first_row)
        ]
        for dataset, of_store, placement in groups:
            dataset.fill_images(batch, of_store, placement)
        for dataset, of_store, placement in groups:
            dataset.fill_labels(batch, of_store, placement)
        for dataset, of_store, placement in groups:
            dataset.fill_maps(batch, of_store, placement)
        batch["row"][slots] = rows

    def _by_store(self, values: NDArray[np.int64], firsts: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
        """The stores that values (n,) belong to, with the positions of their values; store i begins at firsts[i]."""
        of_store = firsts.searchsorted(values, side="right") - 1
        positions = [(number, (of_store == number).nonzero()[0]) for number in range(len(self.parts))]
        return [(number, chosen) for number, chosen in positions if len(chosen)]


def check_agreement(stores: Sequence[cache.Store]) -> None:
    """Check that stores can be mixed: that they have the same joints, flip pairs and heatmap size.

    Raises:
        KdlibError: If a store differs from the first one; the message names the field, both values and both stores.
    """
    first, skeleton = stores[0], store_skeleton(stores[0])
    for store in stores[1:]:
        own = store_skeleton(store)
        differing = own.difference(skeleton)
        if differing is None and set(map(frozenset, own.flip_pairs)) != set(map(frozenset, skeleton.flip_pairs)):
            differing = f"the flip pairs of its skeleton are {own.flip_pairs}, not {skeleton.flip_pairs}"
        size, wanted = (f"{of.spec.height}x{of.spec.width}" for of in (store, first))
        if differing is None and size != wanted:
            differing = f"its heatmap size is {size}, not {wanted}"
        if differing is not None:
            raise KdlibError(
                f"{store.path} cannot be mixed with {first.path}: {differing}; the stores of one training set need the "
                "same joints and heatmap size"
            )


def common_input_size(stores: Sequence[cache.Store]) -> tuple[int, int]:
    """Width and height of the input of the stores' teachers.

    Raises:
        KdlibError: If they differ; the student's input size must then be given.
    """
    sizes = [tuple(store.manifest["provenance"]["teacher"]["input_size"]) for store in stores]
    for store, (width, height) in zip(stores, sizes, strict=True):
        if (width, height) != sizes[0]:
            raise KdlibError(
                f"the teacher's input size is {height}x{width} in {store.path} and {sizes[0][1]}x{sizes[0][0]} in "
                f"{stores[0].path}; give the student's, input_size=... (--input-size HEIGHTxWIDTH)"
            )
    width, height = sizes[0]
    return int(width), int(height)


def _drop_repeated(parts: Sequence[Part], datasets: Sequence[StoreDataset]) -> list[str]:
    """Leave one row of each person in the datasets; returns a sentence per dataset from which rows were removed.

    Raises:
        KdlibError: If nothing would be left of a dataset.
    """
    sentences = {}
    used: dict[Any, list[tuple[int, NDArray[Any]]]] = {}
    for number in sorted(range(len(parts)), key=lambda i: -parts[i].weight):
        store, rows = parts[number].store, datasets[number].rows
        ids, earlier = store.instances["annotation_id"][rows], used.setdefault(_data_set(store.manifest), [])
        by_store = {other: np.isin(ids, of_other) for other, of_other in earlier}
        repeated = np.any([np.zeros(len(rows), bool), *by_store.values()], axis=0)
        owners = " and ".join(str(parts[other].store.path) for other, found in by_store.items() if found.any())
        if repeated.all():
            raise KdlibError(
                f"every person of {store.path} is also in {owners} (same annotation file and annotation ids), and a "
                "person counts once: leave the store out; to see its persons more often, give it a larger weight "
                "(STORE:WEIGHT)"
            )
        if repeated.any():
            sentences[number] = (
                f"{repeated.sum():,} of the {len(rows):,} persons of {store.path} are also in {owners}, and are used "
                "from there: a person counts once"
            )
        datasets[number].keep(~repeated)
        earlier.append((number, ids[~repeated]))
    return [sentences[number] for number in sorted(sentences)]


def _data_set(manifest: Mapping[str, Any]) -> Any:
    """What annotation ids refer to: annotation file and box file or, where these are not known, the content."""
    about = manifest["provenance"].get("dataset") or {}
    files = [(about.get(name) or {}).get("sha256") for name in ("annotations", "boxes")]
    return tuple(files) if files[0] else manifest["content_sha256"]


def _circle(rows: NDArray[np.int64], size: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """The rows (n,) in the order in which the epochs, of ``size`` samples each, take them."""
    return rows if not len(rows) or size % len(rows) == 0 else np.random.default_rng(seed).permutation(rows)


def _seed(seed: int, number: int) -> int:
    """The seed of the augmentation of a store, from the dataset's seed and the number of the store."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed & _LARGEST_UINT64, number]).generate_state(1, np.uint64)[0])
