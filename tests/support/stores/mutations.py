"""Random damage to the files of a store; the structure of HDF5 files is damaged by `hdf5_mutations`.

A mutation takes the path of a store, which it changes, and a `random.Random`, and returns a description of the change.
"""

import json
import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np

import cache
from cache.format.integrity import with_manifest_hash
from cache.format.manifest import parse_document

STRANGE = (
    *(None, True, False, "", 0, -1, 1, 255, 256, 2**31, 2**32, 2**63, 2**64, 10**400, -(2**63), 0.5, -0.0, 1e308),
    *("\0", "\ud800", "ü" * 70, "../../etc/passwd", "/etc/passwd", "é\u202e", "NaN", "1", "true", "x" * 100000),
    *([], {}, [[]], [None], {"name": None}, {"": {}}, [1e308] * 3, [10**30, 2], float("nan"), float("inf")),
)
RAW = ("NaN", "-Infinity", "1e999", "[" * 3000 + "]" * 3000, '{"a":' * 900 + "1" + "}" * 900, "1" * 5000, "\x01")


def files(path: Path) -> list[Path]:
    """The regular files of a store, in a fixed order."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def flip_bits(path: Path, rng: random.Random) -> str:
    """Flip up to four bits of one file."""
    file = rng.choice(files(path))
    data = bytearray(file.read_bytes())
    places = [rng.randrange(len(data)) for _ in range(rng.randint(1, 4))] if data else []
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"bits of {file.name} flipped at {places}"


def overwrite(path: Path, rng: random.Random) -> str:
    """Overwrite a range of bytes with noise, zeros, ones or other bytes of the file."""
    file = rng.choice(files(path))
    data = bytearray(file.read_bytes())
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 8, 64, 512))
    length = min(length, len(data) - start)
    source = rng.randrange(len(data) - length + 1)
    fill = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length, data[source : source + length]))
    data[start : start + length] = fill
    file.write_bytes(data)
    return f"{length} bytes of {file.name} overwritten at {start}"


def resize(path: Path, rng: random.Random) -> str:
    """Truncate a file, lengthen it, or cut a piece out of it."""
    file = rng.choice(files(path))
    data = file.read_bytes()
    place = rng.randrange(len(data) + 1)
    data = rng.choice((data[:place], data + rng.randbytes(place + 1), data[:place] + data[place + 1 + place // 7 :]))
    file.write_bytes(data)
    return f"{file.name} resized to {len(data)} at {place}"


def reorder_files(path: Path, rng: random.Random) -> str:
    """Delete, add, exchange or replace a file or a directory."""
    found = [file for file in sorted(path.rglob("*")) if path.is_dir()]
    if not found:
        return resize(path, rng)
    one, other, kind = rng.choice(found), rng.choice(files(path)), rng.randrange(7)
    if kind == 0:
        (one if one.is_dir() else one.parent).joinpath("new").write_bytes(rng.randbytes(99))
    elif kind == 1 and one.is_file():
        one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
        one.write_bytes(other_bytes), other.write_bytes(one_bytes)
    else:
        shutil.rmtree(one) if one.is_dir() else one.unlink()
        if kind == 2 and other.exists():
            shutil.copy(other, one)
        elif kind == 3:
            one.mkdir()
        elif kind == 4:
            one.symlink_to(rng.choice((other, path, one, Path("/dev/zero"))))
        elif kind == 5:
            os.mkfifo(one)
    return f"{one.relative_to(path)} of kind {kind}, with {other.relative_to(path)}"


def json_documents(path: Path, rng: random.Random) -> str:
    """Change one place in one JSON document: the manifest or, in the Zarr layout, any `zarr.json`."""
    if path.is_dir():
        documents = [file for file in files(path) if file.name == "zarr.json"]
        file = rng.choice([path / "zarr.json", rng.choice(documents)])  # the root's document in every second case
        text, what = mutate_json(json.loads(file.read_text()), rng)
        file.write_text(resealed(text, rng), errors="surrogatepass")
        return f"{file.relative_to(path)}: {what}"
    with h5py.File(path, "r+") as hdf5:
        text, what = mutate_json(json.loads(hdf5.attrs["manifest"]), rng)
        text = resealed(text, rng)
        if len(text) < 60000:  # larger attributes need other storage in HDF5
            hdf5.attrs["manifest"] = np.bytes_(text.encode(errors="surrogatepass"))
    return f"manifest: {what}"


def resealed(text: str, rng: random.Random) -> str:
    """The text, in 9 of 10 cases with a new hash of its manifest, if it still is a JSON document with a manifest."""
    try:
        document = parse_document(text, "mutated")
        if "columns" in document:
            sealed = with_manifest_hash(document)
        else:
            attributes = document["attributes"]
            sealed = {**document, "attributes": {**attributes, "manifest": with_manifest_hash(attributes["manifest"])}}
        return json.dumps(sealed) if rng.random() < 0.9 else text
    except (cache.StoreError, ValueError, TypeError, KeyError, AttributeError):
        return text


def mutate_json(document, rng: random.Random) -> tuple[str, str]:
    """(text of the document with one place changed, description of the change)."""
    places = list(_places(document))
    parent, key = rng.choice(places)
    what, kind = f"{key!r}", rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(("new", "", "\ud800", "a/../b", "x" * 300, "instances/x"))] = parent.pop(key)
    elif kind == 2:
        other, name = rng.choice(places)
        parent[key], other[name] = other[name], parent[key]
    elif kind in (3, 4):
        marker = f"RAW{rng.getrandbits(64)}"
        old, parent[key] = parent[key], marker
        return _raw(document, marker, old, rng), f"{what} written strangely"
    elif type(parent[key]) in (int, float):
        parent[key] = rng.choice(
            (-parent[key], parent[key] + 1, parent[key] * 2**30, float(parent[key]), *STRANGE[:18])
        )
    else:
        parent[key] = rng.choice(STRANGE)
    return json.dumps(document, ensure_ascii=rng.random() < 0.5), f"{what}, kind {kind}"


def _raw(document, marker: str, old, rng: random.Random) -> str:
    """The text with something that `json.dumps` never writes in place of the marker."""
    text, old_text = json.dumps(document), json.dumps(old)
    raw = rng.choice((*RAW, f'{old_text}, "extra": 1, "extra": 2', f"{old_text},{old_text}", f"/**/{old_text}"))
    return text.replace(f'"{marker}"', raw)


def _places(node):
    """(container, key) of every value of nested containers."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(pairs):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def exchange_records(path: Path, rng: random.Random) -> str:
    """Exchange two records, chunks or shards, and change nothing else."""
    if path.is_dir():
        folder = path / rng.choice(("heatmaps/codes/c", "frames/data/c"))
        one, other = sorted(file for file in folder.rglob("*") if file.is_file())[:2]
        if rng.random() < 0.3:
            one.rename(path / "aside"), other.rename(one), (path / "aside").rename(other)
            return f"shards of {folder.parent.name} exchanged"
        return _exchange_slots(one, path, rng)
    with h5py.File(path, "r+") as file:
        codes = file["heatmaps/codes"].id
        at = [codes.get_chunk_info(i).chunk_offset for i in range(codes.get_num_chunks())]
        a, b = rng.choice(at), rng.choice(at)
        chunks = codes.read_direct_chunk(a)[1], codes.read_direct_chunk(b)[1]
        codes.write_direct_chunk(a, chunks[1]), codes.write_direct_chunk(b, chunks[0])
        return f"chunks {a[:2]} and {b[:2]} exchanged"


