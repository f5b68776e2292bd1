"""The store: one file or directory with a teacher's heatmaps and everything that is needed to train from them.

    import cache

    store = cache.open_store("coco_train.zarr")  # a path or a URL
    len(store)                                   # N, the number of instances
    store.heatmaps([5, 3])                       # (2, V, K, H, W) float32, in the order given
    store.instances["bbox"]                      # (N, 4) float64: x, y, width, height in image pixels
    store.manifest["provenance"]                 # teacher, data set, preprocessing, ...

`open_store` returns a `Store` for reading; `create_store` returns a `Writer`, whose size and codec a `StoreSpec` gives
(`codec_from_name`, `RootCodec`, `FloatCodec`). Every error is a `StoreError`. docs/format.md specifies the files, and
`python -m cache info PATH` shows what is in a store. The package handles arrays and does not depend on the skeleton.
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
