"""The store: one file or directory that holds a teacher's heatmaps and all that is needed to learn from them.

    store = cache.open_store("coco_train.zarr")
    store.heatmaps([5, 3])  # (2, V, K, H, W) float32

docs/format.md says what is on disk; `python -m cache info PATH` says what is in a store. It knows no joints.
"""

from cache.codec.base import Codec
from cache.codec.floats import FloatCodec
from cache.codec.registry import codec_from_name
from cache.codec.root4 import RootCodec
from cache.errors import MissingRecordError, StoreError, StoreFormatError, StoreNotFoundError, StoreSpaceError
from cache.format.spec import StoreSpec
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.staging import awaits_repair
from cache.writing.writer import Writer, create_store

__all__ = [
    "Codec",
    "FloatCodec",
    "MissingRecordError",
    "RootCodec",
    "Store",
    "StoreError",
    "StoreFormatError",
    "StoreNotFoundError",
    "StoreSpaceError",
    "StoreSpec",
    "Writer",
    "awaits_repair",
    "codec_from_name",
    "create_store",
    "open_store",
]
