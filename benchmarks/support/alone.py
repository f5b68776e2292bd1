"""The command line of a single benchmark, for example `python -m benchmarks.store.reading`. Lines go to stdout only."""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.support.effort import QUICK, Effort
from benchmarks.support.report import Line
from benchmarks.support.workspace import Workspace
from kdcli.flags import Parser

Benchmark = Callable[[Workspace], Iterator[Line]]


def run_alone(benchmark: Benchmark, description: str | None) -> None:
    """Parse the command line of a benchmark's module and print its lines as they are measured."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to check that it runs")
    parser.add_argument("--full", action="store_true", help="also the cases that take minutes or gigabytes")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else Effort(full=arguments.full)
    with tempfile.TemporaryDirectory() as folder:
        for line in benchmark(Workspace(Path(folder), effort)):
            print(json.dumps(line.to_json()), flush=True)
