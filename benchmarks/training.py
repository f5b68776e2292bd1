"""What does the teacher cost a training step? `python -m benchmarks.training`.

train.distil_over_baseline   instances/s of distilling from a store over the baseline from the same store
train.store_over_memory      instances/s of the baseline from a store over the same on batches already in memory
train.offline_over_online    instances/s of distilling from a store over the same with HRNet-W32 beside the student;
                             `ideal` is (student + teacher) / student from the bare times of both
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.alone import run_alone
from benchmarks.online import OnlineTeacher
from benchmarks.report import Line
from benchmarks.timing import Work, interleave, timed
from benchmarks.workspace import Workspace
from kdlib.device import choose_device
from train.loop import Run, Trainer
from train.recipe import Recipe
from train.supervision import Batch

SIZE = (192, 256)
"""Width and height of the student's and of the teacher's input."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Lines of the embedded sample's people at 256x192."""
    store = workspace.store("sample", SIZE)
    baseline, distil, online = (
        Epoch(store, workspace, distil=kind != "baseline") for kind in ("baseline", "distil", "online")
    )
    online.teacher = OnlineTeacher(choose_device("auto"))
    in_memory = Epoch(store, workspace, distil=False)
    in_memory.batches = list(in_memory.trainer.loader.epoch(0))
    work: dict[str, Work] = {"baseline": baseline, "distil": distil, "in memory": in_memory, "online": online}
    work["teacher"] = _teacher_alone(online.teacher, in_memory.batches)
    timings = interleave({name: timed(of) for name, of in work.items()}, workspace.effort.some(0.3))
    ideal = 1 + timings.median("teacher") / timings.median("in memory")
    for metric, name, peer, more in (
        ("distil_over_baseline", "distil", "baseline", {}),
        ("store_over_memory", "baseline", "in memory", {}),
        ("offline_over_online", "distil", "online", {"ideal": round(ideal, 3)}),
    ):
        extra = {"input_size": f"{SIZE[1]}x{SIZE[0]}", "spread": timings.spread(peer, name), **more}
        yield Line(
            "train", metric, timings.rate(name), "instances/s", timings.items[name], peer, timings.rate(peer), extra
        )


class Epoch:
    """One epoch of training steps after the other, the making of its batches included."""

    def __init__(self, store: Any, workspace: Workspace, *, distil: bool) -> None:
        recipe = Recipe(pretrained="none", batch_size=workspace.effort.batch_size)
        out = Path(workspace.folder / "run")
        self.trainer = Trainer(Run(store, store, out, recipe, distil=distil, device=choose_device("auto")))
        self.teacher: Callable[..., Any] | None = None
        self.batches: Iterable[Batch] | None = None
        self._number = 0

    def __call__(self) -> int:
        """Train one epoch; returns its instances."""
        self._number += 1
        done = 0
        for batch in self.batches or self.trainer.loader.epoch(self._number):
            if self.teacher is not None:
                batch["heatmaps"] = self.teacher(batch["image"])
            self.trainer._train_step(batch)
            done += len(batch["row"])
        return done


def _teacher_alone(teacher: Callable[..., Any], batches: Iterable[Batch]) -> Work:
    def work() -> int:
        return sum(len(teacher(batch["image"])) for batch in batches)

    return work


if __name__ == "__main__":
    run_alone(run, __doc__)
