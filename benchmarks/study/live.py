"""What does a student learn from the teacher itself, asked about every augmented view? `python -m benchmarks.study.live`.

    python -m benchmarks.study.live --teacher onnx:network.onnx --store train.zarr --val-store val.zarr --out runs/live \
        --input-size 128x96 --epochs 30 --pretrained squeezenet1_1.pth

The peer of `python -m train distill` for accuracy: the same loop, samples, seeds and flags, with the teacher beside the
student in every step in place of the stored maps. The teacher sees the view at its own input size; the student's pixels
are every second, third ... of the teacher's, its maps those pixels of the teacher's that `--stride` asks for. This
takes hours, asserts nothing, and is no part of `make bench`.
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
from kdlib.samples.views import Views
from precompute.teacher.loading import Teacher, load_teacher
from train.recipe import Recipe, add_arguments
from train.run.loop import Trainer
from train.run.settings import Run


class EnlargedDataset(StoreDataset):
    """The samples of another dataset, ``every`` times as large: its pixel u lies at pixel ``every`` u here."""

    def __init__(self, of: StoreDataset, every: int) -> None:
        size = (of.input_size[0] * every, of.input_size[1] * every)
        super().__init__(of.store, size, of.augmentation, stride=of.stride, views=None, images=of.images, seed=of.seed)
        self.of, self.every = of, every

    def _views(self, rows: NDArray[np.int64], epoch: int) -> Views:
        views = self.of._views(rows, epoch)
        return Views(self.every * views.affines, views.flips)


class LiveLoader(Loader):
    """The batches of a trainer's loader, with maps that the teacher makes of the pictures themselves.

    Args:
        of: The trainer's loader; its pictures and maps are replaced.
        teacher: Its input is a whole multiple of the student's, and its maps hold every pixel of the student's.
    """

    def __init__(self, of: Loader, teacher: Teacher) -> None:
        stored = of.dataset
        self.teacher, self.every = teacher, teacher.input_size[0] // stored.input_size[0]
        if tuple(side * self.every for side in stored.input_size) != tuple(teacher.input_size):
            raise SystemExit(f"error: the teacher's input {teacher.input_size} is no multiple of {stored.input_size}")
        self.apart, rest = divmod(self.every * stored.stride * teacher.heatmap_size[0], teacher.input_size[0])
        if rest or not self.apart:
            lacking = f"lack pixels of the student's at --stride {stored.stride}"
            raise SystemExit(f"error: the teacher's maps {teacher.heatmap_size} {lacking}")
        shown = EnlargedDataset(stored, self.every)
        super().__init__(shown, of.batch_size, shuffle=True, threads=of.threads, device=of.device, order=of.order)

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """As `Loader.epoch`."""
        for batch in super().epoch(number, first):
            maps = torch.from_numpy(self.teacher(batch["image"].cpu().numpy())).to(self.device)
            yield batch | {
                "image": batch["image"][:, :: self.every, :: self.every],
                "heatmaps": maps[:, :, :: self.apart, :: self.apart],
                "keypoints": batch["keypoints"] / self.every,
            }


def main(argv: list[str] | None = None) -> int:
    """Train one student, evaluate it, and print what `train distill` prints."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="as `precompute` takes it")
    parser.add_argument("--checkpoint", type=Path, help="its weights")
    parser.add_argument("--store", type=Path, required=True, help="persons and frames; its maps are not read")
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
    trainer.state.restore()
    trainer.train()
    metrics = trainer.finish()
    print(f"live teacher: AP {metrics['ap']:.1f}, PCK@0.05 {metrics['pck@0.05']:.1f}, {metrics['train_seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
