"""What students cost, side by side: parameters, multiply-adds and CPU latency of a few backbones.

    python -m benchmarks.students [--input-size 256x192] [--head fused] [NAME ...]

A table for people, no benchmark line: latency is that of this machine and of its load.
"""

import sys

from console.flags import Parser

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


def main(argv: list[str] | None = None) -> int:
    """Print the table as Markdown; 1 if a name is no student."""
    parser = Parser(prog="python -m benchmarks.students", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="students as --student takes them")
    parser.add_argument("--input-size", default="256x192", help="height x width")
    parser.add_argument("--head", default="fused")
    arguments = parser.parse_args(argv)

    import torch

    from kdlib.geometry import parse_size
    from train.complexity import complexity
    from train.errors import TrainError
    from train.students import build_student

    size = parse_size(arguments.input_size)
    threads = torch.get_num_threads()
    print(f"| student ({arguments.input_size}, {arguments.head}) | parameters | GMACs | ms, {threads} threads |")
    print("|---|---|---|---|")
    for name in arguments.names or STUDENTS:
        try:
            cost = complexity(build_student(name, arguments.head, 17, size), size)
        except TrainError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        millions, billions = cost["parameters"] / 1e6, cost["multiply_adds"] / 1e9
        print(f"| `{name}` | {millions:.2f} M | {billions:.2f} | {cost['cpu_ms']:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
