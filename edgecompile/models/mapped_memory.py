"""Keeps large weights in files while a model is compiled, so that memory holds few of them at a time.

A parameter's values lie in a file that is mapped; whatever reads them has them read by the kernel. Where more of them
are in memory than is of use, they are let go of: they stay in the file, and in the kernel's cache as long as there is
room. So a model may be larger than the memory of the machine that compiles it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

__all__ = ["MappedMemory"]

_LEAST_BYTES = 1 << 20
"""A smaller tensor stays in memory."""
_MOST_RESIDENT_BYTES = 192 << 20
"""Of mapped files, more than at the beginning."""
_LOOK_S = 0.02
_MADV_DONTNEED = 4


@dataclass(frozen=True)
class _Region:
    """Whole pages of a mapped file."""

    begin: int
    num_bytes: int
    owner: torch.Tensor
    """Keeps it mapped: its addresses are never another thing's while they are known here."""
    is_private: bool
    """What is written there is in memory alone."""

    @property
    def is_clean(self) -> bool:
        return not self.is_private or self.owner._version == 0


class MappedMemory:
    """Files for large tensors, and a thread that lets go of their pages while it is open.

    Off Linux, and where no file can be made, tensors are in memory as usual.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: or the first one above it that exists. Files there have no name: nothing is left, whatever ends."""
        self._folder = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
        self._regions: list[_Region] = []
        self._known: set[int] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MappedMemory:
        if sys.platform == "linux":
            self._thread = threading.Thread(target=self._keep_low, name="mapped weights", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def empty(self, shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros, in a file where it is large."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < _LEAST_BYTES or self._thread is None:
            return torch.zeros(tuple(shape), dtype=dtype)
        try:
            storage = self._file(num_bytes)
        except (OSError, RuntimeError):  # no room, no permission, or a file system that maps nothing
            return torch.zeros(tuple(shape), dtype=dtype)
        value = torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
        self._add(value, is_private=False)
        return value  # type: ignore[no-any-return]

    def _file(self, num_bytes: int) -> torch.UntypedStorage:
        descriptor, name = tempfile.mkstemp(prefix=".weights.", dir=self._folder)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)  # a full disk shows here, and not when a page is written
            storage = torch.UntypedStorage.from_file(name, shared=True, nbytes=num_bytes)
            assert isinstance(storage, torch.UntypedStorage)
            return storage
        finally:
            os.close(descriptor)
            os.unlink(name)

    def watch(self, mapped: Iterable[torch.Tensor]) -> None:
        """Lets go of the pages of these too: parts of mapped files that nobody writes."""
        for value in mapped:
            if self._thread is not None and value.numel() * value.element_size() >= _LEAST_BYTES:
                self._add(value, is_private=True)

    def _add(self, value: torch.Tensor, *, is_private: bool) -> None:
        page = mmap.PAGESIZE
        begin = -(-value.data_ptr() // page) * page
        end = (value.data_ptr() + value.numel() * value.element_size()) // page * page
        with self._lock:
            self._known.add(value.data_ptr())
            if end > begin:
                self._regions.append(_Region(begin, end - begin, value, is_private))

    @contextmanager
    def parameters(self, *, filled_later: bool = False) -> Iterator[None]:
        """The large parameters of modules that are built inside lie in files.

        Args:
            filled_later: their first values are of no account, and are not computed.
        """
        handle = register_module_parameter_registration_hook(functools.partial(self._placed, filled_later))
        try:
            with _Unfilled(self._known) if filled_later else nullcontext():
                yield
        finally:
            handle.remove()

    def _placed(self, filled_later: bool, module: nn.Module, name: str, value: Any) -> None:
        self._move(value, filled_later)

    def adopt(self, module: nn.Module) -> None:
        """Moves the large parameters of a module that was built into files."""
        for value in module.parameters():
            self._move(value, False)

    def _move(self, value: Any, filled_later: bool) -> None:
        """The parameter stays the object that it is, and so do its users; only where its values lie is another place.

        What shares them with another tensor stays where it is: one of the two would not see what the other writes.
        """
        if type(value) is not nn.Parameter or value.device.type != "cpu" or not value.is_contiguous():
            return
        num_bytes = value.numel() * value.element_size()
        if num_bytes < _LEAST_BYTES or value.data_ptr() in self._known or not _is_alone(value):
            return
        placed = self.empty(value.shape, dtype=value.dtype)
        if placed.data_ptr() not in self._known:
            return
        if not filled_later:
            placed.copy_(value.detach())
        value.data = placed

    def _keep_low(self) -> None:
        most = _resident_file_bytes() + _MOST_RESIDENT_BYTES
        while not self._closed.wait(_LOOK_S):
            if _resident_file_bytes() > most:
                self.let_go()

    def let_go(self) -> None:
        """Lets go of all pages: they are read again when something needs them."""
        with self._lock:
            regions = list(self._regions)
        for region in regions:
            if region.is_clean:
                _advise(region.begin, region.num_bytes)


def _is_alone(value: torch.Tensor) -> bool:
    """Whether no other tensor has its memory."""
    storage = value.untyped_storage()
    count: Any = getattr(torch._C, "_storage_Use_Count", None)
    if count is None or storage.nbytes() != value.numel() * value.element_size():
        return False
    return bool(count(storage._cdata) <= _OWNERS)


_OWNERS = 2
"""Of a storage that one tensor has: the tensor, and Python's object of the storage itself."""


class _Unfilled(TorchFunctionMode):
    """Leaves out what writes first values into parameters that lie in files."""

    def __init__(self, places: set[int]) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        fills = func in _FILLS or getattr(func, "__module__", "") in _OF_INIT
        if fills and isinstance(filled, torch.Tensor) and not filled.is_meta and filled.data_ptr() in self._places:
            return filled
        return func(*args, **kwargs)


_FILLS = frozenset(
    {
        torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_, torch.Tensor.erfinv_,
        torch.Tensor.mul_, torch.Tensor.add_, torch.Tensor.clamp_,
    }
)  # fmt: skip
"""What torch.nn.init is made of, which models call too."""
_OF_INIT = ("torch.nn.init", "transformers.initialization")


def _resident_file_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[2]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def _advise(begin: int, num_bytes: int) -> None:
    with suppress(OSError, AttributeError):
        _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(num_bytes), _MADV_DONTNEED)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
