"""Runs code for the GPU of a Mac without one: tensors that name the device ``mps`` and compute on the CPU.

    with fake_mps() as device:
        student.to("mps")
        student(images)
    assert device.functions["conv2d"]

They refuse what a Mac does: float64 on the device, reading as a NumPy array, and functions that get tensors of both
devices. Values and gradients are those of the CPU. Autocast has no effect.
"""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from kdlib.images import _kept_statistics

MPS = torch.device("mps:0")
_CPU = torch.device("cpu")
_READS = (Tensor.numpy, Tensor.__array__)
_OF_TWO_DEVICES = ("copy_", "_foreach_copy_", "__set__")


class MpsTensor(Tensor):
    """A tensor on the CPU that names another device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # `FakeMps` wraps results

    @property
    def device(self) -> torch.device:
        """The device of a Mac."""
        return MPS


class FakeMps(TorchFunctionMode):
    """Runs the functions of torch.

    Attributes:
        functions: Number of calls with tensors of the device, by name.
        dtypes: The dtypes of the tensors that were made there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.functions: collections.Counter[str] = collections.Counter()
        self.dtypes: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run a function on the CPU; its result is on the device that it names, or on that of its inputs."""
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        on_mps = any(isinstance(tensor, MpsTensor) for tensor in tensors)
        if on_mps:
            self._check(func, tensors)
        if on_mps and func is Tensor.__deepcopy__:
            with self:
                return _deepcopy(*args)
        named = _named_device(func, args, kwargs)
        if named is not None:
            args, kwargs = _on_the_cpu(func, args, kwargs)
        result = func(*args, **kwargs)
        to_mps = on_mps if named is None else named.type == "mps"
        return tree_map_only(Tensor, self._put if to_mps else _take, result) if on_mps or to_mps else result

    def _check(self, func: Any, tensors: list[Tensor]) -> None:
        name = getattr(func, "__name__", str(func))
        self.functions[name] += 1
        if func in _READS:
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        others = [tensor for tensor in tensors if not isinstance(tensor, MpsTensor) and tensor.ndim]
        if others and name not in _OF_TWO_DEVICES:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found mps:0 and cpu")

    def _put(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, MpsTensor):
            return tensor
        if tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"cannot convert a MPS Tensor to {tensor.dtype}: MPS has no float64")
        self.dtypes.add(tensor.dtype)
        return tensor.as_subclass(MpsTensor)


def _named_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call moves to or makes a tensor on; None if it names none."""
    if func is Tensor.cpu:
        return _CPU
    if func is torch._C._nn._parse_to:  # how `nn.Module.to` reads its arguments
        return None
    named = [kwargs.get("device"), *(args[1:] if func is Tensor.to else ())]
    return next((torch.device(value) for value in named if isinstance(value, str | torch.device)), None)


def _on_the_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with the CPU as its device; a move makes a copy, as between devices."""
    if "device" in kwargs:
        kwargs["device"] = _CPU
    if func is Tensor.to:
        args = tuple(_CPU if isinstance(value, str | torch.device) else value for value in args)
        kwargs["copy"] = True
    return args, kwargs


def _take(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor) if isinstance(tensor, MpsTensor) else tensor


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """Stand for `Tensor.__deepcopy__`, which needs a subclass that is made by `Tensor.clone` itself."""
    new: Tensor = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, tensor.requires_grad)
    memo[id(tensor)] = new
    return new


def _apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """Stand for `nn.Module._apply`, which would put the values of a moved parameter into the old one."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = fn(buffer)
    return module


@contextlib.contextmanager
def fake_mps() -> Iterator[FakeMps]:
    """Run a block with a fake GPU of a Mac."""
    with contextlib.ExitStack() as stack:
        _kept_statistics.cache_clear()
        stack.callback(_kept_statistics.cache_clear)
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(torch.backends.mps, "is_available", return_value=True))
        yield stack.enter_context(FakeMps())
