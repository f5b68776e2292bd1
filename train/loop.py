"""The training loop: baseline and distillation are the same loop with other loss weights.

A run folder holds ``config.json``, ``history.jsonl`` (a line an epoch), ``last.pt`` and ``best.pt`` (best AP on the
validation store), ``metrics.json`` (the best student's evaluation) and TensorBoard's event files.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kdlib.device import choose_precision
from kdlib.geometry import parse_size
from kdlib.images import normalise_images
from train import checkpoint
from train.augment import Augmentation
from train.dataset import StoreDataset
from train.errors import TrainError
from train.evaluate import check_joints, measure, predict, student_loader, to_json
from train.loader import Loader
from train.recipe import Recipe
from train.students import build_student, load_pretrained
from train.supervision import Batch


@dataclasses.dataclass(frozen=True)
class Run:
    """What to train, from what, and where to."""

    store: Any
    val_store: Any
    out: Path
    recipe: Recipe
    distil: bool
    device: torch.device
    resume: bool = False
    overwrite: bool = False
    images: Path | None = None
    val_images: Path | None = None
    threads: int | None = None

    @property
    def name(self) -> str:
        """How reports call this student."""
        return "distilled" if self.distil else "baseline"

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the student's input."""
        if self.recipe.input_size:
            return parse_size(self.recipe.input_size)
        width, height = self.store.manifest["provenance"]["teacher"]["input_size"]
        return width, height


def fit(run: Run) -> dict[str, Any]:
    """Train a student and evaluate its best checkpoint.

    Returns:
        The content of ``metrics.json``.

    Raises:
        TrainError: If the run folder is taken, a checkpoint belongs to another run, or the loss is not finite.
    """
    trainer = Trainer(run)
    trainer.restore()
    trainer.train()
    return trainer.finish()