def _exchange_slots(shard: Path, path: Path, rng: random.Random) -> str:
    """Exchange or change entries of a shard's index, and recompute its checksum."""
    from cache.format.compress import crc32c

    data = shard.read_bytes()
    views = json.loads((path / "zarr.json").read_text())["attributes"]["manifest"]["spec"]
    slots = views["shard_instances"] * views["views"] if "codes" in str(shard) else _frame_slots(views)
    index = np.frombuffer(data[-4 - 16 * slots : -4], "<u8").reshape(-1, 2).copy()
    a, b = rng.randrange(min(slots, 16)), rng.randrange(min(slots, 16))
    strange = rng.choice((0, 1, 2**63, 2**64 - 1, 2**64 - 2, len(data), 2**32))
    kind = rng.randrange(3)
    if kind == 0:
        index[[a, b]] = index[[b, a]]
    else:
        index[a, kind - 1] = strange
    index_bytes = index.tobytes()
    shard.write_bytes(data[: -4 - 16 * slots] + index_bytes + int(crc32c(index_bytes)).to_bytes(4, "little"))
    return f"index of {shard.relative_to(path)}: {a}, {b}, {strange} of kind {kind}"


def _frame_slots(spec) -> int:
    return -(-spec["shard_instances"] * spec["frame_limit"] // 65536)


MUTATIONS = (flip_bits, overwrite, resize, reorder_files, json_documents, exchange_records)
