"""The line that a benchmark reports, and the results file of a run.

A line is one JSON object: bench, metric, value, unit, peer, peer_value, ratio, n, machine, versions, and the fields
that distinguish lines of the same metric. ``ratio`` is value / peer_value; without a peer both are null.
"""

import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdlib.machine.process import available_cores
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
        """Return the line as it is printed."""
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
    """Return the versions of all software that affects speed."""
    return software()


@functools.cache
def machine() -> str:
    """Describe the machine without its host name: cores, vector instructions, and the GPU if there is one."""
    cores = available_cores()
    parts = [str(cores), "core", torch.backends.cpu.get_cpu_capability().lower()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name().lower())
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts)).strip("-")


def write_results(lines: list[dict[str, Any]], folder: Path, day: datetime.date) -> Path:
    """Write the lines of a run to a new file ``folder/DATE-MACHINE[-N].jsonl``; existing files are not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(line) + "\n" for line in lines)
    number = 1
    while True:
        path = folder / f"{day.isoformat()}-{machine()}{f'-{number}' if number > 1 else ''}.jsonl"
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(content)
        except FileExistsError:
            number += 1
        else:
            return path
