"""Writing a store with `create_store`, shard by shard.

    writer = create_store(path, spec, provenance, instances, ground_truth, frame_affine, view_affine, view_flip)
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                shard.put(index, heatmaps, frame)
    store = writer.assemble()
    writer.publish(metrics)

If the process is killed at any point, the same calls with `resume=True` continue after the last complete shard and give
the same content. Several processes may write different shards of one staging directory: one creates, assembles and
publishes the store, the others pass `join=True`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS
from cache.errors import StoreError
from cache.files import durable
from cache.files.location import local_target
from cache.format.columns import given_columns, record_columns
from cache.format.integrity import content_hash, with_manifest_hash
from cache.format.manifest import plain_json, version_of
from cache.format.spec import FORMAT_NAME, PLAN, StoreSpec
from cache.layouts.base import LayoutWriter
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing import staging
from cache.writing.lock import StagingLock, lock
from cache.writing.shard import ShardWriter
from cache.writing.target import layout_of, move_into_place, prepare_target


def create_store(  # noqa: PLR0913 - everything that identifies a run
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
    """Create a store at `path`, or continue an unfinished one.

    Args:
        path: The finished store; it must end in `.zarr`, `.h5` or `.hdf5`, which chooses the layout. Until the store is
            published, all its files are in `path.partial`.
        spec: Sizes and codec.
        provenance: JSON values; all entries except `software`, `created` and `noticed` identify the run.
        instances: Columns of N rows: those of `cache.format.spec.INSTANCE_COLUMNS`, and any further numeric ones.
        ground_truth: Columns of all annotations of the instances' images, including crowds and unlabelled ones.
        frame_affine: (N, 2, 3) image pixels -> frame pixels.
        view_affine: (N, V, 2, 3) frame pixels -> teacher input pixels, including the mirroring of a flipped view.
        view_flip: (V,) nonzero for a mirrored view.
        resume: Continue with `path.partial` if it exists.
        overwrite: Start again, and replace the store at `path` when the new one is complete.
        join: Write shards of a run that another process has created and will publish; nothing is created or removed.

    Raises:
        StoreError: `path` or its staging directory exists and neither `resume` nor `overwrite` allows it; the staging
            directory belongs to a different run (the message names the fields) or is being written; a column is missing
            or has a wrong shape.
    """
    target = local_target(path)
    columns = given_columns(spec, instances, ground_truth, frame_affine, view_affine, view_flip)
    plan = staging.make_plan(layout_of(target), spec.to_json(), plain_json(provenance, "provenance"), columns)
    if not join:
        prepare_target(target, resume=resume, overwrite=overwrite)
    return begin(target, spec, plan, columns, join=join)


def begin(
    path: Path,
    spec: StoreSpec,
    plan: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    join: bool = False,
) -> "Writer":
    """Lock the staging directory of `path` and write its plan, or check that it has the same plan."""
    directory = staging.staging_path(path)
    if join:
        staging.read_plan(directory)
    with durable.disk_errors(directory.parent, 0):
        durable.make_folder(directory)
    held = lock(directory, join=join)
    if (directory / PLAN).exists():
        staging.refuse_changed_plan(directory, plan)
    else:
        durable.write_atomically(directory / PLAN, [durable.json_bytes(plan)])
    return Writer(path, spec, plan, columns, held)


class Writer:
    """A store that is being written; `create_store` makes it."""

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
        self._layout: str = plan["form"]
        self._plan = plan
        self._columns = columns
        self._staging = staging.staging_path(path)
        self._damaged: Mapping[str, Any] = staging.read_plan(self._staging).get(staging.REPAIR) or {}
        self._manifest: dict[str, Any] | None = None
        self._assembled: Store | None = None

    @property
    def replaces(self) -> str | None:
        """The original content hash of the damaged store that this run repairs; None for any other run."""
        return self._damaged.get("content_sha256")

    def pending_shards(self) -> list[int]:
        """The shards that are not written yet."""
        return [shard for shard in range(self.spec.shards) if not staging.has_receipt(self._staging, shard)]

    def shard_range(self, shard: int) -> range:
        """The rows of a shard."""
        return self.spec.shard_range(shard)

    def shard(self, shard: int) -> ShardWriter:
        """A context manager that writes one shard at the end of its block."""
        return ShardWriter(self._staging, self.spec, self._layout, shard)

    def assemble(self) -> Store:
        """Complete the staged store from its shards and open it; `publish` moves it to its path.

        Raises:
            StoreError: Some shards are not written yet.
        """
        pending = self.pending_shards()
        if pending:
            raise StoreError(f"{self._staging}: {len(pending)} of {self.spec.shards} shards are not written yet")
        receipts = [staging.read_receipt(self._staging, shard) for shard in range(self.spec.shards)]
        columns = {**self._columns, **record_columns(self.spec, self._layout, receipts)}
        self._manifest = self._describe(columns, receipts)
        _layout_writer(self._layout).complete(self._staging / "store", self._staged, self.spec, columns, self._manifest)
        self._assembled = open_store(self._staged, allow_incomplete=True)
        return self._assembled

    def publish(
        self,
        metrics: Mapping[str, Any] | None = None,
        *,
        codec_error: Mapping[str, Any] | None = None,
        noticed: Mapping[str, int] | None = None,
    ) -> Path:
        """Complete the manifest and give the store its final name; returns the path.

        Args:
            metrics: The teacher's accuracy, measured from this store; JSON values.
            codec_error: Replaces the error that was measured while writing, for a copy of another store.
            noticed: What the run changed or left out, with counts; becomes the entry `noticed` of the provenance, if
                there is any.
        """
        assembled = self.assemble() if self._assembled is None else self._assembled
        assembled.close()
        assert self._manifest is not None  # noqa: S101 - assemble sets it
        manifest = {**self._manifest, "teacher_metrics": plain_json(metrics, "metrics"), "complete": True}
        manifest["codec_error"] = codec_error or self._combine_errors(manifest)
        if noticed:
            manifest["provenance"] = {**manifest["provenance"], "noticed": plain_json(noticed, "noticed")}
        _layout_writer(self._layout).write_manifest(self._staged, with_manifest_hash(manifest))
        move_into_place(self._staged, self.path)
        self._lock.remove(self._staging)
        return self.path

    def _combine_errors(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """The codec's error; after a repair, only mean and worst of the old store are known for the kept shards."""
        measured, before = manifest["codec_error"], self._damaged.get("codec_error")
        if before is None or manifest["content_sha256"] == self.replaces:
            return before or measured
        worst = {kind: max(measured[kind]["worst"], before[kind]["worst"]) for kind in before}
        return {kind: {**measured[kind], "worst": worst[kind]} for kind in before}

    @property
    def _staged(self) -> Path:
        return self._staging / ("store" if self._layout == "zarr" else "store.h5")

    def _describe(
        self, columns: Mapping[str, npt.NDArray[Any]], receipts: list[dict[str, npt.NDArray[Any]]]
    ) -> dict[str, Any]:
        """The manifest of the store, assembled but not published."""
        entries = {
            "format": FORMAT_NAME,
            "version": version_of(self._plan["provenance"]),
            "complete": False,
            "spec": self.spec.to_json(),
            "columns": {path: [column.dtype.str, list(column.shape)] for path, column in columns.items()},
            "provenance": self._plan["provenance"],
            "written": int(columns["integrity/written"].sum()),
            "codec_error": _codec_error(np.concatenate([receipt["error"] for receipt in receipts])),
            "teacher_metrics": None,
            "content_sha256": content_hash(self.spec, columns),
        }
        return with_manifest_hash(entries)


def _codec_error(summaries: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Mean and worst divergence in nats over all maps, from (N, 3, kinds): sum, worst and number per instance."""
    total, _, maps = summaries.sum(axis=0)
    worst = summaries[:, 1].max(axis=0)
    mean = np.divide(total, maps, out=np.zeros_like(total), where=maps > 0)
    values = zip(ERROR_KINDS, mean, worst, maps, strict=True)
    return {kind: {"mean": float(m), "worst": float(w), "maps": int(n)} for kind, m, w, n in values}


def _layout_writer(layout: str) -> LayoutWriter:
    """The module that completes a store of this layout; h5py is imported only if it is needed."""
    if layout == "zarr":
        from cache.layouts import zarr_writer

        return zarr_writer
    from cache.layouts import hdf5_writer

    return hdf5_writer
