"""The dataset card: the page of a repository on the Hugging Face Hub, made from the manifests of its stores.

A card is a file README.md: a header in YAML, which the Hub reads, and Markdown. Every number and licence in it is
stated by a manifest; what no manifest states is "not stated". The card is one section between two marks. `merge_card`
replaces the section and keeps all other text; an existing header is kept, except for its size category.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np

from cache.errors import StoreError
from cache.format.manifest import flatten
from cache.format.spec import FORMAT_NAME
from cache.reading.store import Store
from cache.sharing.finding import teacher_name
from kdcli.words import counted

BEGIN: Final = "<!-- begin of the card; `python -m cache push` replaces everything up to its end -->"
END: Final = "<!-- end of the card -->"
NOT_STATED: Final = "not stated"
_LAYOUTS = {"zarr": "Zarr v3", "hdf5": "HDF5"}
# Identifiers of the Hub that a manifest may state; the Hub rejects a card with an identifier that it does not define.
_LICENCES = (
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by", "odbl"),
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SIZE = re.compile(r"(?<=^size_categories:\n- )[0-9KM<n>]+$", re.MULTILINE)
_HEADER = re.compile(r"\A---\n(.*?\n)?---\n", re.DOTALL)


class CardEntry(NamedTuple):
    """One store of a repository."""

    name: str
    """Relative to the repository, e.g. ``coco/train.zarr``."""
    manifest: Mapping[str, Any]
    layout: str
    images: int
    nbytes: int


def card_entry(name: str, store: Store, nbytes: int | None = None) -> CardEntry:
    """Describe an open store of `nbytes` bytes (None: to be found out) that has the given name in its repository."""
    images = len(np.unique(store.instances["image_id"]))
    return CardEntry(name, store.manifest, store.layout, images, store.nbytes if nbytes is None else nbytes)


def merge_card(existing: str | None, repository: str, entries: Sequence[CardEntry]) -> str:
    """Write the card of a repository, or replace it in an existing README.

    Args:
        existing: The README, or None if there is none.
        repository: The URL of the repository, without credentials, e.g. ``hf://datasets/team/coco-teacher``.
        entries: All stores of the repository.

    Returns:
        The new README. Text outside of the marks is that of the existing one.

    Raises:
        StoreError: The existing README has one of the two marks without the other, or has them more than once.
    """
    section = f"{BEGIN}\n{card_text(repository, entries)}\n{END}\n"
    header = card_header(repository, entries)
    if existing is None:
        return f"{header}\n{section}"
    old = existing.replace("\r\n", "\n")
    found = _HEADER.match(old)
    if found:
        size = _size_category(entries)
        header, old = _SIZE.sub(lambda _: size, found[0]), old[found.end() :]
    marks = old.count(BEGIN), old.count(END)
    if marks == (0, 0):
        return f"{header}{old.rstrip()}\n\n{section}" if old.strip() else f"{header}\n{section}"
    start, end = old.find(BEGIN), old.find(END)
    if marks != (1, 1) or end < start:
        raise StoreError(
            f"{repository}/README.md: the marks of the card are damaged; delete the lines {BEGIN!r} and {END!r} there, "
            "or give --no-card"
        )
    return f"{header}{old[:start]}{section.rstrip()}{old[end + len(END) :]}"


def card_header(repository: str, entries: Sequence[CardEntry]) -> str:
    """The header in YAML, between two lines ``---``."""
    layouts = sorted({entry.layout for entry in entries})
    title = " ".join(f"{_name_of(repository)}: heatmaps of {_teachers(entries)}".split())
    lines = [
        f"license: {_licence(entries)}",
        f"pretty_name: {json.dumps(title, ensure_ascii=False)}",
        "task_categories:",
        "- keypoint-detection",
        "size_categories:",
        f"- {_size_category(entries)}",
        "tags:",
        *(f"- {tag}" for tag in ("pose-estimation", "knowledge-distillation", "heatmaps", FORMAT_NAME, *layouts)),
        "viewer: false",
    ]
    return "\n".join(["---", *lines, "---", ""])


def card_text(repository: str, entries: Sequence[CardEntry]) -> str:
    """The Markdown of the card, without header and marks."""
    parts = [
        f"# {_plain(_name_of(repository))}",
        f"Heatmaps of a pose network (the teacher: {_plain(_teachers(entries))}), computed once and stored. A small "
        "network (a student) is trained from them without the teacher. A store holds the heatmaps, the annotations and "
        f"their origin in the format {FORMAT_NAME}.",
        _overview(entries),
        "## Use",
        "With the project that made the stores and its extra `share` (`pip install -e '.[share]'`):",
        _fenced("python", _python(repository, entries)),
        _fenced("bash", _commands(repository, entries)),
        *_remarks(entries),
    ]
    for entry in entries:
        parts += [f"## {_plain(entry.name)}", _table([("", ""), *_facts(entry)])]
    return "\n\n".join(parts)


def _overview(entries: Sequence[CardEntry]) -> str:
    rows = [("store", "instances", "images", "views", "teacher", "bytes")]
    for entry in entries:
        spec = entry.manifest["spec"]
        numbers = (f"{spec['instances']:,}", f"{entry.images:,}", str(spec["views"]))
        rows.append((entry.name, *numbers, teacher_name(entry.manifest) or NOT_STATED, f"{entry.nbytes:,}"))
    return _table(rows)


def _python(repository: str, entries: Sequence[CardEntry]) -> list[str]:
    return [
        "import cache",
        "",
        f"store = cache.open_store({json.dumps(f'{repository}/{entries[0].name}', ensure_ascii=False)})",
        "maps = store.heatmaps([0])  # float32: instance, view, joint, row, column",
        'boxes = store.instances["bbox"]  # x, y, width, height in image pixels',
    ]


def _commands(repository: str, entries: Sequence[CardEntry]) -> list[str]:
    """Pull every store to ``stores/NAME``, then train from them."""
    name = _name_of(repository)
    copies = {entry.name: f"stores/{name}/{entry.name}" for entry in entries}
    pulls = [f"python -m cache pull {_word(f'{repository}/{one}')} {_word(copy)}" for one, copy in copies.items()]
    return [*pulls, _training(name, copies, entries)]


def _training(name: str, copies: Mapping[str, str], entries: Sequence[CardEntry]) -> str:
    frames = all(entry.manifest["spec"]["frames"] for entry in entries)
    images = "" if frames else "--images DIR --val-images DIR"
    for suffix in ("zarr", "h5"):
        if {f"train.{suffix}", f"val.{suffix}"} <= copies.keys() and name != "sample":
            layout = "" if suffix == "zarr" else f" FORMAT={suffix}"
            return f"make distill DATA={_word(name)}{layout}" + (f' TRAIN_ARGS="{images}"' if images else "")
    train = next((copy for one, copy in copies.items() if "train" in PurePosixPath(one).name), None)
    val = next((copy for one, copy in copies.items() if "val" in PurePosixPath(one).name), None)
    stores = f"--store {_word(train or 'TRAIN')} --val-store {_word(val or 'VAL')}"
    return f"python -m train distill {stores} --out {_word(f'runs/{name}/distilled')} {images}".rstrip()


def _remarks(entries: Sequence[CardEntry]) -> Iterator[str]:
    if not all(entry.manifest["spec"]["frames"] for entry in entries):
        yield "`DIR` is the folder of the original images, which are not in the stores."
    yield (
        "`python -m cache verify STORE` checks a copy. Two stores with the same content SHA-256 have the same content."
    )


def _facts(entry: CardEntry) -> Iterator[tuple[str, str]]:
    manifest, spec = entry.manifest, entry.manifest["spec"]
    provenance = manifest["provenance"]
    yield "instances", f"{spec['instances']:,} in {counted(entry.images, 'image')}, {manifest['written']:,} written"
    yield from _teacher_facts(_mapping(provenance, "teacher"))
    data = _mapping(provenance, "dataset")
    yield "data set", _described(data, "name", "split")
    yield "annotations", _file(data.get("annotations"))
    yield "boxes", _boxes(data)
    yield "views", _views(spec["views"], _mapping(provenance, "views"))
    yield "heatmaps", f"{spec['joints']} joints, {spec['width']}x{spec['height']} pixels (width x height)"
    yield "codec", ", ".join(f"{name} {value}" for name, value in spec["codec"].items() if name != "version")
    for kind, error in manifest["codec_error"].items():
        yield f"codec error, {kind}", f"KL {error['mean']:.1e} nats on average, {error['worst']:.1e} at worst"
    metrics = dict(flatten(manifest["teacher_metrics"] or {}))
    text = ", ".join(f"{name} {_number(value)}" for name, value in metrics.items() if value is not None)
    yield "teacher's accuracy, measured from this store", text or "not measured"
    yield "frames", "in the store" if spec["frames"] else "not in the store"
    yield from _licence_facts(provenance)
    yield "made", _described(provenance, "created")
    yield "content SHA-256", str(manifest["content_sha256"])
    yield "format", f"{manifest['format']} version {manifest['version']}, {_LAYOUTS[entry.layout]}"


def _teacher_facts(teacher: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    members = teacher.get("members")
    for one in [teacher, *(members if isinstance(members, list) else [])]:
        if isinstance(one, Mapping):
            label = "teacher" if one is teacher else "member of the ensemble"
            yield label, f"{_described(one, 'name')}, SHA-256 of its weights: {_described(one, 'weights_sha256')}"
    size = teacher.get("input_size")
    if isinstance(size, list) and len(size) == 2:
        yield "teacher's input", f"{size[0]}x{size[1]} pixels (width x height)"


def _boxes(data: Mapping[str, Any]) -> str:
    """The source of the boxes: None in a manifest means those of the annotations."""
    if "boxes" not in data:
        return NOT_STATED
    return "those of the annotations" if data["boxes"] is None else _file(data["boxes"])


def _views(count: int, views: Mapping[str, Any]) -> str:
    about = ", ".join(f"{name} {_number(value)}" for name, value in flatten(views) if name not in ("count", "views"))
    return f"{count} per instance" + (f" ({about})" if about else "")


def _licence_facts(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stated = list(_stated_licences(provenance))
    if not stated:
        yield "licence", NOT_STATED
    yield from stated


def _stated_licences(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of every entry of the provenance that states a licence."""
    for name, value in flatten(provenance):
        if re.search(r"(^|[._])licen[cs]e(s?)($|[._\[])", name) and value not in (None, ""):
            yield name, str(value)


