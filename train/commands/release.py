"""Gather a run's student, card, exported files, report and manifests in one folder with checksums.

    python -m train release runs/distilled --store train.zarr val.zarr --out release
    python -m train release runs/distilled --out release                # without stores: no int8 file
    python -m train release runs/distilled --out release --overwrite    # replace a release

The folder holds README.md (the card) with training.svg, student.pt (the checkpoint), student.onnx, student.int8.onnx,
report.html, store.json and val_store.json (the manifests of the stores; of several training stores store_1.json,
store_2.json and so on), and SHA256SUMS. What cannot be made is left out, and the command and the card say why. The
folder appears under its name only when it is complete. `predict`, `evaluate` and kdlib.students.load_student take the
folder.
"""

import argparse
import contextlib
import dataclasses
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kdcli.flags import local_path
from kdcli.progress import say
from kdlib.errors import KdlibError
from train.commands import card, export

if TYPE_CHECKING:
    from cache import Store
    from train.show.card.facts import RunFacts

PICTURE: Final = "training.svg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the release in --out, if there is one")
    card.add_source_arguments(parser)
    export.add_check_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the release; returns 0.

    Raises:
        TrainError: If RUN is not a run with a student, a store or report is not of this run, or --out cannot be
            written.
    """
    import cache
    from kdlib.students.release import CARD, CHECKPOINT
    from train.deploy.measurements import list_checkpoint, list_exported
    from train.deploy.release import building, check_target
    from train.show.card.facts import REPORT, read_run
    from train.show.card.text import Card
    from train.show.card.writing import write_card

    target = check_target(arguments.out, overwrite=arguments.overwrite)
    stores = [cache.open_store(store) for store in arguments.store]
    facts = read_run(arguments.run, stores, arguments.report)
    opened = {store.manifest["content_sha256"]: store for store in stores}
    by_name = {name: opened.get(of.get("content_sha256")) for name, of in facts.stores.items()}
    left_out: dict[str, str] = {}
    with building(target) as folder:
        shutil.copyfile(facts.checkpoint, folder / CHECKPOINT)
        exported = _export(arguments, facts, by_name, folder, left_out)
        facts = _with_report(arguments, facts, by_name["val_store"], left_out)
        if facts.report:
            shutil.copyfile(facts.report, folder / REPORT)
        _write_manifests(facts, folder, left_out)
        files = list_exported(facts, list(exported), folder, exported)
        files.append(list_checkpoint(facts, folder / CHECKPOINT, folder))
        write_card(Card(facts, files, PICTURE, arguments.license, left_out, release=True), folder / CARD)
    for name, reason in left_out.items():
        say(f"left out {name}: {reason}")
    for file in files:
        print(f"{arguments.out / file.name}: {file}")
    print(f"release: {arguments.out} with {', '.join(sorted(file.name for file in target.iterdir()))}")
    return 0


def _export(
    arguments: argparse.Namespace,
    facts: "RunFacts",
    stores: Mapping[str, "Store | None"],
    folder: Path,
    left_out: dict[str, str],
) -> dict[Path, dict[str, Any]]:
    """Export to ONNX and to int8, as far as possible; returns the files with their accuracy, if it was measured."""
    from kdlib.students.release import EXPORTED, INT8
    from train.deploy.network import Deployable, describe

    val_store = stores["val_store"]
    train_stores = [stores[name] for name in facts.training_stores]
    calibration = next((store for store in train_stores if store and store.has_frames), None)
    options = argparse.Namespace(
        **vars(arguments) | {"out": folder / EXPORTED, "store": val_store and val_store.path, "normalised": False},
        calibrate=calibration and calibration.path,
    )
    network, properties = Deployable(facts.student), describe(facts.student, normalised=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its lines name the temporary folder
            export.export_float32(options, facts.student, network, properties)
    except KdlibError as error:
        left_out[EXPORTED] = left_out[INT8] = _reason(error, folder)
        return {}
    if val_store is None:
        left_out[INT8] = "its accuracy is measured on the validation store, which was not given (--store)"
        return {folder / EXPORTED: {}}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return export.export_int8(options, facts.student, network, {**properties, "precision": "int8"})
    except KdlibError as error:
        left_out[INT8] = _reason(error, folder)
        return {folder / EXPORTED: {}}


def _reason(error: KdlibError, folder: Path) -> str:
    """The message of an error, without the temporary folder."""
    return str(error).replace(f"{folder}/", "")


def _with_report(
    arguments: argparse.Namespace, facts: "RunFacts", val_store: "Store | None", left_out: dict[str, str]
) -> "RunFacts":
    """The facts of the run with a report, which is written to the run folder if there is none."""
    from train.show.card.facts import REPORT, read_run
    from train.show.report.page import write_report

    if facts.report:
        return facts
    if val_store is None:
        left_out[REPORT] = (
            "there is no report of this run, and the validation store, which it needs, was not given (--store)"
        )
        return facts
    try:
        write_report(val_store, [facts.folder], facts.folder / REPORT, arguments.images)
    except KdlibError as error:
        left_out[REPORT] = str(error)
        return facts
    return dataclasses.replace(read_run(arguments.run, [], facts.folder / REPORT), manifests=facts.manifests)


def _write_manifests(facts: "RunFacts", folder: Path, left_out: dict[str, str]) -> None:
    from cache.files.durable import json_bytes

    for name, manifest in facts.manifests.items():
        file = f"{name}.json"
        if manifest:
            (folder / file).write_bytes(json_bytes(dict(manifest)))
        else:
            left_out[file] = "the run does not record this manifest, and the store was not given (--store)"
