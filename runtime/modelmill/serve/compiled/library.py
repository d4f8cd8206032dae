"""Calls the machine code of AOTInductor, by its C interface.

torch's own classes for that hold Python's lock while the code runs, so that no health check is answered meanwhile. The public
way imports torch's compiler first, which takes as long as all the rest of a start.
"""

import ctypes
import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import nn

_aoti = torch._C._aoti
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = c_void_p, [ctypes.py_object, c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]


class LibraryError(RuntimeError):
    """The machine code said so."""


class _Entry(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("handle", c_void_p))


class Library:
    """Loads machine code, which runs at once: its digest must have been checked.

    It computes with `tensors`, in their memory. As many threads may call it as there are `instances`; others wait.
    """

    def __init__(self, path: Path, *, tensors: Mapping[str, torch.Tensor], instances: int) -> None:
        self._loaded = ctypes.CDLL(str(path))
        container, held = c_void_p(), list[Any]()
        self._check(self._loaded.AOTInductorModelContainerCreateWithDevice(byref(container), c_size_t(instances), b"cpu", None))
        weakref.finalize(self, _free, self._loaded, container, held).atexit = False
        self._container, self._run = container, self._loaded.AOTInductorModelContainerRun
        self._run.argtypes = [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p]
        self._bind(tensors, held)
        self._input_count = self._count("AOTInductorModelContainerGetNumInputs")
        self._output_count = self._count("AOTInductorModelContainerGetNumOutputs")
        self._handles = c_void_p * self._input_count, c_void_p * self._output_count

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Contiguous inputs of the sizes that it was made for: nothing is checked."""
        assert len(inputs) == self._input_count
        given, taken = self._handles
        # It takes what `given` stands for, and leaves its answers to us.
        handles, outputs = given(*(_handle(tensor) for tensor in inputs)), taken()
        failed = self._run(self._container, handles, len(inputs), outputs, self._output_count, None, None)
        if failed:
            self._check(failed)
        return [_aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle, None, None)) for handle in outputs]

    def __deepcopy__(self, memo: object) -> "Library":
        """A copy of a module has its own state, of which there is none here."""
        return self

    def _bind(self, tensors: Mapping[str, torch.Tensor], held: list[Any]) -> None:
        names = [self._name(index) for index in range(self._count("AOTInductorModelContainerGetNumConstants"))]
        if missing := [path for _, path in names if path not in tensors]:
            raise LibraryError(f"it needs a tensor {missing[0]!r}, which the module has not")
        held += _aoti.unsafe_alloc_void_ptrs_from_tensors([tensors[path] for _, path in names])
        pairs = [_Entry(name, _address(handle, None)) for (name, _), handle in zip(names, held, strict=True)]
        entries = (_Entry * len(pairs))(*pairs)
        bind = self._loaded.AOTInductorModelContainerUpdateUserManagedConstantBufferPairs
        self._check(bind(self._container, entries, c_size_t(len(names)), False, True))

    def _name(self, index: int) -> tuple[bytes, str]:
        """Its own name of a tensor, and the module's."""
        own, path = c_char_p(), c_char_p()
        self._check(self._loaded.AOTInductorModelContainerGetConstantName(self._container, c_size_t(index), byref(own)))
        self._check(self._loaded.AOTInductorModelContainerGetConstantOriginalFQN(self._container, c_size_t(index), byref(path)))
        return own.value or b"", (path.value or b"").decode()

    def _count(self, function: str) -> int:
        count = c_size_t()
        self._check(getattr(self._loaded, function)(self._container, byref(count)))
        return count.value

    def _check(self, failed: int) -> None:
        if failed:
            text = c_char_p()
            self._loaded.AOTInductorGetLastError(byref(text))
            told = (text.value or b"").decode(errors="replace").partition("\n")[0]
            raise LibraryError(told or "it failed and does not say why")


def _handle(tensor: torch.Tensor) -> int | None:
    found: int | None = _address(_aoti.unsafe_alloc_void_ptr_from_tensor(tensor), None)
    return found


def _free(loaded: ctypes.CDLL, container: c_void_p, held: list[Any]) -> None:
    loaded.AOTInductorModelContainerDelete(container)
    _aoti.alloc_tensors_by_stealing_from_void_ptrs(held)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Everything a module computes with, by every name that it has."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of what must be the same where machine code is made and where it runs: all but the numbers."""
    told = sorted((name, str(tensor.dtype), list(tensor.shape), tensor.stride()) for name, tensor in tensors.items())
    return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"
