"""Thousands of mutations of small stores: each ends in a `StoreError`, or in correct data, and in nothing else.

    python -m tests.support.stores.attack --mutations 10000 --seed 1 [--form zarr] [--kind change_sealed] [--keep FOLDER]

Every store is opened and read in a process of its own, with bounded memory and time. What went wrong is printed with
its form, kind and seed, which make it again (`--form F --kind K --seed S --mutations 1`), and the store is kept.
tests/cache/reading/test_fuzz.py does some hundreds.
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.stores import hdf5_mutations, small as small_store, lies as store_lies, mutations as store_mutations
from tests.support.stores.oracle import Victim

DAMAGE = {
    "zarr": store_mutations.MUTATIONS,
    "h5": (*store_mutations.MUTATIONS, *hdf5_mutations.MUTATIONS),
}
KINDS = {form: {kind.__name__: kind for kind in (*damage, *store_lies.LIES)} for form, damage in DAMAGE.items()}
LIES = {kind.__name__ for kind in store_lies.LIES}


def make_pristine(folder: Path) -> Path:
    """A store of each form below `folder`."""
    for form in KINDS:
        small_store.make(folder / f"s.{form}", skip=store_lies.SKIPPED, **store_lies.SIZES)
    return folder


def attack(victim: Victim, pristine: Path, folder: Path, form: str, kind: str, seed: int) -> tuple[str, str]:
    """The verdict on one mutated store, and what was done to it; an `AssertionError` if it is a finding.

    "unmade": the library does not write such a thing.
    """
    path = folder / f"s.{form}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    try:
        what = KINDS[form][kind](path, random.Random(seed))
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        return "unmade", str(error)  # HDF5 itself refuses to write what was asked for
    try:
        return victim.examine(path, damage=kind not in LIES), what
    except AssertionError as error:
        raise AssertionError(f"{form} {kind} {seed}: {what}\n{error}") from None


def main(argv: list[str] | None = None) -> int:
    """Attack; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=sorted(KINDS))
    parser.add_argument("--kind", choices=sorted({*KINDS["zarr"], *KINDS["h5"]}))
    parser.add_argument("--keep", type=Path, help="where the stores that were findings go")
    arguments = parser.parse_args(argv)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        verdicts = _attacks(arguments, Path(folder))
    for (form, kind), counts in sorted(verdicts.items()):
        print(f"{form:5} {kind:18} {dict(sorted(counts.items()))}")
    return 1 if any(counts["finding"] for counts in verdicts.values()) else 0


def _attacks(arguments: argparse.Namespace, folder: Path) -> dict[tuple[str, str], collections.Counter[str]]:
    (folder / "pristine").mkdir()
    pristine = make_pristine(folder / "pristine")
    victim = Victim(pristine)
    verdicts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for seed in range(arguments.seed, arguments.seed + arguments.mutations):
        form = arguments.form or sorted(KINDS)[seed % 2]
        kinds = sorted(KINDS[form])
        kind = arguments.kind or kinds[seed // 2 % len(kinds)]
        try:
            verdict, _ = attack(victim, pristine, folder / "work", form, kind, seed)
        except AssertionError as error:
            verdict = "finding"
            print(error, flush=True)
            if arguments.keep:
                shutil.copytree(folder / "work", arguments.keep / f"{form}-{kind}-{seed}", symlinks=True)
        verdicts[form, kind][verdict] += 1
    victim.close()
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
