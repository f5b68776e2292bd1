"""The specification of a store: its sizes, and the names, dtypes and shapes of everything on disk.

Letters: N instances, V stored views, K joints, H rows and W columns of a heatmap, M annotations of the ground truth.
docs/format.md specifies the same in prose.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cache.codec.base import Codec
from cache.codec.registry import codec_from_json
from cache.codec.root4 import RootCodec
from cache.errors import StoreFormatError

FORMAT_NAME = "pose-teacher-cache"
FORMAT_VERSION = 1
PLAN = "plan.json"  # in a staging directory, never in a store

FRAME_CHUNK = 65536  # bytes of one inner Zarr chunk of the packed frames
DEFAULT_FRAME_LIMIT = 262144  # bytes; enough for any JPEG of 320x240 pixels; unused space takes no room on disk
# Limits, so that a forged manifest cannot make the reader allocate all memory:
MAX_ROWS = 1 << 27  # instances, or annotations of the ground truth
MAX_RECORD_BYTES = 1 << 28  # decompressed maps of one instance, all views
MAX_SLOTS = 1 << 20  # chunks per shard, of codes or of frames

Columns = Mapping[str, tuple[str, tuple[int, ...]]]  # path of a column -> its dtype and its shape

# Columns that the caller gives: name -> (dtype, shape of one row, in which a letter is a size of the spec).
# `file_name` is the only text column: UTF-8, padded with zeros to the longest name.
INSTANCE_COLUMNS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "annotation_id": ("<i8", ()),
    "image_id": ("<i8", ()),
    "file_name": ("|u1", ("any",)),
    "image_size": ("<i4", (2,)),  # width, height
    "bbox": ("<f8", (4,)),  # x, y, width, height in image pixels
    "area": ("<f8", ()),
    "iscrowd": ("|u1", ()),
    "keypoints": ("<f4", ("K", 3)),  # x, y in image pixels, v
    "score": ("<f8", ()),
}
GROUND_TRUTH_COLUMNS = {
    name: INSTANCE_COLUMNS[name] for name in ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")
}
TEXT_COLUMN = "file_name"

# All other columns with one row per instance: path in the store -> (dtype, shape of one row).
RECORD_COLUMNS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "heatmaps/peak": ("<f4", ("V", "K")),
    # frame pixels -> teacher input pixels, including the mirroring of a flipped view
    "views/affine": ("<f8", ("V", 2, 3)),
    "integrity/written": ("|u1", ()),
    "integrity/checksum": ("<u4", ("V+1",)),  # CRC-32C of each view's codes and peaks, then of the frame
    "frames/affine": ("<f8", (2, 3)),  # image pixels -> frame pixels
    "frames/offset": ("<u8", ()),
    "frames/nbytes": ("<u4", ()),
}
SHARD_DIGESTS = "integrity/shard_sha256"  # (shards, 32) uint8
FRAME_BYTES_COLUMNS = ("frames/offset", "frames/nbytes")  # absent from a store without frames
PLACE_COLUMNS = ("frames/offset",)  # locate bytes, and differ between layouts: not part of the content hash


@dataclass(frozen=True)
class StoreSpec:
    """The sizes of a store, and the codec of its maps. Raises `StoreFormatError` for sizes that no store can have."""

    instances: int
    views: int  # stored views per instance
    joints: int
    height: int  # of a heatmap, in pixels
    width: int  # of a heatmap, in pixels
    codec: Codec = field(default_factory=RootCodec)
    frames: bool = True  # whether the store holds the frames' bytes
    shard_instances: int = 0  # instances per shard; 0: as `default_shard_instances`
    frame_limit: int = DEFAULT_FRAME_LIMIT  # largest frame in bytes

    def __post_init__(self) -> None:
        if self.shard_instances == 0:
            object.__setattr__(self, "shard_instances", default_shard_instances(self.instances))
        for name in ("instances", "views", "joints", "height", "width", "shard_instances", "frame_limit"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_ROWS:
                raise StoreFormatError(f"spec: {name} must be a positive integer up to {MAX_ROWS}, not {value!r:.50}")
        slots = max(self.shard_instances * self.views, self.shard_frame_bytes // FRAME_CHUNK)
        if self.views * self.map_bytes > MAX_RECORD_BYTES or slots > MAX_SLOTS:
            raise StoreFormatError(f"spec: larger than any store of pose heatmaps: {self.to_json()}")

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(K, H, W): the shape of the maps of one stored view."""
        return self.joints, self.height, self.width

    @property
    def map_bytes(self) -> int:
        """Bytes of the decompressed codes of one stored view."""
        return self.joints * self.height * self.width * self.codec.dtype.itemsize

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.instances // self.shard_instances)

    @property
    def shard_frame_bytes(self) -> int:
        """Bytes that the Zarr layout reserves for the frames of one shard, a multiple of FRAME_CHUNK."""
        return -(-self.shard_instances * self.frame_limit // FRAME_CHUNK) * FRAME_CHUNK

    def shard_range(self, shard: int) -> range:
        """The rows of a shard; `StoreFormatError` if there is no such shard."""
        if not 0 <= shard < self.shards:
            raise StoreFormatError(f"no shard {shard}: the store has {self.shards}")
        first = shard * self.shard_instances
        return range(first, min(first + self.shard_instances, self.instances))

    def row_shape(self, shape: tuple[int | str, ...]) -> tuple[int, ...]:
        """A row shape of the tables above, with the sizes of this spec for its letters; -1 is any size."""
        sizes = {"K": self.joints, "V": self.views, "V+1": self.views + 1, "any": -1}
        return tuple(size if isinstance(size, int) else sizes[size] for size in shape)

    def to_json(self) -> dict[str, Any]:
        """The description in the manifest, which `spec_from_json` reads."""
        sizes = {name: value for name, value in asdict(self).items() if name != "codec"}
        return {**sizes, "codec": self.codec.to_json()}


def spec_from_json(description: Mapping[str, Any]) -> StoreSpec:
    """The spec that a manifest describes; `StoreFormatError` for missing, unknown or invalid entries."""
    expected = set(StoreSpec.__dataclass_fields__)
    if not isinstance(description, Mapping) or set(description) != expected:
        raise StoreFormatError(f"spec: expected the entries {sorted(expected)}, found {description!r:.300}")
    if type(description["frames"]) is not bool or not isinstance(description["codec"], Mapping):
        raise StoreFormatError("spec: `frames` must be true or false and `codec` a mapping")
    return StoreSpec(**{**description, "codec": codec_from_json(description["codec"])})


def default_shard_instances(instances: int) -> int:
    """Instances per shard for about 128 shards: a power of 2, at least 64 and at most 1024.

    An interrupted run of a small data set thus loses little work, and a large store needs only a few hundred files.
    """
    wanted = max(1, instances) / 128
    return int(min(1024, max(64, 2 ** np.ceil(np.log2(wanted)))))


def check_encoding(path: str, attributes: Mapping[str, Any], where: str) -> None:
    """Raise `StoreFormatError` if the type or version in an array's attributes is not the one expected for its path."""
    known = element_encoding(path)
    found = {name: attributes.get(name) for name in known}
    found = {name: v.decode(errors="replace") if isinstance(v, bytes) else v for name, v in found.items()}
    if found != known:
        raise StoreFormatError(f"{where}: encoded as {found}, this program reads {known}: upgrade it")


def element_encoding(path: str) -> dict[str, str]:
    """The attributes of the array at `path`: its type and version."""
    kinds = {
        "heatmaps/codes": "heatmap-codes",
        "frames/data": "packed-frames",
        f"instances/{TEXT_COLUMN}": "text-column",
    }
    return {"encoding-type": kinds.get(path, "column"), "encoding-version": "1"}
