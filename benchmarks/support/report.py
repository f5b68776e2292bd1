"""The line that a benchmark reports, and the file that keeps a run's lines.

A line is one JSON object: bench, metric, value, unit, peer, peer_value, ratio, n, machine, versions, and whatever else
tells lines of one metric apart. ``ratio`` is value / peer_value; without a peer both are null.
"""

import dataclasses
import datetime
import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from precompute.run.provenance import software


@dataclasses.dataclass(frozen=True)
class Line:
    """One measurement."""

    bench: str
    metric: str
    value: float
    unit: str
    n: int
    """Items (reads, instances, steps, ...) behind the value."""
    peer: str | None = None
    peer_value: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The line as it is printed."""
        ratio = None if self.peer_value is None else _digits(self.value / self.peer_value)
        return {
            "bench": self.bench,
            "metric": self.metric,
            "value": _digits(self.value),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": None if self.peer_value is None else _digits(self.peer_value),
            "ratio": ratio,
            "n": self.n,
            **self.extra,
            "machine": machine(),
            "versions": versions(),
        }


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that decides how fast something is."""
    return software()


@functools.cache
def machine() -> str:
    """What the machine is, without its name: cores, vector instructions, and the GPU if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [str(cores), "core", torch.backends.cpu.get_cpu_capability().lower()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name().lower())
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts)).strip("-")


def keep(lines: list[dict[str, Any]], folder: Path, day: datetime.date) -> Path:
    """Write a run's lines to ``folder/DATE-MACHINE.jsonl``; what is there already stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(line) + "\n" for line in lines)
    number = 1
    while True:
        path = folder / f"{day.isoformat()}-{machine()}{f'-{number}' if number > 1 else ''}.jsonl"
        try:
            with path.open("x") as file:
                file.write(content)
        except FileExistsError:
            number += 1
        else:
            return path
