"""Train the embedded sample's teacher: the small HRNet whose weights are committed next to this file.

    python -m precompute.sample.train_teacher --data data/teacher --out hrnet_w16_sample.safetensors

If the data folder does not exist, the command draws it: 9,000 images with clean labels and seed 1. The demo's sample
has seed 0, so the teacher is never run on images that it was trained on. The network is `hrnet_w16_sample` of
`precompute.teacher.hrnet` at 128x96, trained as in deep-high-resolution-net.pytorch: Gaussian targets, mean squared
error on the raw heatmaps of labelled joints, flips, rotations, scales and half bodies; but with AdamW, a cosine
schedule and batches of 16. At the end, the command prints AP and PCK on the folder's val images with flip test, and
writes fp16 safetensors with these numbers and the command in the metadata.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.files import replacing
from kdcli.flags import Parser, exit_with, local_path, refuse, run_command
from kdlib.machine.process import available_cores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from kdlib.inputs.annotations import Annotations
    from precompute.sample.training_views import InstanceViews, Views

MODEL = "hrnet_w16_sample"
INPUT_SIZE = (96, 128)
HEATMAP_SIZE = (24, 32)
SIGMA = 1.5
"""Standard deviation of the target Gaussians in heatmap pixels."""
BATCH = 16  # after 12,800 views, PCK@0.05 was 32.7 with 16 and 28.5 with 32 (one seed): 16 allows more steps
PEAK_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 1e-2, 0.05
DATA_SEED, VAL_IMAGES = 1, 500


def main(argv: list[str] | None = None) -> int:
    """Draw the data if necessary, train, evaluate and save; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from kdlib.errors import InputError
    from precompute.sample.dataset import SampleError

    if importlib.util.find_spec("safetensors") is None:  # needed for the last step, an hour later
        return refuse("safetensors is needed to save the weights: pip install safetensors")
    interrupted = f"interrupted; {arguments.out} was not written"
    return run_command(lambda: _run(arguments), (SampleError, InputError, OSError), interrupted)


def _run(arguments: argparse.Namespace) -> None:
    train_teacher(arguments)


def _parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(
        prog="python -m precompute.sample.train_teacher",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="training data; drawn if it does not exist"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument(
        "--images", type=int, default=9000, metavar="N", help="number of images to draw (default: 9000)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=100_000,
        metavar="N",
        help="number of augmented views to train on (default: 100000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of initial weights and views (default: 0)")
    parser.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        metavar="N",
        help="processes that draw (default: number of cores)",
    )
    return parser


