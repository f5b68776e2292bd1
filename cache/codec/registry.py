"""The codecs that a store can have, by name: one entry of `CODECS` per codec.

To add a codec, write a class that follows `cache.codec.base.Codec` in a module of this folder, and add an entry here.
Help texts and error messages list the codecs of this table.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from cache.codec.base import DEFAULT_FLOOR, Codec
from cache.codec.floats import FloatCodec
from cache.codec.root4 import RootCodec
from cache.errors import StoreFormatError
from kdcli.words import did_you_mean


class CodecEntry(NamedTuple):
    """How a codec is made from its name on the command line and from its description in the manifest."""

    create: Callable[[float], Codec]  # from the floor in heatmap units; other parameters at their defaults
    from_json: Callable[[Mapping[str, Any]], Codec]
    parameter: str = ""  # what may follow the codec's name after a colon, e.g. LEVELS in root4:LEVELS
    create_with: Callable[[float, str], Codec] | None = None  # from the floor and the text of the parameter


CODECS: Final[dict[str, CodecEntry]] = {
    "root4": CodecEntry(RootCodec, RootCodec.from_json, "LEVELS", RootCodec.from_text),
    "float16": CodecEntry(partial(FloatCodec, "float16"), FloatCodec.from_json),
    "float32": CodecEntry(partial(FloatCodec, "float32"), FloatCodec.from_json),
    "float16-cut": CodecEntry(partial(FloatCodec, "float16-cut"), FloatCodec.from_json),
}
SPELLINGS: Final = tuple(
    spelling
    for name, entry in CODECS.items()
    for spelling in (name, *([f"{name}:{entry.parameter}"] if entry.parameter else []))
)
"""What `codec_from_name` accepts: `root4`, `root4:LEVELS`, ..."""
CODEC_HELP: Final = f"{', '.join(SPELLINGS[:-1])} or {SPELLINGS[-1]}"
"""The list of codecs for a help text."""


def codec_from_name(name: str, floor: float = DEFAULT_FLOOR) -> Codec:
    """The codec with the given name, as on the command line: one of `SPELLINGS`, e.g. `root4` or `root4:64`.

    Args:
        name: The name and, after a colon, the parameter of the codec.
        floor: The value below which log logits are removed, in heatmap units, 1e-6..1.

    Raises:
        StoreFormatError: The name is unknown, or the parameter or the floor is out of range.
    """
    kind, colon, text = name.partition(":")
    entry = CODECS.get(kind)
    if entry is None or (colon and entry.create_with is None):
        hint = did_you_mean(kind, CODECS, f"known codecs: {', '.join(SPELLINGS)}", most=2)
        raise StoreFormatError(f"unknown codec {name!r}; {hint}")
    return entry.create_with(floor, text) if text and entry.create_with else entry.create(floor)


def codec_from_json(description: Mapping[str, Any]) -> Codec:
    """The codec that a manifest describes; `StoreFormatError` if this version of the program cannot read it."""
    name, version = description.get("name"), description.get("version")
    entry = CODECS.get(name) if isinstance(name, str) else None
    if type(version) is not int or version != 1 or entry is None:
        raise StoreFormatError(
            f"unknown codec {name!r} version {version!r}: a newer version of the program wrote this store; upgrade"
        )
    return entry.from_json(description)