class Trainer:
    """The state of one run."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe = run, run.recipe
        check_joints(run.val_store, run.store.spec.joints, "the training store")
        torch.manual_seed(self.recipe.seed)
        self.supervision = checkpoint.supervision_of(
            self.recipe, run.input_size, run.store.manifest["provenance"]["logits"]["floor"], distil=run.distil
        )
        self.model = build_student(self.recipe.student, self.recipe.head, run.store.spec.joints, run.input_size)
        self.model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loader = Loader(
            self._dataset(), self.recipe.batch_size, shuffle=True, threads=run.threads, device=run.device
        )
        self.val_loader = student_loader(run.val_store, run.input_size, 64, run.device, run.val_images)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, self.recipe.weight_decay), fused=True)
        self.steps = self.recipe.epochs * len(self.loader)
        self.epoch, self.step, self.best_ap = 0, 0, -1.0
        self.seconds = 0.0
        self.start = ""
        self.precision = choose_precision(self.recipe.precision, run.device)
        self.autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _dataset(self) -> StoreDataset:
        recipe = self.recipe
        augmentation = Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body)
        needs_teacher = self.supervision.kd_weight > 0
        return StoreDataset(
            self.run.store,
            self.run.input_size,
            augmentation,
            views=recipe.views if needs_teacher else None,
            images=self.run.images,
            seed=recipe.seed,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as ``config.json`` keeps it and a resumed run must match it."""
        width, height = self.run.input_size
        return {
            "name": self.run.name,
            "recipe": dataclasses.asdict(self.recipe),
            "supervision": dataclasses.asdict(self.supervision),
            "input_size": f"{height}x{width}",
            "joints": self.run.store.spec.joints,
            "store": {"name": self.run.store.path.name, "content_sha256": self.run.store.manifest["content_sha256"]},
            "val_store": {
                "name": self.run.val_store.path.name,
                "content_sha256": self.run.val_store.manifest["content_sha256"],
            },
        }

    def restore(self) -> None:
        """Start anew, or go on from ``last.pt``."""
        out, last = self.run.out, self.run.out / "last.pt"
        if self.run.resume and last.exists():
            self._load(last)
            return
        if (out / "config.json").exists() and not (self.run.resume or self.run.overwrite):
            raise TrainError(f"{out} already holds a run; give --resume to go on with it, --overwrite to start anew")
        self.start = load_pretrained(self.model, self.recipe.student, self.recipe.pretrained)
        say(self.start)
        if self.run.overwrite:
            discard(out)
        out.mkdir(parents=True, exist_ok=True)
        resolved = {"device": str(self.run.device), "precision": self.precision, "start": self.start}
        (out / "config.json").write_text(json.dumps({**self.config, "resolved": resolved}, indent=2) + "\n")
        (out / "history.jsonl").write_text("")

    def _load(self, path: Path) -> None:
        content = checkpoint.read(path)
        differing = [key for key, value in self.config.items() if content.get(key) != value]
        if differing:
            raise TrainError(f"{path} belongs to another run: it differs in {', '.join(differing)}; give another --out")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.step = content["epoch"], content["step"]
        self.best_ap, self.seconds = content["best_ap"], content["seconds"]
        if self.precision != content["precision"]:
            raise TrainError(
                f"{path} was trained in {content['precision']} and this is {self.precision}: give --precision"
            )

    def save(self, name: str) -> None:
        """Write the state as a checkpoint of that name."""
        content = {
            **self.config,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best_ap": self.best_ap,
            "seconds": self.seconds,
            "precision": self.precision,
        }
        checkpoint.save(self.run.out / name, content)

    def train(self) -> None:
        """Train the epochs that are left; an interrupt leaves a checkpoint to resume from."""
        from torch.utils.tensorboard import SummaryWriter

        with contextlib.closing(SummaryWriter(str(self.run.out))) as board:
            try:
                while self.epoch < self.recipe.epochs:
                    self._train_epoch(board)
            except KeyboardInterrupt:
                self.save("last.pt")
                raise TrainError(
                    f"interrupted in epoch {self.epoch + 1} of {self.recipe.epochs}; {self.run.out / 'last.pt'} holds "
                    "the state, --resume goes on"
                ) from None

    def _train_epoch(self, board: Any) -> None:
        self.model.train()
        started, sums, done = time.perf_counter(), dict.fromkeys(("loss", "gt", "kd"), 0.0), 0
        first = self.step - self.epoch * len(self.loader)
        try:
            for batch in self._progress(self.loader.epoch(self.epoch, first), first):
                terms = self._train_step(batch)
                done += 1
                for name, value in terms.items():
                    sums[name] += value
                    board.add_scalar(f"train/{name}", value, self.step)
        finally:
            elapsed = time.perf_counter() - started
            self.seconds += elapsed
        losses = {name: value / max(done, 1) for name, value in sums.items() if value or name == "loss"}
        rate = round(done * self.loader.batch_size / elapsed, 1)
        self._close_epoch({"epoch": self.epoch + 1, **losses, "instances_per_second": rate}, board)

    def _progress(self, batches: Iterator[Batch], first: int) -> "tqdm[Batch]":
        label = f"{self.run.name} {self.epoch + 1}/{self.recipe.epochs}"
        quiet = not sys.stderr.isatty()
        return tqdm(batches, desc=label, total=len(self.loader), initial=first, unit="step", leave=False, disable=quiet)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; returns the loss and its terms."""
        learning_rate = self.recipe.learning_rate * _schedule(self.step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with self.autocast:
            maps = self.model(normalise_images(batch["image"]))
        terms = self.supervision.terms(maps, batch)
        loss = torch.stack(list(terms.values())).sum()
        self._check_finite(loss, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        return {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        if torch.isfinite(loss):
            return
        ids = self.run.store.instances["annotation_id"][batch["row"].numpy()]
        raise TrainError(
            f"the loss is {loss.item()} at step {self.step + 1}, before the optimiser took it in; the batch's "
            f"annotation ids are {', '.join(map(str, ids))}; {self.run.out / 'last.pt'} holds the last epoch's state: "
            "look at these instances, or lower --learning-rate and start anew"
        )

    def _close_epoch(self, line: dict[str, Any], board: Any) -> None:
        """Evaluate, keep the best, write the checkpoint and the line of the epoch."""
        metrics = measure(self.run.val_store, predict(self.model, self.supervision, self.val_loader))
        line |= {name: metrics[name] for name in ("ap", "ap50", "pck@0.05", "pck@0.1")}
        for name in ("ap", "pck@0.05"):
            board.add_scalar(f"val/{name}", metrics[name], self.step)
        score = metrics["ap"] if math.isfinite(metrics["ap"]) else 0.0
        self.epoch += 1  # closed once it is evaluated: an interrupt before this line evaluates it again
        if score > self.best_ap:
            self.best_ap = score
            self.save("best.pt")
        self.save("last.pt")
        with (self.run.out / "history.jsonl").open("a") as file:
            file.write(to_json(line) + "\n")
        say(_epoch_line(self.run.name, self.recipe.epochs, line))

    def finish(self) -> dict[str, Any]:
        """Evaluate the best student and write ``metrics.json``."""
        best = checkpoint.load_student(self.run.out / "best.pt")
        predictions = predict(best.model.to(self.run.device), best.supervision, self.val_loader)
        metrics = {
            **measure(self.run.val_store, predictions),
            "model": self.run.name,
            "store": self.run.val_store.path.name,
            "train_seconds": round(self.seconds, 1),
            "train_instances_per_second": round(self.step * self.loader.batch_size / max(self.seconds, 1e-9), 1),
        }
        (self.run.out / "metrics.json").write_text(to_json(metrics, indent=2) + "\n")
        return metrics


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Kernels with weight decay; biases and norms without."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def say(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)


def _epoch_line(name: str, epochs: int, line: dict[str, Any]) -> str:
    return (
        f"{name} epoch {line['epoch']}/{epochs}: loss {line['loss']:.3f}, AP {line['ap']:.1f}, "
        f"PCK@0.05 {line['pck@0.05']:.1f}, {line['instances_per_second']:.0f} instances/s"
    )


def refuse_foreign(out: Path) -> None:
    """Raise `TrainError` if a folder is not empty and holds no run: nothing in it is ours to throw away."""
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise TrainError(f"{out} is not a run folder, --overwrite leaves it alone; give another --out")


def discard(out: Path) -> None:
    """Delete the files of a run in a folder, and nothing else."""
    for name in ("config.json", "history.jsonl", "last.pt", "best.pt", "metrics.json", "evaluation.json"):
        (out / name).unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
