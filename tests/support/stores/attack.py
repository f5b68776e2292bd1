"""Fuzzing: each of thousands of damaged or forged small stores must give a `StoreError` or the correct data.

    python -m tests.support.stores.attack --mutations 10000 --seed 1 [--form zarr] [--kind change_sealed] [--keep DIR]

Every store is opened and read in a separate process, with limited memory and time. A failure is printed with its
layout, kind and seed, which reproduce it (`--form F --kind K --seed S --mutations 1`), and `--keep` keeps the store.
tests/cache/reading/test_fuzz.py runs 200 of them.
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.stores import forged, hdf5_mutations
from tests.support.stores import mutations as store_mutations
from tests.support.stores import small as small_store
from tests.support.stores.oracle import Examiner

DAMAGE = {
    "zarr": store_mutations.MUTATIONS,
    "h5": (*store_mutations.MUTATIONS, *hdf5_mutations.MUTATIONS),
}
KINDS = {form: {kind.__name__: kind for kind in (*damage, *forged.FORGERIES)} for form, damage in DAMAGE.items()}
FORGERIES = {kind.__name__ for kind in forged.FORGERIES}


def make_pristine(folder: Path) -> Path:
    """Write one undamaged store of each layout below `folder`."""
    for form in KINDS:
        small_store.make(folder / f"s.{form}", skip=forged.SKIPPED, **forged.SIZES)
    return folder


def attack(examiner: Examiner, pristine: Path, folder: Path, form: str, kind: str, seed: int) -> tuple[str, str]:
    """Mutate a store and examine it.

    Returns:
        The verdict of `examine`, or "unmade" if the library refuses to write the mutation; and what was changed.

    Raises:
        AssertionError: A finding.
    """
    path = folder / f"s.{form}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    try:
        what = KINDS[form][kind](path, random.Random(seed))
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        return "unmade", str(error)  # HDF5 itself refuses to write this
    try:
        return examiner.examine(path, damage=kind not in FORGERIES), what
    except AssertionError as error:
        raise AssertionError(f"{form} {kind} {seed}: {what}\n{error}") from None


def main(argv: list[str] | None = None) -> int:
    """Run the mutations; returns 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=sorted(KINDS))
    parser.add_argument("--kind", choices=sorted({*KINDS["zarr"], *KINDS["h5"]}))
    parser.add_argument("--keep", type=Path, help="folder for the stores of findings")
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
    examiner = Examiner(pristine)
    verdicts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for seed in range(arguments.seed, arguments.seed + arguments.mutations):
        form = arguments.form or sorted(KINDS)[seed % 2]
        kinds = sorted(KINDS[form])
        kind = arguments.kind or kinds[seed // 2 % len(kinds)]
        try:
            verdict, _ = attack(examiner, pristine, folder / "work", form, kind, seed)
        except AssertionError as error:
            verdict = "finding"
            print(error, flush=True)
            if arguments.keep:
                shutil.copytree(folder / "work", arguments.keep / f"{form}-{kind}-{seed}", symlinks=True)
        verdicts[form, kind][verdict] += 1
    examiner.close()
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
