"""How heatmaps become bytes, judged by what that does to the logits.

`RootCodec` (the default) stores the fourth root of a value in equal steps between a floor and the joint's peak. For a
spatial softmax of log logits the cost of an error is p·(d ln h)², so at T = 1 the best steps are equal in h^(1/2) and
at T = 4 in h^(1/8); the fourth root serves both, beats equal steps in ln h by 6 % of the bytes at the same divergence,
and needs nothing but square roots, which are the same on every machine. Values below the floor become code 0: log
logits remove them. The peak is kept exactly, and its code is given to no other pixel, so that the argmax survives.
The codes are stored as differences along both axes, which saves another 14 %: neighbours are alike.

`FloatCodec` stores the values themselves as float32 (exact) or float16 (rounded).
"""

from collections.abc import Mapping
from typing import Any

from cache.codec.base import DEFAULT_FLOOR, DEFAULT_LEVELS, FLOATS, Codec
from cache.codec.floats import FloatCodec
from cache.codec.root4 import RootCodec
from cache.errors import StoreFormatError
from kdcli.words import did_you_mean

CODECS = ("root4", *FLOATS)


def codec_from_name(name: str, floor: float = DEFAULT_FLOOR) -> Codec:
    """The codec called `root4`, `root4:LEVELS`, `float16` or `float32`, as on the command line."""
    if name in FLOATS:
        return FloatCodec(name, floor)
    kind, _, levels = name.partition(":")
    if kind != "root4":
        hint = did_you_mean(kind, CODECS, "known are root4, root4:LEVELS, float16, float32", most=2)
        raise StoreFormatError(f"unknown codec {name!r}; {hint}")
    if not (levels == "" or levels.isdigit()):
        raise StoreFormatError(f"codec {name!r}: LEVELS of root4:LEVELS is a whole number, e.g. root4:64")
    return RootCodec(floor, int(levels or DEFAULT_LEVELS))


def codec_from_json(description: Mapping[str, Any]) -> Codec:
    """The codec that a manifest describes; `StoreFormatError` if this version does not know it."""
    name, version = description.get("name"), description.get("version")
    if type(version) is not int or version != 1 or name not in CODECS:
        raise StoreFormatError(f"unknown codec {name!r} version {version!r}: a newer program wrote this store; upgrade")
    floor, levels = description.get("floor"), description.get("levels")
    if not isinstance(floor, float) or (name == "root4" and type(levels) is not int):
        raise StoreFormatError(f"codec {name!r}: floor {floor!r} or levels {levels!r} is not a number")
    return RootCodec(floor, levels) if name == "root4" else FloatCodec(name, floor)  # type: ignore[arg-type]
