"""All benchmarks, JSON lines to stdout and to a new file in benchmarks/results/.

python -m benchmarks            about ten minutes on two quiet cores
python -m benchmarks --quick    as little as possible: do they run? (nothing is kept)
python -m benchmarks --full     also the stores of 150,000 instances, HRNet-W48 at 384x288, and what else takes minutes
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

from console.flags import Parser


def main(argv: list[str] | None = None) -> int:
    """Run every benchmark; 0 when all have reported."""
    parser = Parser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args(argv)
    from benchmarks import (
        allocator,
        averaging,
        codec,
        compiling,
        cost,
        first_step,
        loader,
        memory,
        reading,
        scale,
        streaming,
        training,
        warping,
        writing,
    )
    from benchmarks.effort import QUICK, Effort
    from benchmarks.report import keep
    from benchmarks.workspace import Workspace

    effort = QUICK if arguments.quick else Effort(full=arguments.full)
    long = [allocator, compiling, cost, scale, memory, warping, averaging] if effort.full else []
    scripts = [codec, reading, streaming, writing, loader, training, first_step, *long]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), effort)
        for script in scripts:
            for line in script.run(workspace):
                lines.append(line.to_json())
                print(json.dumps(lines[-1]), flush=True)
    if not arguments.quick:
        results = Path(__file__).resolve().parent / "results"
        print(f"kept in {keep(lines, results, datetime.date.today())}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
