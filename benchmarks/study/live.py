r"""Train a student with a live teacher, to compare its accuracy with a store's: `python -m benchmarks.study.live`.

    python -m benchmarks.study.live --teacher onnx:network.onnx --store train.zarr --val-store val.zarr \
        --out runs/live --input-size 128x96 --epochs 30 --pretrained squeezenet1_1.pth

Loop, samples, seeds and flags are those of `python -m train distill`, but the teacher runs on every augmented view
instead of reading stored heatmaps. The teacher's crop shows the view at the teacher's input size. The student's input
has every second, third ... pixel of the teacher's input, and its target has the pixels of the teacher's maps that match
`--stride`. This takes hours and is not part of `make bench`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import cache
from kdcli.flags import Parser
from kdlib.machine.device import choose_device
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.placement import Placer
from kdlib.samples.views import AugmentedViews, Epoch
from precompute.teacher.loading import Teacher, load_teacher
from train.recipe import Recipe, add_arguments
from train.run.loop import Trainer
from train.run.settings import Run


class EnlargedDataset(StoreDataset):
    """The samples of another dataset, ``factor`` times as large: pixel u of that dataset lies at pixel factor * u."""

    def __init__(self, small: StoreDataset, factor: int) -> None:
        size = (small.input_size[0] * factor, small.input_size[1] * factor)
        super().__init__(
            small.store, size, small.augmentation, stride=small.stride, views=None, images=small.images, seed=small.seed
        )
        self.placer = _EnlargedPlacer(self, small.placer, factor)


class _EnlargedPlacer(Placer):
    """Places the samples of ``dataset`` in the augmented views of another placer, enlarged by a factor."""

    def __init__(self, dataset: StoreDataset, small: Placer, factor: int) -> None:
        super().__init__(
            dataset.store,
            dataset.input_size,
            dataset.stride,
            dataset.augmentation,
            dataset.skeleton.is_upper,
            views=None,
            from_images=dataset.images is not None,
            seed=dataset.seed,
        )
        self._small, self._factor = small, factor

    def augmented_views(self, rows: NDArray[np.int64], epoch: Epoch) -> AugmentedViews:
        """The other placer's views, enlarged."""
        views = self._small.augmented_views(rows, epoch)
        return AugmentedViews(self._factor * views.image_to_input, views.flips)


class LiveLoader(Loader):
    """The batches of a trainer's loader, with the live teacher's maps of the augmented views.

    Args:
        stored: The trainer's loader, whose images and maps are replaced.
        teacher: A teacher whose input is a whole multiple of the student's, and whose maps contain every pixel of the
            student's maps.

    Raises:
        SystemExit: If the sizes of teacher and student do not fit.
    """

    def __init__(self, stored: Loader, teacher: Teacher) -> None:
        dataset = stored.dataset
        if not isinstance(dataset, StoreDataset):
            raise SystemExit("error: give one --store")
        self.teacher, self.factor = teacher, teacher.input_size[0] // dataset.input_size[0]
        if tuple(side * self.factor for side in dataset.input_size) != tuple(teacher.input_size):
            sizes = f"{teacher.input_size} is not a multiple of the student's {dataset.input_size}"
            raise SystemExit(f"error: the teacher's input {sizes}")
        self.map_step, rest = divmod(self.factor * dataset.stride * teacher.heatmap_size[0], teacher.input_size[0])
        if rest or not self.map_step:
            problem = f"lack pixels of the student's maps at --stride {dataset.stride}"
            raise SystemExit(f"error: the teacher's maps {teacher.heatmap_size} {problem}")
        super().__init__(
            EnlargedDataset(dataset, self.factor),
            stored.batch_size,
            shuffle=True,
            threads=stored.threads,
            device=stored.device,
            order=stored.order,
        )

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch, as `Loader.epoch`."""
        for batch in super().epoch(number, first):
            maps = torch.from_numpy(self.teacher(batch["image"].cpu().numpy())).to(self.device)
            yield batch | {
                "image": batch["image"][:, :: self.factor, :: self.factor],
                "heatmaps": maps[:, :, :: self.map_step, :: self.map_step],
                "keypoints": batch["keypoints"] / self.factor,
            }


def main(argv: list[str] | None = None) -> int:
    """Train one student, evaluate it, and print its metrics."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="name of the teacher, as in `precompute`")
    parser.add_argument("--checkpoint", type=Path, help="its weights")
    parser.add_argument(
        "--store", type=Path, required=True, help="store with the instances and frames; its heatmaps are not used"
    )
    parser.add_argument("--val-store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true")
    add_arguments(parser)
    options = parser.parse_args(argv)
    run = Run(
        cache.open_store(options.store),
        cache.open_store(options.val_store),
        options.out,
        Recipe.from_arguments(options),
        distil=True,
        device=choose_device("auto"),
        threads=options.threads,
        resume=options.resume,
    )
    trainer = Trainer(run)
    trainer.state.loader = LiveLoader(trainer.loader, load_teacher(options.teacher, options.checkpoint))
    trainer.start()
    trainer.train()
    metrics = trainer.finish()
    print(f"live teacher: AP {metrics['ap']:.1f}, PCK@0.05 {metrics['pck@0.05']:.1f}, {metrics['train_seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
