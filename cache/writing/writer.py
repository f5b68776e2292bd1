"""Making a store: `create_store`, shards, `assemble`, `publish`.

    writer = create_store(path, spec, provenance, instances, ground_truth, frame_affine, view_affine, view_flip)
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                shard.put(index, heatmaps, frame)
    store = writer.assemble()
    writer.publish(metrics)

Killed anywhere, the same calls with `resume=True` go on after the last whole shard and end with the same content.
Several processes may write different shards of one staging directory: one begins, assembles and publishes, the others
say `join=True`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS
from cache.errors import StoreError
from cache.files import durable
from cache.format.columns import given_columns, record_columns
from cache.format.integrity import content_hash, seal
from cache.format.manifest import plain_json
from cache.format.spec import FORMAT_NAME, FORMAT_VERSION, PLAN, StoreSpec
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing import staging
from cache.writing.lock import StagingLock, lock
from cache.writing.shard import ShardWriter
from cache.writing.target import form_of, make_way, put_in_place


def create_store(  # noqa: PLR0913 - all that identifies a run
    path: str | Path,
    spec: StoreSpec,
    provenance: Mapping[str, Any],
    instances: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    frame_affine: npt.NDArray[np.float64],
    view_affine: npt.NDArray[np.float64],
    view_flip: npt.NDArray[Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    join: bool = False,
) -> "Writer":
    """Begin, or go on with, a store at `path`, which must end in `.zarr`, `.h5` or `.hdf5`.

    Args:
        path: the finished store; until then everything is in `path.partial`.
        spec: sizes and codec.
        provenance: JSON values; all but `software` and `created` identify the run.
        instances: columns of N rows, those of `cache.format.spec.INSTANCE_COLUMNS` and any further numeric ones.
        ground_truth: columns of all annotations of the instances' images, crowd and unlabelled ones too.
        frame_affine: (N, 2, 3) image pixels -> frame pixels.
        view_affine: (N, V, 2, 3) frame pixels -> teacher input pixels, including the mirror.
        view_flip: (V,) which views are mirrored.
        resume: go on with `path.partial` if it is there.
        overwrite: start anew, and replace the store at `path` when the new one is whole.
        join: write shards of a run that another process has begun and will publish; nothing is made or removed.

    Raises:
        StoreError: `path` or its staging directory exists and neither `resume` nor `overwrite` allows it; the staging
            directory belongs to a different run (its fields are named) or is being written; columns of wrong shape.
    """
    target = Path(path)
    columns = given_columns(spec, instances, ground_truth, frame_affine, view_affine, view_flip)
    plan = staging.make_plan(form_of(target), spec.to_json(), plain_json(provenance, "provenance"), columns)
    if not join:
        make_way(target, resume=resume, overwrite=overwrite)
    return begin(target, spec, plan, columns, join=join)


def begin(
    path: Path,
    spec: StoreSpec,
    plan: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    join: bool = False,
) -> "Writer":
    """Lock the staging directory of `path` and write its plan, or see that it has the same one."""
    directory = staging.staging_path(path)
    if join:
        staging.read_plan(directory)
    with durable.writing(directory.parent, 0):
        durable.make_folder(directory)
    held = lock(directory, join=join)
    if (directory / PLAN).exists():
        staging.refuse_changed_plan(directory, plan)
    else:
        staging.write_whole(directory / PLAN, [durable.json_bytes(plan)])
    return Writer(path, spec, plan, columns, held)


class Writer:
    """A store that is being made; see `create_store`."""

    def __init__(
        self,
        path: Path,
        spec: StoreSpec,
        plan: Mapping[str, Any],
        columns: Mapping[str, npt.NDArray[Any]],
        held: StagingLock,
    ) -> None:
        self.path = path
        self.spec = spec
        self._lock = held
        self._form: str = plan["form"]
        self._plan = plan
        self._columns = columns
        self._staging = staging.staging_path(path)
        self._damaged: Mapping[str, Any] = staging.read_plan(self._staging).get(staging.REPAIR) or {}
        self._manifest: dict[str, Any] | None = None

    @property
    def replaces(self) -> str | None:
        """The content hash that a damaged store had when it was whole, if this run repairs one."""
        return self._damaged.get("content_sha256")

    def pending_shards(self) -> list[int]:
        """The shards that are not yet written."""
        return [shard for shard in range(self.spec.shards) if not staging.has_receipt(self._staging, shard)]

    def shard_range(self, shard: int) -> range:
        """The instances of a shard."""
        return self.spec.shard_range(shard)

    def shard(self, shard: int) -> ShardWriter:
        """A context that writes one shard when it is left."""
        return ShardWriter(self._staging, self.spec, self._form, shard)

    def assemble(self) -> Store:
        """Complete the staged store from its shards and open it for a look before `publish`, which takes it away."""
        pending = self.pending_shards()
        if pending:
            raise StoreError(f"{self._staging}: {len(pending)} of {self.spec.shards} shards are still to be written")
        receipts = [staging.read_receipt(self._staging, shard) for shard in range(self.spec.shards)]
        columns = {**self._columns, **record_columns(self.spec, self._form, receipts)}
        self._manifest = self._describe(columns, receipts)
        _form_writer(self._form).complete(self._staging / "store", self._staged, self.spec, columns, self._manifest)
        return open_store(self._staged, allow_incomplete=True)

    def publish(
        self, metrics: Mapping[str, Any] | None = None, *, codec_error: Mapping[str, Any] | None = None
    ) -> Path:
        """Give the store its final name, complete, with the teacher's `metrics`; returns the path.

        `codec_error` replaces what was measured while writing, for a store that was copied from another.
        """
        if self._manifest is None:
            self.assemble()
        assert self._manifest is not None  # noqa: S101 - assemble sets it
        manifest = {**self._manifest, "teacher_metrics": plain_json(metrics, "metrics"), "complete": True}
        manifest["codec_error"] = codec_error or self._of_all_shards(manifest)
        _form_writer(self._form).write_manifest(self._staged, seal(manifest))
        put_in_place(self._staged, self.path)
        shutil.rmtree(self._staging)
        return self.path

    def _of_all_shards(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """The codec's error; the shards kept in a repair are known by the whole store's mean and worst alone."""
        measured, before = manifest["codec_error"], self._damaged.get("codec_error")
        if before is None or manifest["content_sha256"] == self.replaces:
            return before or measured
        worst = {kind: max(measured[kind]["worst"], before[kind]["worst"]) for kind in before}
        return {kind: {**measured[kind], "worst": worst[kind]} for kind in before}

    @property
    def _staged(self) -> Path:
        return self._staging / ("store" if self._form == "zarr" else "store.h5")

    def _describe(
        self, columns: Mapping[str, npt.NDArray[Any]], receipts: list[dict[str, npt.NDArray[Any]]]
    ) -> dict[str, Any]:
        """The manifest of the assembled, not yet published, store."""
        entries = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "complete": False,
            "spec": self.spec.to_json(),
            "columns": {path: [column.dtype.str, list(column.shape)] for path, column in columns.items()},
            "provenance": self._plan["provenance"],
            "written": int(columns["integrity/written"].sum()),
            "codec_error": _codec_error(np.concatenate([receipt["error"] for receipt in receipts])),
            "teacher_metrics": None,
            "content_sha256": content_hash(self.spec, columns),
        }
        return seal(entries)


def _codec_error(summaries: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Mean and worst divergence in nats over all maps, from rows (N, 3, kinds) of sum, worst and number."""
    total, _, maps = summaries.sum(axis=0)
    worst = summaries[:, 1].max(axis=0)
    mean = np.divide(total, maps, out=np.zeros_like(total), where=maps > 0)
    values = zip(ERROR_KINDS, mean, worst, maps, strict=True)
    return {kind: {"mean": float(m), "worst": float(w), "maps": int(n)} for kind, m, w, n in values}


def _form_writer(form: str) -> Any:
    """The module that completes a store of this form; h5py is imported only where it is needed."""
    if form == "zarr":
        from cache.layouts import zarr_writer

        return zarr_writer
    from cache.layouts import hdf5_writer

    return hdf5_writer
