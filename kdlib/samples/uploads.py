"""Copies of batches to a GPU, on a stream of their own: the copy of one batch overlaps the step of the one before.

Batches are filled in page-locked ("pinned") host memory, which a GPU reads without the host. Such memory is slow to
allocate, so a few batches of it are used in turn. A batch is refilled only after its copy is complete.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

ON_HOST: Final = ("affine", "row")
"""Entries of a batch that are never used on the device."""


class Upload(Protocol):
    """The copy of one batch, which has been started."""

    def wait(self) -> None:
        """Let the host wait until the copy is complete; its source may be overwritten afterwards."""

    def take(self) -> dict[str, Tensor]:
        """Return the tensors on the device; work that the caller starts now waits there for the copy."""


class Uploads(Protocol):
    """Copies batches to one device."""

    def allocate(self, like: Tensor) -> Tensor:
        """Uninitialised host memory of a tensor's shape and dtype from which the device can copy."""

    def start(self, batch: Mapping[str, Tensor]) -> Upload:
        """Start to copy a batch."""


class CudaUploads:
    """Copies to a GPU.

    The copies are made on a stream of their own, but their targets are allocated on the stream of the caller, on which
    they are used and freed. A target may be memory that an earlier step is still using; the copy waits for what the
    caller has launched before `start`. Started before a step is launched, it therefore overlaps that step.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def allocate(self, like: Tensor) -> Tensor:
        """Page-locked host memory of a tensor's shape and dtype, uninitialised."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def start(self, batch: Mapping[str, Tensor]) -> "CudaUpload":
        """Start to copy a batch in page-locked memory; entries of `ON_HOST` are copied in host memory at once."""
        host = {name: tensor.clone() for name, tensor in batch.items() if name in ON_HOST}
        on_device = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
            for name, tensor in batch.items()
            if name not in ON_HOST
        }
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for name, tensor in on_device.items():
                tensor.copy_(batch[name], non_blocking=True)
            # Waiting for a blocking event leaves the core to the threads that fill batches; others spin on it.
            copied = torch.cuda.Event(blocking=True)
            copied.record(self._stream)
        return CudaUpload({**host, **on_device}, copied, self._device)


class CudaUpload:
    """The copy of one batch to a GPU; see `Upload`."""

    def __init__(self, tensors: dict[str, Tensor], copied: torch.cuda.Event, device: torch.device) -> None:
        self._tensors, self._copied, self._device = tensors, copied, device

    def wait(self) -> None:
        """Let the host wait until the copy is complete."""
        self._copied.synchronize()

    def take(self) -> dict[str, Tensor]:
        """Return the tensors; the caller's stream waits for the copy."""
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return self._tensors


@dataclasses.dataclass
class HostBatch:
    """A batch in host memory that is used again and again.

    Attributes:
        tensors: Entries of the batch.
        upload: The last copy that was started from it.
    """

    tensors: dict[str, Tensor]
    upload: Upload | None = None

    def part(self, size: int) -> tuple[dict[str, NDArray[Any]], dict[str, Tensor]]:
        """The first ``size`` samples, as arrays and as tensors of the same memory."""
        tensors = {name: tensor[:size] for name, tensor in self.tensors.items()}
        return {name: tensor.numpy() for name, tensor in tensors.items()}, tensors

    def finish(self) -> None:
        """Wait until the last copy is complete; the batch may then be filled again."""
        if self.upload is not None:
            self.upload.wait()
            self.upload = None


class HostBatches:
    """A fixed number of batches in host memory, which are filled and copied in turn.

    Args:
        like: A batch of the largest size, whose values are not used.
        count: Number of batches.
        uploads: Allocates their memory.
    """

    def __init__(self, like: Mapping[str, Tensor], count: int, uploads: Uploads) -> None:
        self._batches = [
            HostBatch({name: uploads.allocate(tensor) for name, tensor in like.items()}) for _ in range(count)
        ]
        self._next = 0

    def take(self) -> HostBatch:
        """Return the batch whose turn it is, after its last copy is complete."""
        batch = self._batches[self._next]
        self._next = (self._next + 1) % len(self._batches)
        batch.finish()
        return batch

    def finish(self) -> None:
        """Wait for all copies."""
        for batch in self._batches:
            batch.finish()
