"""Runs CUDA code without a GPU, on fake tensors, and records what it asks of the device.

    with fake_cuda() as device:
        student.to(device.cuda)
        with device.recording():
            step(batch)
    assert device.synchronisations == []

`FakeTensorMode` of torch gives tensors of the device ``cuda:0`` a shape, a dtype and a device, but no memory, so no
driver is needed. An operator that mixes devices raises `torch._subclasses.fake_tensor.FakeTensorDeviceMismatchError`.
What needs a driver is replaced while the block runs: moving and copying modules, pinned memory, events, streams, CUDA
graphs, autocast's check, and the backward pass. Autograd cannot run on fake CUDA tensors: `Tensor.backward` fills the
gradients with zeros instead.
"""

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kdlib.images import _kept_statistics

CUDA = torch.device("cuda:0")
SOURCES = tuple(str(Path(__file__).resolve().parents[2] / room) for room in ("kdlib", "precompute", "train"))
READS = ("aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.masked_select", "aten.is_nonzero")
"""Operators whose result, or whose shape, the host must wait for."""
FREE = ("aten.detach", "aten.alias", "aten._unsafe_view", "aten.empty", "aten.lift", "aten.set_", "prim.")
"""Operators that start no kernel, besides views."""
COPIES = ("aten._to_copy", "aten.copy_", "aten.to.")
"""Operators that copy between devices. In inference mode, ``aten.to`` is not split into others."""


class FakeGraph:
    """Stands for `torch.cuda.CUDAGraph`.

    Attributes:
        kernels: Number of recorded operators that start a kernel.
        replays: Number of calls of `replay`.
    """

    def __init__(self) -> None:
        self.kernels = self.replays = 0

    def replay(self) -> None:
        """Count the call."""
        self.replays += 1


class FakeStream:
    """Stands for `torch.cuda.Stream`.

    Args:
        report: Gets the name of each method that is called, this stream, and the streams that it was given.

    Attributes:
        cuda_stream: the address, which no other stream has.
    """

    def __init__(self, report: Callable[..., None]) -> None:
        self._report, self.cuda_stream = report, id(self)

    def wait_stream(self, other: "FakeStream") -> None:
        """Report the call."""
        self._report("wait_stream", self, other)

    def wait_event(self, event: Any) -> None:
        """Report the call."""
        self._report("wait_event", self)

    def synchronize(self) -> None:
        """Report the call."""
        self._report("synchronize", self)


