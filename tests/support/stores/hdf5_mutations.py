"""Damage to the structure of an HDF5 store: through h5py, and in its bytes with checksums that match."""

import functools
import random
import re
import struct
from pathlib import Path

import h5py
import numpy as np


def change_objects(path: Path, rng: random.Random) -> str:
    """Remove, link, retype or replace one dataset, group or attribute."""
    change = rng.choice((_relink, _retype, _redeclare, _change_attribute, _change_chunk))
    with h5py.File(path, "r+", libver=rng.choice((("v110", "v110"), ("earliest", "latest")))) as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        return f"{name}: {change(file, name, rng)}"


def _relink(file, name, rng):
    """Replace a link by one of another kind or to another object, or remove it."""
    other = rng.choice(("/", "/heatmaps", "/instances/bbox", "/instances/area", "/heatmaps/codes", "/none"))
    links = {
        "removed": None,
        "soft": h5py.SoftLink(rng.choice((other, f"/{name}", "."))),
        "external": h5py.ExternalLink(rng.choice(("", "/etc/passwd", "other.h5", file.filename)), other),
        "hard": file.get(other),
        "group": "group",
    }
    kind = rng.choice(sorted(links))
    kept = links[kind]
    if kind == "hard" and kept is None:
        return "nothing"
    del file[name]
    if kind == "group":
        file.create_group(name)
    elif kept is not None:
        file[name] = kept
    return f"{kind} {other}"


def _retype(file, name, rng):
    """Replace a dataset by one of the same shape in another dtype."""
    node = file[name]
    if not isinstance(node, h5py.Dataset):
        return "a group"
    attributes, shape = dict(node.attrs), node.shape
    dtypes = (
        ">f8",
        "<f8",
        "f2",
        "i1",
        "?",
        "S4",
        "c16",
        "V8",
        h5py.string_dtype(),
        h5py.ref_dtype,
        h5py.vlen_dtype("i4"),
    )
    dtype = rng.choice((*dtypes, h5py.enum_dtype({"a": 1}), np.dtype([("x", "f8"), ("y", "i4")]), np.dtype(("f4", 3))))
    del file[name]
    file.create_dataset(name, shape, dtype).attrs.update(attributes)
    return f"as {dtype}"


def _redeclare(file, name, rng):
    """Replace a dataset by one of the same dtype with another shape, storage or filters."""
    node = file[name]
    if not isinstance(node, h5py.Dataset):
        return "a group"
    attributes, shape, dtype, data = dict(node.attrs), node.shape, node.dtype, node[...] if node.size < 1e6 else None
    big = (2**40, *shape[1:])
    options = [
        {"shape": (*shape, 1)}, {"shape": big, "chunks": True}, {"shape": shape, "chunks": True, "compression": "gzip"},
        {"shape": shape, "chunks": True, "shuffle": True}, {"shape": shape, "chunks": True, "fletcher32": True},
        {"shape": shape, "external": [("/etc/passwd", 0, 50)]}, {"shape": (0, *shape[1:])}, {"shape": ()},
        {"shape": None}, {"shape": big}, {"shape": shape, "chunks": True, "maxshape": (None, *shape[1:])},
        {"shape": shape, "fillvalue": 1}, {"shape": shape, "chunks": True, "compression": "lzf"},
    ]  # fmt: skip
    option = rng.choice(options)
    del file[name]
    if rng.random() < 0.1:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(rng.choice((".", "/etc/passwd")), "instances/bbox", shape)
        made = file.create_virtual_dataset(name, layout)
    else:
        made = file.create_dataset(name, dtype=dtype, **option)
    made.attrs.update(attributes)
    if data is not None and made.shape == data.shape and not made.external and not made.is_virtual:
        made[...] = data
    return f"declared {option}"


