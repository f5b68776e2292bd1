"""Reads a finished or unfinished run for its card: checkpoint, metrics, history, and the manifests of its stores."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cache import Store
from kdcli.files import file_sha256
from kdlib.readout import DECODER
from kdlib.students import checkpoint
from kdlib.students.checkpoint import LEGACY_DEFAULTS
from kdlib.students.loading import TorchStudent, load_checkpoint
from kdlib.students.release import CARD, CHECKSUMS
from train.errors import TrainError
from train.show.report.comparison import read_numbers
from train.show.report.evidence import read_history, read_json
from train.stores import VAL_STORE, recorded

BEST: Final = "best.pt"
REPORT: Final = "report.html"


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What is known about a run."""

    folder: Path
    checkpoint: Path
    """File of the student."""
    sha256: str
    """SHA-256 of the checkpoint."""
    student: TorchStudent
    config: dict[str, Any]
    """The configuration in the checkpoint, without weights."""
    history: list[dict[str, Any]]
    """Lines of history.jsonl."""
    finished: bool
    """Whether the run has written metrics.json."""
    metrics: dict[str, Any] | None
    """Metrics in percent of the checkpoint on the validation store, from the source that has the most."""
    cost: dict[str, Any]
    """Entries of evaluation.json about the cost, e.g. cpu_ms."""
    manifests: dict[str, Mapping[str, Any] | None]
    """Manifest of each of ``stores``; None if it is not known."""
    numbers: dict[str, Any] | None
    """The numbers of a report that measured this checkpoint on the validation store."""
    report: Path | None
    """The file of that report."""

    @property
    def distilled(self) -> bool:
        """Whether a teacher taught the student."""
        return bool(self.config["supervision"].get("kd_weight", 0) > 0)

    @property
    def labels(self) -> bool:
        """Whether labels taught the student."""
        return bool(self.config["supervision"].get("gt_weight", 0) > 0)

    @property
    def stores(self) -> dict[str, dict[str, Any]]:
        """The identities of the stores by name, see `train.stores.recorded`; empty for one that was not recorded."""
        return {name: of or {} for name, of in recorded(self.config).items()}

    @property
    def training_stores(self) -> list[str]:
        """The names in ``stores`` of the training stores."""
        return [name for name in self.stores if name != VAL_STORE]

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers of the training stores, without repetition; empty if a manifest is not known."""
        manifests = [self.manifests[name] for name in self.training_stores]
        names = [str(manifest["provenance"]["teacher"]["name"]) for manifest in manifests if manifest]
        return list(dict.fromkeys(names)) if len(names) == len(manifests) else []

    @property
    def epoch(self) -> int | None:
        """Number of the epoch of the checkpoint, from 1; None for the checkpoints of old versions."""
        return self.config.get("epoch")


def read_run(path: Path, stores: Sequence[Store] = (), report: Path | None = None) -> RunFacts:
    """Read a run.

    Args:
        path: The run folder, or a checkpoint in it.
        stores: Stores of the run, in any order; needed for the provenance of runs of versions that did not record it.
        report: A report of this run; by default report.html in the run folder or beside it, if it measured this
            checkpoint.

    Raises:
        TrainError: If the path is not a run with a student, a store is not of this run, or the report is not.
        KdlibError: If the checkpoint cannot be read.
    """
    file = _find_checkpoint(path)
    folder = file.parent
    student, config = load_checkpoint(file), checkpoint.read(file)
    config = {key: value for key, value in config.items() if key not in ("model", "ema")}
    config["recipe"] = LEGACY_DEFAULTS | config["recipe"]
    sha256 = file_sha256(file)
    manifests = _manifests(folder, config, stores)
    written, numbers = _find_report(folder, report, sha256, config)
    history = read_history(folder / "history.jsonl")
    finished = (folder / "metrics.json").exists()
    evaluation = _optional(folder / "evaluation.json")
    return RunFacts(
        folder=folder,
        checkpoint=file,
        sha256=sha256,
        student=student,
        config=config,
        history=history,
        finished=finished,
        metrics=_metrics(folder, config, evaluation, numbers, history, sha256),
        cost={name: evaluation[name] for name in ("cpu_ms",) if evaluation.get(name) is not None},
        manifests=manifests,
        numbers=numbers,
        report=written,
    )


def stores_of(path: Path, stores: Sequence[Store]) -> list[Store]:
    """Those of some stores that the run of a checkpoint used, by their content."""
    config = checkpoint.read(path)
    contents = {(of or {}).get("content_sha256") for of in recorded(config).values()}
    return [store for store in stores if store.manifest["content_sha256"] in contents]


def _find_checkpoint(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise TrainError(
            f"there is no run at {path}; give the folder that `python -m train distill` or `baseline` wrote"
        )
    if (path / BEST).is_file():
        return path / BEST
    if (path / CHECKSUMS).is_file():
        raise TrainError(f"{path} is a release, not a run; its card is {path / CARD}")
    if (path / "config.json").is_file():
        raise TrainError(f"{path} has no {BEST} yet: no epoch of the run is finished; continue it with --resume")
    raise TrainError(f"{path} is not a run folder: it has no {BEST} and no config.json")


def _manifests(folder: Path, config: Mapping[str, Any], stores: Sequence[Store]) -> dict[str, Mapping[str, Any] | None]:
    """The manifest of each store: of an opened store, or as the run recorded it, whichever has the same content."""
    identities = {name: of or {} for name, of in recorded(config).items()}
    wanted = {name: of.get("content_sha256") for name, of in identities.items()}
    if stores and not all(wanted.values()):
        raise TrainError(f"{folder} does not record the content of its stores, so --store cannot be compared with it")
    written = recorded(_optional(folder / "config.json").get("manifests") or {})
    found: dict[str, Mapping[str, Any] | None] = {}
    for name, sha256 in wanted.items():
        manifest = written.get(name)
        fits = isinstance(manifest, Mapping) and manifest.get("content_sha256") == sha256 is not None
        found[name] = manifest if fits else None
    for store in stores:
        content = store.manifest["content_sha256"]
        names = [name for name, sha256 in wanted.items() if sha256 == content]
        if not names:
            listed = " and ".join(f"{of['name']} ({str(wanted[name])[:12]})" for name, of in identities.items())
            raise TrainError(
                f"{store.path} is not a store of {folder}: its content_sha256 begins with {content[:12]}, but the run "
                f"used {listed}; give its stores, or none: a run records their manifests"
            )
        found |= dict.fromkeys(names, store.manifest)
    return found


def _find_report(
    folder: Path, given: Path | None, sha256: str, config: Mapping[str, Any]
) -> tuple[Path | None, dict[str, Any] | None]:
    """The report of this checkpoint on the validation store, and its numbers."""
    content = (config.get("val_store") or {}).get("content_sha256")
    for path in [given] if given else [folder / REPORT, folder.parent / REPORT]:
        numbers = read_numbers(path) if given or path.is_file() else None
        if numbers and _place(numbers, sha256) is not None and numbers.get("store") == content:
            return path, numbers
    if given:
        raise TrainError(
            f"{given} is not a report of {folder / BEST} on the run's validation store; write it again with "
            "`python -m train report`"
        )
    return None, None


def _place(numbers: Mapping[str, Any], sha256: str) -> int | None:
    keys = [student.get("checkpoint_sha256") for student in numbers.get("students", ())]
    return keys.index(sha256) if sha256 in keys else None


def _metrics(
    folder: Path,
    config: Mapping[str, Any],
    evaluation: dict[str, Any],
    numbers: dict[str, Any] | None,
    history: list[dict[str, Any]],
    sha256: str,
) -> dict[str, Any] | None:
    """The metrics of the run, else of its evaluation or report, else of the epoch in its history, else None.

    The report replaces the metrics of a run of an old version, which decoded its heatmaps in another way.
    """
    measured = dict(numbers["students"][_place(numbers, sha256) or 0]["metrics"], decoder=DECODER) if numbers else None
    if reported := _optional(folder / "metrics.json"):
        reported = {"decoder": "argmax", **reported}  # runs made before decision 0015 do not name the decoder
        return reported if measured is None or reported["decoder"] == DECODER else measured
    if evaluation and evaluation.get("store") == (config.get("val_store") or {}).get("name"):
        return evaluation
    if measured:
        return measured
    return next((line for line in history if line.get("epoch") == config.get("epoch")), None)


def _optional(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is no such file."""
    return read_json(path) if path.exists() else {}


def store_name(run: RunFacts, name: str) -> str:
    """The name of one of a run's stores."""
    return str(run.stores[name].get("name", "an unknown store"))
