"""Is a store that is already there the one that this run would make?"""

import json
from typing import Any

from precompute.errors import PrecomputeError
from precompute.job import Job

INFORMATIVE = ("software", "created")
"""Entries of the provenance that may differ between two runs of one store."""


def refuse_other(job: Job, store: Any, codec: Any, provenance: dict[str, Any]) -> str:
    """Compare a finished store with what this run would make.

    Returns:
        One line that says that there is nothing to do.

    Raises:
        PrecomputeError: If it is another store; the message names the entries that differ.
    """
    stored = {**store.manifest["provenance"], "codec": store.spec.codec.to_json(), "frames": store.has_frames}
    wanted = {**json.loads(json.dumps(provenance)), "codec": codec.to_json(), "frames": job.cropper.frames}
    differing = sorted(_differences(stored, wanted))
    if differing:
        raise PrecomputeError(
            f"{store.path} is complete and another store than this run would make: it differs in "
            f"{'; '.join(differing)}. Give another --store, or replace it with --overwrite instead of --resume"
        )
    return f"{store.path} is complete: nothing to do"


def _differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Entries that differ, as ``path: stored, now wanted``."""
    differing = []
    for key in sorted({*stored, *wanted} - set(INFORMATIVE)):
        before, now = stored.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            differing += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            differing.append(f"{prefix}{key}: {before!r}, now {now!r}")
    return differing
