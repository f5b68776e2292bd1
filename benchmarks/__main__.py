"""Run all fast benchmarks; write JSON lines to stdout and to a new file in benchmarks/results/.

python -m benchmarks            about ten minutes on two quiet cores
python -m benchmarks --quick    smallest sizes, to check that the scripts run; writes no results file
python -m benchmarks --full     also the slow benchmarks: stores of 150,000 instances, HRNet-W48 at 384x288, and others
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

from kdcli.flags import Parser


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks and return 0."""
    parser = Parser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to check that the scripts run")
    parser.add_argument("--full", action="store_true", help="also run the benchmarks that take minutes")
    arguments = parser.parse_args(argv)
    from benchmarks.store import codec, reading, scale, streaming, writing
    from benchmarks.study import averaging, cost, warping
    from benchmarks.support.effort import QUICK, Effort
    from benchmarks.support.report import write_results
    from benchmarks.support.workspace import Workspace
    from benchmarks.trainer import allocator, compiling, first_step, loader, memory
    from benchmarks.trainer import steps as training

    effort = QUICK if arguments.quick else Effort(full=arguments.full)
    slow = [allocator, compiling, cost, scale, memory, warping, averaging] if effort.full else []
    scripts = [codec, reading, streaming, writing, loader, training, first_step, *slow]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), effort)
        for script in scripts:
            for line in script.run(workspace):
                lines.append(line.to_json())
                print(json.dumps(lines[-1]), flush=True)
    if not arguments.quick:
        results = Path(__file__).resolve().parent / "results"
        print(f"written to {write_results(lines, results, datetime.date.today())}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