def _licence(entries: Sequence[CardEntry]) -> str:
    """The Hub's identifier: the one that every store states, ``other`` for other terms, ``unknown`` if none is stated.

    A store without a statement among others makes it ``other``: the card shows what each store states.
    """
    stated = [{text.strip().lower() for _, text in _stated_licences(entry.manifest["provenance"])} for entry in entries]
    every = set().union(*stated)
    if not every:
        return "unknown"
    return next(iter(every)) if len(every) == 1 and all(stated) and every <= set(_LICENCES) else "other"


def _size_category(entries: Sequence[CardEntry]) -> str:
    count = sum(entry.manifest["spec"]["instances"] for entry in entries)
    return next((category for limit, category in _SIZES if count < limit), "10M<n<100M")


def _teachers(entries: Sequence[CardEntry]) -> str:
    names = dict.fromkeys(filter(None, (teacher_name(entry.manifest) for entry in entries)))
    return ", ".join(names) or "a teacher that is not stated"


def _name_of(repository: str) -> str:
    return repository.rpartition("/")[2].partition("@")[0]


def _mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _described(value: Mapping[str, Any], *names: str) -> str:
    return ", ".join(str(value[name]) for name in names if value.get(name) not in (None, "")) or NOT_STATED


def _file(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value) if value else NOT_STATED
    return f"{_described(value, 'name')}, SHA-256 {_described(value, 'sha256')}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a manifest may come from anybody."""
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _fenced(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _word(text: str) -> str:
    """A word of a command line; quoted if a shell would change it."""
    return shlex.quote(text)