class FakeDevice(TorchDispatchMode):
    """Records the operators on fake CUDA tensors.

    Attributes:
        kernels: Number of operators that start a kernel, by name.
        synchronisations: Operators and streams for which the host waits for the device, each with the line of the
            project.
        uploads: Copies from the host to the device, each with the line of the project.
        downloads: Copies from the device to pinned host memory that the host does not wait for.
        graphs: The CUDA graphs that were captured.
        streams: The streams that are current, the innermost one last.
    """

    cuda = CUDA

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[FakeGraph] = []
        self.streams = [FakeStream(self._report)]
        self._recording = False
        self.clear()

    def clear(self) -> None:
        """Forget all records."""
        self.kernels: collections.Counter[str] = collections.Counter()
        self.synchronisations: list[str] = []
        self.uploads: list[str] = []
        self.downloads: list[str] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the operators of the block, from empty records."""
        self.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    @contextlib.contextmanager
    def capture(self, graph: FakeGraph, **_: Any) -> Iterator[None]:
        """Stand for `torch.cuda.graph`: like CUDA, it refuses a block that waits or copies from or to the host."""
        with self.recording():
            yield
        if forbidden := self.synchronisations + self.uploads + self.downloads:
            raise RuntimeError(f"operation not permitted when stream is capturing: {forbidden[0]}\nmore")
        graph.kernels = self.operators
        self.graphs.append(graph)

    @contextlib.contextmanager
    def on_stream(self, stream: FakeStream) -> Iterator[None]:
        """Stand for `torch.cuda.stream`."""
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    def _report(self, call: str, *_: FakeStream) -> None:
        if call == "synchronize" and self._recording:
            self.synchronisations.append(f"stream at {_line()}")

    def backward(self, loss: Tensor) -> None:
        """Stand for `Tensor.backward`: unrecorded, every leaf of the graph gets a gradient of zeros."""
        recording, self._recording = self._recording, False
        waiting, seen = [loss.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                leaf.grad = torch.zeros_like(leaf)
            waiting += [following for following, _ in node.next_functions]
        self._recording = recording

    @property
    def operators(self) -> int:
        """Number of operators that started a kernel."""
        return sum(self.kernels.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator on fake tensors and record it."""
        kwargs = kwargs or {}
        name, inputs = str(func), _tensors((args, kwargs))
        if name.startswith(READS) and any(tensor.device.type == "cuda" for tensor in inputs):
            if self._recording:
                self.synchronisations.append(f"{name} at {_line()}")
            if name.startswith("aten._local_scalar_dense"):
                return 1.0
        result = func(*args, **kwargs)
        if self._recording:
            self._record(func, name, args, kwargs, inputs, _tensors(result))
        return result

    def _record(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        devices = {tensor.device.type for tensor in inputs + outputs}
        if "cuda" not in devices or name.startswith(FREE):
            return
        if devices == {"cpu", "cuda"} and name.startswith(COPIES):
            self._record_copy(func, args, kwargs, to=outputs[0])
        elif outputs[0] is not inputs[0] if name.startswith("aten.to.") else not func.is_view:
            self.kernels[name] += 1

    def _record_copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to: Tensor) -> None:
        position = [argument.name for argument in func._schema.arguments].index("non_blocking")
        waits = not (args[position] if len(args) > position else kwargs.get("non_blocking", False))
        if to.device.type == "cuda":
            self.uploads.append(_line())
        elif not waits:
            self.downloads.append(_line())
        if waits:
            self.synchronisations.append(f"{func} to {to.device.type} at {_line()}")


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeDevice]:
    """Run a block on fake tensors; skips the test if this torch cannot make fake tensors of a CUDA device."""
    device = FakeDevice()

    def backward(loss: Tensor) -> None:  # a bound method would not get the tensor that it is called on
        device.backward(loss)

    def graph(recorded: FakeGraph, **options: Any) -> contextlib.AbstractContextManager[None]:
        return device.capture(recorded, **options)

    with contextlib.ExitStack() as stack:
        _kept_statistics.cache_clear()  # tensors of one fake mode cannot be used in another, or outside of it
        stack.callback(_kept_statistics.cache_clear)
        stack.enter_context(FakeTensorMode())
        for target, name, replacement in (
            (nn.Module, "_apply", _replace_tensors),
            (Tensor, "__deepcopy__", _copy_tensor),
            (Tensor, "pin_memory", _return_unchanged),
            (Tensor, "backward", backward),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "device", contextlib.nullcontext),
            (torch.cuda, "Event", mock.MagicMock()),
            (torch.cuda, "Stream", lambda *_, **__: FakeStream(device._report)),
            (torch.cuda, "current_stream", lambda *_: device.streams[-1]),
            (torch.cuda, "stream", device.on_stream),
            (torch.cuda, "CUDAGraph", FakeGraph),
            (torch.cuda, "graph", graph),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        stack.enter_context(device)
        try:
            torch.zeros(1, device=CUDA) + 1
        except (AssertionError, RuntimeError) as error:
            pytest.skip(f"torch {torch.__version__} makes no fake CUDA tensors: {str(error).splitlines()[0]}")
        yield device


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _line() -> str:
    """The line of the project that called the operator, as ``step.py:99``."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(SOURCES)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside the project"


def _replace_tensors(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """Stand for `nn.Module._apply`, which cannot change the device of a fake parameter in place."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def _copy_tensor(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """Stand for `Tensor.__deepcopy__`, which needs the tensor's storage."""
    new: Tensor = self.detach().clone()
    if isinstance(self, nn.Parameter):
        new = nn.Parameter(new, self.requires_grad)
    memo[id(self)] = new
    return new


def _return_unchanged(self: Tensor, *_: Any) -> Tensor:
    """Stand for `Tensor.pin_memory`: a fake tensor has no memory."""
    return self