def _change_attribute(file, name, rng):
    """Remove an attribute, or replace it by one of another type, shape or size."""
    node = rng.choice((file, file[name]))
    if not node.attrs:
        return "no attributes"
    key = rng.choice(sorted(node.attrs))
    values = (
        *(0, -1.5, "text", b"\xff\xfe", "", np.zeros((3, 2)), np.array(["a", "b"], "S1"), h5py.Empty("S10")),
        *(np.zeros(0), np.array("vlen", h5py.string_dtype()), np.array([file.ref], h5py.ref_dtype), np.bool_(True)),
        *(np.bytes_(b"x" * 60000), np.zeros((), np.dtype([("a", "i4")])), np.array([[1]], np.float16)),
    )
    value = rng.choice(values)
    del node.attrs[key]
    if rng.random() < 0.8:
        node.attrs[key] = value
    return f"attribute {key}: {value!r:.60}"


def _change_chunk(file, name, rng):
    """Replace a chunk of the codes by one that is random, uncompressed, empty, too long, or marked as not filtered."""
    codes = file["heatmaps/codes"]
    where = (rng.randrange(codes.shape[0]), rng.randrange(codes.shape[1]), 0, 0, 0)
    data = rng.choice((rng.randbytes(60), b"\0", np.zeros(codes.chunks, codes.dtype).tobytes(), rng.randbytes(100000)))
    codes.id.write_direct_chunk(where, data, filter_mask=rng.choice((0, 0, 1, 2**31)))
    return f"chunk {where} of {len(data)} bytes"


def change_sealed(path: Path, rng: random.Random) -> str:
    """Change bytes of the file's metadata and recompute the checksums, so that HDF5 accepts them."""
    data = bytearray(path.read_bytes())
    start, length = rng.choice(sealed_blocks(bytes(data)))
    places = sorted(rng.randrange(start + 4, start + length) for _ in range(rng.choice((1, 1, 2, 4))))
    for place in places:
        data[place] = rng.choice(
            (data[place] ^ 1 << rng.randrange(8), 0, 1, 255, rng.randrange(256), data[place] + 1 & 255)
        )
    data[start + length : start + length + 4] = struct.pack("<I", lookup3(bytes(data[start : start + length])))
    path.write_bytes(data)
    return f"{bytes(data[start : start + 4])!r} at {start}: bytes {places} changed and sealed"


SIGNATURES = (b"\x89HDF", b"OHDR", b"OCHK", b"FRHP", b"BTHD", b"BTLF", b"FAHD", b"FADB", b"FSHD")


@functools.lru_cache(maxsize=8)
def sealed_blocks(data: bytes) -> list[tuple[int, int]]:
    """(start, length) of the metadata blocks that are followed by a checksum, found by their signatures."""
    starts = [match.start() for match in re.finditer(b"|".join(map(re.escape, SIGNATURES)), data)]
    found = ((start, _sealed_length(data, start)) for start in starts)
    return [(start, length) for start, length in found if length]


def _sealed_length(data: bytes, start: int) -> int:
    """The number of bytes before the checksum of the block at `start`; 0 if there is no checksum."""
    lengths = range(8, min(len(data) - start - 4, 400))
    if data[start : start + 4] == b"OHDR":
        flags = data[start + 5]
        head = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10) + (1 << (flags & 3))
        size = int.from_bytes(data[start + head - (1 << (flags & 3)) : start + head], "little")
        lengths = range(head + size, head + size + 1)
    for length in lengths:
        if data[start + length : start + length + 4] == lookup3(data[start : start + length]).to_bytes(4, "little"):
            return length
    return 0


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash `lookup3` (hashlittle, initial value 0), the checksum of HDF5's metadata."""
    state = [(0xDEADBEEF + len(data)) & 0xFFFFFFFF] * 3
    padded = data.ljust(-(-len(data) // 12) * 12, b"\0")
    for start in range(0, len(padded), 12):
        state = [x + word & 0xFFFFFFFF for x, word in zip(state, struct.unpack_from("<3I", padded, start), strict=True)]
        if start + 12 < len(padded):
            for x, y, z, bits in _MIX:
                state[x] = (state[x] - state[y] & 0xFFFFFFFF) ^ _rotate(state[y], bits)
                state[y] = state[y] + state[z] & 0xFFFFFFFF
    for x, y, bits in _FINAL:
        state[x] = (state[x] ^ state[y]) - _rotate(state[y], bits) & 0xFFFFFFFF
    return state[2]


_MIX = ((0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4))
_FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & 0xFFFFFFFF


MUTATIONS = (change_objects, change_sealed)
