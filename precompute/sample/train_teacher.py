"""Train the embedded sample's teacher, the small HRNet that is committed beside this file.

    python -m precompute.sample.train_teacher --data data/teacher --out hrnet_w16_sample.safetensors

Its own training data is drawn when the folder is missing: 9,000 pictures with clean labels and seed 1, where the
demo's sample has seed 0. So the teacher never saw the pictures whose heatmaps it will be asked for, train or val. The
network is `hrnet_w16_sample` of `precompute.teacher.hrnet` at 128x96, trained the way of deep-high-resolution-net.pytorch:
Gaussian targets, mean squared error on the raw maps over labelled joints, flips, rotations, scales and half bodies; but
with AdamW, a cosine schedule and batches of 16. At the end it prints AP and PCK on the folder's val pictures with flip
test, and writes fp16 safetensors with these numbers and the command in its metadata.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.flags import Parser

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdlib.annotations import Annotations
    from precompute.sample.training_views import PersonViews, Views

MODEL = "hrnet_w16_sample"
INPUT_SIZE = (96, 128)
HEATMAP_SIZE = (24, 32)
SIGMA = 1.5
"""Of the target Gaussians, heatmap px."""
BATCH = 16  # after 12,800 views PCK@0.05 was 32.7 with 16 and 28.5 with 32 (one seed): more steps
PEAK_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 1e-2, 0.05
DATA_SEED, VAL_PICTURES = 1, 500


def main(argv: list[str] | None = None) -> int:
    """Draw the data if need be, train, evaluate, save; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from kdlib.annotations import AnnotationError
    from precompute.sample.dataset import SampleError

    if importlib.util.find_spec("safetensors") is None:  # of the last step, an hour later
        sys.stderr.write("error: the teacher's weights are kept in safetensors: pip install safetensors\n")
        return 1
    try:
        train_teacher(arguments)
    except (SampleError, AnnotationError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"error: interrupted; {arguments.out} was not written\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(
        prog="python -m precompute.sample.train_teacher",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data, drawn when missing")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--images", type=int, default=9000, metavar="N", help="pictures to draw (default 9000)")
    parser.add_argument("--samples", type=int, default=100_000, metavar="N", help="views to train on (default 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and views (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that draw")
    return parser


def train_teacher(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole job; returns the metrics of the final weights."""
    import torch

    from kdlib.annotations import read_keypoint_annotations
    from precompute.sample.training_views import PersonViews
    from precompute.teacher.hrnet import build_hrnet

    data: Path = arguments.data
    _ensure_data(data, arguments.images, arguments.workers)
    train, val = (
        read_keypoint_annotations(data / "annotations" / f"person_keypoints_{split}.json") for split in ("train", "val")
    )
    torch.manual_seed(arguments.seed)
    model = build_hrnet(MODEL).to(memory_format=torch.channels_last)
    views = PersonViews(data / "images", train.instances, INPUT_SIZE)
    _fit(model, views, max(1, arguments.samples // BATCH), arguments.seed)
    model.half().float()  # what is measured is what is saved
    metrics = evaluate(model, PersonViews(data / "images", val.instances, INPUT_SIZE), val)
    numbers = {name: round(metrics[name], 2) for name in ("ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2")}
    result = {**numbers, "instances": metrics["instances"], "persons_trained_on": len(views)}
    sys.stdout.write(json.dumps(result) + "\n")
    _save(model, arguments, numbers)
    return metrics


def _ensure_data(folder: Path, images: int, workers: int) -> None:
    from kdcli.progress import progress
    from precompute.sample.dataset import read_marker, write_sample
    from precompute.sample.spec import SampleSpec

    if read_marker(folder) is None:
        spec = SampleSpec(DATA_SEED, images, VAL_PICTURES, clean_train=True)
        with progress("drawing people", "images") as tell:
            write_sample(folder, spec, workers=workers, progress=tell)


def _fit(model: "nn.Module", views: "PersonViews", steps: int, seed: int) -> None:
    import numpy as np
    import torch

    from kdcli.progress import progress
    from precompute.sample.training_views import shuffled_batches

    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps + 1, pct_start=WARMUP, cycle_momentum=False
    )
    model.train()
    with progress("training", "steps") as tell:
        for step, batch in enumerate(shuffled_batches(views, BATCH, steps, np.random.default_rng(seed)), start=1):
            optimizer.zero_grad(set_to_none=True)
            _loss(model, batch).backward()
            optimizer.step()
            schedule.step()
            tell(step, steps)


def _loss(model: "nn.Module", batch: "Views") -> "torch.Tensor":
    import torch

    from kdlib.heatmaps import gaussian_heatmaps
    from kdlib.losses import heatmap_mse

    targets = torch.from_numpy(gaussian_heatmaps(batch.points, batch.weights, HEATMAP_SIZE, SIGMA))
    return heatmap_mse(_heatmaps(model, batch.crops), targets, torch.from_numpy(batch.weights))


def _heatmaps(model: "nn.Module", crops: Any) -> "torch.Tensor":
    """Raw float32 maps (B, K, H, W) of crops (B, H, W, 3) uint8, in bfloat16 where the CPU gains from it."""
    import torch

    from kdlib.images import normalise_images
    from kdlib.machine.device import choose_precision

    fast = choose_precision("auto", torch.device("cpu")) == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        return model(normalise_images(torch.from_numpy(crops))).float()


def evaluate(model: "nn.Module", views: "PersonViews", annotations: "Annotations") -> dict[str, Any]:
    """AP, AR and PCK of plain crops with flip test, in percent (`kdlib.metrics.evaluation.evaluate_points`)."""
    import numpy as np
    import torch

    from kdlib.heatmaps import flip_average
    from kdlib.metrics.evaluation import decode_to_image, evaluate_points
    from precompute.sample.training_views import STRIDE

    model.eval()
    points, scores = [], []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(views)), -(-len(views) // BATCH)):
            crops, affines = views.plain(rows)
            mirrored = np.ascontiguousarray(crops[:, :, ::-1])
            maps = flip_average(*(_heatmaps(model, images).numpy() for images in (crops, mirrored)))
            batch_points, batch_scores = decode_to_image(maps, affines, STRIDE)
            points.append(batch_points)
            scores.append(batch_scores)
    columns, truth = annotations.instances.columns(), annotations.ground_truth.columns()
    return evaluate_points(truth, columns, np.concatenate(points), np.concatenate(scores))


def _save(model: "nn.Module", arguments: argparse.Namespace, numbers: dict[str, float]) -> None:
    """Weights as fp16 (batch norm's counters stay whole numbers), written beside and renamed."""
    from safetensors.torch import save_file

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = _metadata(arguments, numbers)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.out.with_name(f".{arguments.out.name}.{os.getpid()}")
    try:
        save_file(state, beside, metadata)
        beside.chmod(0o644)
        os.replace(beside, arguments.out)
    finally:
        beside.unlink(missing_ok=True)


def _metadata(arguments: argparse.Namespace, numbers: dict[str, float]) -> dict[str, str]:
    """How these weights came about, as safetensors keeps it: strings by name."""
    import torch

    command = (
        f"python -m precompute.sample.train_teacher --data {arguments.data} --out {arguments.out} "
        f"--images {arguments.images} --samples {arguments.samples} --seed {arguments.seed}"
    )
    return {
        "model": MODEL,
        "input_size": f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]} (width x height)",
        "command": command,
        "data": json.dumps(json.loads((arguments.data / "sample.json").read_text())),
        "metrics": json.dumps(numbers),
        "torch": torch.__version__,
        "license": "Apache-2.0",
    }


if __name__ == "__main__":
    sys.exit(main())