def train_teacher(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and save; returns the metrics of the final weights in percent."""
    import torch

    from kdlib.inputs.annotations import read_keypoint_annotations
    from precompute.sample.training_views import InstanceViews
    from precompute.teacher.hrnet import build_hrnet

    data: Path = arguments.data
    _ensure_data(data, arguments.images, arguments.workers)
    train, val = (
        read_keypoint_annotations(data / "annotations" / f"person_keypoints_{split}.json") for split in ("train", "val")
    )
    torch.manual_seed(arguments.seed)
    model = build_hrnet(MODEL).to(memory_format=torch.channels_last)
    views = InstanceViews(data / "images", train.instances, INPUT_SIZE)
    _fit(model, views, max(1, arguments.samples // BATCH), arguments.seed)
    model.half().float()  # evaluate the fp16 weights that are saved
    metrics = evaluate(model, InstanceViews(data / "images", val.instances, INPUT_SIZE), val)
    numbers = {name: round(metrics[name], 2) for name in ("ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2")}
    result = {**numbers, "instances": metrics["instances"], "persons_trained_on": len(views)}
    sys.stdout.write(json.dumps(result) + "\n")
    _save(model, arguments, numbers)
    return metrics


def _ensure_data(folder: Path, images: int, workers: int) -> None:
    from kdcli.progress import show_progress
    from precompute.sample.dataset import read_marker, write_sample
    from precompute.sample.spec import SampleSpec

    if read_marker(folder) is None:
        spec = SampleSpec(DATA_SEED, images, VAL_IMAGES, clean_train=True)
        with show_progress("drawing people", "images") as progress:
            write_sample(folder, spec, workers=workers, progress=progress)


def _fit(model: "nn.Module", views: "InstanceViews", steps: int, seed: int) -> None:
    import numpy as np
    import torch

    from kdcli.progress import show_progress
    from precompute.sample.training_views import shuffled_batches

    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps + 1, pct_start=WARMUP, cycle_momentum=False
    )
    model.train()
    with show_progress("training", "steps") as progress:
        for step, batch in enumerate(shuffled_batches(views, BATCH, steps, np.random.default_rng(seed)), start=1):
            optimizer.zero_grad(set_to_none=True)
            _loss(model, batch).backward()
            optimizer.step()
            schedule.step()
            progress(step, steps)


def _loss(model: "nn.Module", batch: "Views") -> "torch.Tensor":
    import torch

    from kdlib.heatmaps import gaussian_heatmaps
    from kdlib.losses import heatmap_mse

    targets = torch.from_numpy(gaussian_heatmaps(batch.points, batch.weights, HEATMAP_SIZE, SIGMA))
    return heatmap_mse(_heatmaps(model, batch.crops), targets, torch.from_numpy(batch.weights))


def _heatmaps(model: "nn.Module", crops: "NDArray[np.uint8]") -> "torch.Tensor":
    """Compute raw heatmaps (B, K, H, W) float32 of crops (B, H, W, 3) uint8; uses bfloat16 on CPUs where it is fast."""
    import torch

    from kdlib.images import normalise_images
    from kdlib.machine.device import choose_precision

    fast = choose_precision("auto", torch.device("cpu")) == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        return model(normalise_images(torch.from_numpy(crops))).float()


def evaluate(model: "nn.Module", views: "InstanceViews", annotations: "Annotations") -> dict[str, Any]:
    """Compute AP, AR and PCK on plain crops with flip test, in percent; see `kdlib.metrics.evaluation`."""
    import numpy as np
    import torch

    from kdlib.heatmaps import flip_average
    from kdlib.metrics.evaluation import decode_to_image, evaluate_points
    from kdlib.skeletons.skeleton import COCO
    from precompute.sample.training_views import STRIDE

    model.eval()
    points, scores = [], []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(views)), -(-len(views) // BATCH)):
            crops, affines = views.plain(rows)
            mirrored = np.ascontiguousarray(crops[:, :, ::-1])
            maps, back = (_heatmaps(model, images).numpy() for images in (crops, mirrored))
            maps = flip_average(maps, back, COCO.flip_order)
            batch_points, batch_scores = decode_to_image(maps, affines, STRIDE)
            points.append(batch_points)
            scores.append(batch_scores)
    columns, truth = annotations.instances.columns(), annotations.ground_truth.columns()
    return evaluate_points(truth, columns, np.concatenate(points), np.concatenate(scores))


def _save(model: "nn.Module", arguments: argparse.Namespace, numbers: dict[str, float]) -> None:
    """Save the weights as fp16; batch norm's counters stay integers."""
    from safetensors.torch import save_file

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = _metadata(arguments, numbers)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.out) as temporary:
        save_file(state, temporary, metadata)
        temporary.chmod(0o644)


def _metadata(arguments: argparse.Namespace, numbers: dict[str, float]) -> dict[str, str]:
    """The origin of the weights, for the metadata of safetensors."""
    import torch

    command = (
        f"python -m precompute.sample.train_teacher --data {arguments.data} --out {arguments.out} "
        f"--images {arguments.images} --samples {arguments.samples} --seed {arguments.seed}"
    )
    return {
        "model": MODEL,
        "input_size": f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]} (width x height)",
        "command": command,
        "data": json.dumps(json.loads((arguments.data / "sample.json").read_text(encoding="utf-8"))),
        "metrics": json.dumps(numbers),
        "torch": torch.__version__,
        "license": "Apache-2.0",
    }


if __name__ == "__main__":
    exit_with(main)
