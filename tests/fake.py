"""A CUDA device that is not there: fake tensors that say they lie on it, and raise when their data is looked at.

A build of torch without CUDA has no device guard for it, and indexing asks for one. The guard of the meta device, which
does nothing, is entered in its place.
"""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA, META = 1, 14
"""Numbers of the device types in c10."""


def ensure_device_guard() -> None:
    """Give a build without CUDA a guard for it that does nothing."""
    if torch.cuda.is_available() or torch.backends.cuda.is_built():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 24).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    assert guards[META], "the meta device has no guard to lend"
    guards[CUDA] = guards[META]


@contextmanager
def fake_cuda() -> Generator[None]:
    """Inside, new tensors are fake ones on a CUDA device."""
    ensure_device_guard()
    with FakeTensorMode(), torch.device("cuda"):
        yield
