"""Parameters, multiply-adds and CPU latency of student backbones over those of squeezenet1_1.

    python -m benchmarks.study.students [--input-size 256x192] [--head fused] [--stride 4] [NAME ...]

The command prints a Markdown table and no benchmark lines. Latency is the CPU time per image in float32 on one thread,
as a ratio to that of squeezenet1_1. All backbones take turns, so that other load on the machine affects them alike, and
the table shows the median of the ratios within each round. The line below the table gives the milliseconds of
squeezenet1_1.
"""

import sys
import time
from collections.abc import Mapping

import torch

from benchmarks.support.timing import Timings, Work, interleave_on
from kdcli.flags import Parser
from kdlib.errors import KdlibError
from kdlib.geometry import MAP_STRIDES, STRIDE, parse_size
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.students.networks import Student, build_student

STUDENTS = (
    "squeezenet1_1",
    "squeezenet1_0",
    "timm:mobilenetv3_small_100",
    "timm:mobilenetv3_large_100",
    "timm:tf_efficientnet_lite0",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:resnet18",
)
REFERENCE = STUDENTS[0]
TURN = 4
"""Images per turn, one at a time."""


def _turn(model: Student, size: tuple[int, int]) -> Work:
    """Build a turn: it runs a student on `TURN` images."""
    image = torch.randn(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def turn() -> int:
        for _ in range(TURN):
            model(image)
        return TURN

    return turn


def latencies(students: Mapping[str, Student], size: tuple[int, int], rounds: int) -> Timings:
    """Measure CPU seconds per image of a size (width, height), one thread, for every student in every round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = {name: _turn(model.eval(), size) for name, model in students.items()}
        return interleave_on({"cpu": time.process_time}, work, rounds)["cpu"]
    finally:
        torch.set_num_threads(threads)


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if a name is not a student."""
    parser = Parser(prog="python -m benchmarks.study.students", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="students, as for --student")
    parser.add_argument("--input-size", default="256x192", help="height x width (default 256x192)")
    parser.add_argument("--head", default="fused", help="head of all students (default fused)")
    stride_help = "input pixels per heatmap pixel (default 4)"
    parser.add_argument("--stride", type=int, default=STRIDE, choices=MAP_STRIDES, help=stride_help)
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="turns of every student (default 30)")
    arguments = parser.parse_args(argv)
    size = parse_size(arguments.input_size)
    names = dict.fromkeys([REFERENCE, *(arguments.names or STUDENTS)])
    try:
        students = {name: build_student(name, arguments.head, 17, size, arguments.stride) for name in names}
    except KdlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    timings = latencies(students, size, arguments.rounds)
    print(f"| student ({arguments.input_size}, {arguments.head}) | parameters | GMACs | CPU time (quartiles) |")
    print("|---|---|---|---|")
    for name, model in students.items():
        millions, billions = parameter_count(model) / 1e6, multiply_adds(model, size) / 1e9
        low, high = timings.spread(name, REFERENCE)
        times = f"{timings.paired(name, REFERENCE):.2f} ({low:.2f} to {high:.2f})"
        print(f"| `{name}` | {millions:.2f} M | {billions:.2f} | {times} |")
    print(f"\nCPU time 1.00 is {1000 * timings.median(REFERENCE):.1f} ms here: one image, one thread, float32.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
