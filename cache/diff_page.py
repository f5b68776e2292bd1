"""What `cache diff` found, in lines for a person."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MANY = ("teacher_metrics", "codec_error", "provenance.conversions")  # parts of a manifest that may differ throughout
FEW = 3  # entries of such a part that are listed one by one


def verdict(found: Mapping[str, Any]) -> str:
    """What `cache.diff.diff_stores` found, in a few words."""
    if found["identical"]:
        return "identical"
    return "equal within the codecs' error" if found["within_codec_error"] else "different"


def findings(found: Mapping[str, Any]) -> list[str]:
    """Everything that `cache.diff.diff_stores` found, a line each."""
    columns = [f"column {path}: {change}" for path, change in found["columns"].items()]
    return [*_compared(found), *_grouped(found["manifest"]), *columns]


def _grouped(changes: Sequence[str]) -> Iterator[str]:
    """Changes of the manifest; of a part that differs in many entries, or is only on one side, only how many."""
    groups: dict[str, list[str]] = {}
    for change in changes:
        name = next((part for part in MANY if change.startswith(part)), change)
        groups.setdefault(name, []).append(change)
    for name, members in groups.items():
        yield from members if len(members) <= FEW else [f"{name}: {len(members)} entries differ"]


def _compared(found: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say of instances, maps and frames."""
    if found["identical"]:
        return
    one, two = (found["instances"][f"only_in_{which}"] for which in ("first", "second"))
    ids = "the same" if found["instances"]["same"] else f"{one} only in the first, {two} only in the second store"
    yield f"instances: {ids}" if one or two or found["instances"]["same"] else "instances: in another order"
    if "records" not in found:
        yield "maps: not compared, since instances or sizes differ"
        return
    records = found["records"]
    if records["only_one_written"]:
        yield f"records: {records['only_one_written']} are written in only one of the stores"
    largest, mean = records["largest_difference"], records["mean_difference"]
    yield f"maps: {records['maps']} instances differ, by {largest:.3g} at most and {mean:.2g} on average"
    for kind, apart in records["divergence"].items() if records["maps"] else ():
        numbers = {name: "infinite" if value is None else f"{value:.1e}" for name, value in apart.items()}
        explained = records["explained"][kind]
        yield (
            f"maps: {kind} {numbers['mean']} nats apart on average, {numbers['worst']} at worst; the codecs explain "
            f"{explained['mean']:.1e} and {explained['worst']:.1e}"
        )
    yield f"frames: {records['frames']} differ"
