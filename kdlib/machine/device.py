"""The device and the precision that a network runs in, chosen by fixed rules.

`auto` does not measure anything: a choice that depended on the load of the machine could make two stores of the same
command differ.

| device | `auto` precision | why |
|---|---|---|
| CUDA, compute capability 8.0 or higher | bf16 | tensor cores |
| CUDA, 7.0 to 7.9 (V100, T4, RTX 20xx) | fp16 (teacher), fp32 (student) | fp16 has tensor cores |
| CUDA, older | fp32 | neither has tensor cores |
| CPU with AVX512-BF16 or AMX-BF16 | bf16 | 1.9 times as fast as fp32, measured on HRNet-W32 at 256x192 |
| any other CPU | fp32 | bf16 is emulated |
| Apple GPU (MPS) | fp32 | bf16 needs macOS 14, and neither it nor fp16 has been measured; both can be chosen |

fp32 is the reference. TF32, which rounds the factors of fp32's products to 10 bits, is not used: torch allows it by
default in convolutions, and the commands forbid it (`forbid_tf32`). Manifests and run configurations record the
precision. The error of a teacher
in bf16, measured on 478 COCO persons with a small HRNet that was trained for ten minutes: the maximum moves in 3.1 % of
the maps (4.7 % if the last convolution also runs in bf16), by more than a pixel in 0.3 % of the confident ones; PCK
changes by less than 0.1 points.
"""

import torch

from kdlib.errors import KdlibError

PRECISIONS = ("auto", "fp32", "bf16")
"""Precisions of a student. A gradient in fp16 needs a scaled loss, which the trainer does not have."""
TEACHER_PRECISIONS = (*PRECISIONS, "fp16")
_CPU_BF16 = ("avx512_bf16", "amx_bf16")


def choose_device(name: str) -> torch.device:
    """The device for `auto` (CUDA if available, else MPS, else the CPU), `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        KdlibError: If the name is not one of these or this machine has no such device.
    """
    if name == "auto":
        on_mac = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else on_mac)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "mps", "cuda") or (index and (kind == "mps" or not index.isdigit())):
        raise KdlibError(f"unknown device {name!r}; choose auto, cpu, mps, cuda or cuda:N")
    if kind == "mps" and not torch.backends.mps.is_available():
        reason = "needs macOS 12.3 or newer" if torch.backends.mps.is_built() else "is not built for Apple's GPUs"
        raise KdlibError(f"no device {name} here: torch {torch.__version__} {reason}; give --device cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise KdlibError(
            f"no device {name} here: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device(name)


def forbid_tf32() -> None:
    """Let every convolution and matrix product in fp32 on a GPU have the precision of fp32, in this process."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def uses_tf32() -> bool:
    """Whether convolutions or matrix products in fp32 may use TF32 on a GPU that has it."""
    return torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32


def choose_precision(name: str, device: torch.device, available: tuple[str, ...] = PRECISIONS) -> str:
    """`fp32`, `bf16` or `fp16`; `auto` takes the fast one of the hardware, see the table of this module.

    Args:
        name: One of the available precisions.
        device: The device that the network runs on.
        available: `PRECISIONS` or `TEACHER_PRECISIONS`.

    Raises:
        KdlibError: If `name` is not one of the available precisions, or the device does not have it.
    """
    if name not in available:
        raise KdlibError(f"unknown precision {name!r}; choose {', '.join(available)}")
    if name == "bf16" and device.type == "mps" and not _mps_has_bf16():
        raise KdlibError("this version of macOS has no bf16 on its GPU, which needs macOS 14; give --precision fp32")
    if name != "auto":
        return name
    if _computes_in_bf16(device):
        return "bf16"
    return "fp16" if "fp16" in available and _computes_in_fp16(device) else "fp32"


def _computes_in_fp16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in _CPU_BF16)


def _mps_has_bf16() -> bool:
    try:
        torch.zeros(1, dtype=torch.bfloat16, device="mps")
    except (RuntimeError, TypeError):
        return False
    return True
