"""Launches through the CUDA driver, with all but the tensors' addresses laid out in advance.

Triton's own launcher makes a dictionary for its hooks, calls two of them and parses every argument, compile-time ones too,
on each launch, time in which a small batch's GPU idles. Here a call writes its addresses into one block of memory that all
its launches read, and each launch is one call of cuLaunchKernelEx. What that takes for granted of a kernel is asked of the
driver first.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
SUCCESS, INVALID_VALUE, INVALID_CONTEXT = 0, 1, 201  # CUresult
POINTER = 8  # bytes
# What a compiled kernel's metadata must say: launches here provide no clusters, no cooperative grid and no scratch memory.
PLAIN = {
    "num_ctas": 1,
    "launch_cooperative_grid": False,
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
}
NEEDED = ("num_warps", "shared", "launch_pdl")  # what else they must say
# The most that Triton adds to a kernel's parameters: one for each scratch size.
SCRATCH_POINTERS = 2


class Unsupported(Exception):
    """A kernel that needs more than launches here provide, or of which nothing says that it does not."""


class Place(NamedTuple):
    """Where the value of a parameter lies in host memory."""

    address: int
    size: int
    """Bytes."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, as far as it is needed; its value is a union of 64 bytes at offset 8."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_memory", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("num_attributes", ctypes.c_uint),
    ]


@cache
def library() -> Any:
    """The driver's library, which PyTorch has loaded; None if it has another name here."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _layout(function: int, most: int) -> list[tuple[int, int]] | None:
    """Offset and size of a kernel's parameters, or of its first `most`; None if the driver (before CUDA 12.4) does not say."""
    ask = getattr(library(), "cuFuncGetParamInfo", None)
    if ask is None:
        return None
    found: list[tuple[int, int]] = []
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    places = ctypes.byref(offset), ctypes.byref(size)
    while len(found) < most:
        code = ask(ctypes.c_void_p(function), ctypes.c_size_t(len(found)), *places)
        if code != SUCCESS:
            return found if code == INVALID_VALUE else None  # there is no such parameter
        found.append((offset.value, size.value))
    return found


def scratch_pointers(function: int, sizes: Sequence[int]) -> int:
    """How many pointers to scratch memory follow a kernel's parameters, as many as the Triton that compiled it adds.

    Args:
        function: the driver's handle of the kernel.
        sizes: bytes of each parameter that will be passed.

    Raises:
        Unsupported: the kernel takes other parameters.
    """
    found = _layout(function, len(sizes) + SCRATCH_POINTERS + 1)
    if found is None:
        raise Unsupported("the driver does not say how parameters are laid out")
    extra = len(found) - len(sizes)
    expected, at = [], 0
    for size in (*sizes, *[POINTER] * extra):
        at = -(-at // size) * size  # aligned to its size
        expected.append((at, size))
        at += size
    if not 0 <= extra <= SCRATCH_POINTERS or found != expected:
        raise Unsupported(f"parameters at {found} instead of {expected}")
    return extra


class Launch:
    """One launch of a compiled kernel whose parameters lie at fixed addresses of host memory."""

    def __init__(
        self,
        compiled: Any,
        grid: tuple[int, int, int],
        stream: int,
        parameters: Sequence[Place],
    ) -> None:
        """
        Args:
            compiled: what Triton compiled; it was launched on this device before, which loaded it and set how much shared
                memory it may have.
            grid: programs along each axis.
            stream: raw handle.
            parameters: where the value of each run-time parameter lies.

        Raises:
            Unsupported: it cannot be launched from here.
        """
        metadata = getattr(compiled, "metadata", None)
        function = getattr(compiled, "function", None)
        told = {name: getattr(metadata, name, None) for name in (*PLAIN, *NEEDED)}
        if None in (function, *told.values()) or any(
            told[name] != value for name, value in PLAIN.items()
        ):
            raise Unsupported(f"kernel {function}, whose metadata say {told}")
        scratch = scratch_pointers(function, [place.size for place in parameters])
        self._attribute = _Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, 0, (ctypes.c_int * 16)(1))
        self._config = _Config(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(32 * metadata.num_warps, 1, 1),
            metadata.shared,
            stream,
            ctypes.addressof(self._attribute),
            1 if metadata.launch_pdl else 0,
        )
        self._null = ctypes.c_uint64(0)
        places = [p.address for p in parameters] + [ctypes.addressof(self._null)] * scratch
        self._parameters = (ctypes.c_uint64 * len(places))(*places)
        # c_void_p, so that a call converts nothing.
        self.arguments = (
            ctypes.c_void_p(ctypes.addressof(self._config)),
            ctypes.c_void_p(function),
            ctypes.c_void_p(ctypes.addressof(self._parameters)),
            None,
        )
        """Of cuLaunchKernelEx: configuration, function, parameters, extra."""


class Launches:
    """Launches in order, in the context that is current when they are made."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        """
        Args:
            launches: in order.

        Raises:
            Unsupported: no context is current.
        """
        self._keep = launches
        self._arguments = [launch.arguments for launch in launches]
        self._call = library().cuLaunchKernelEx
        self._context = ctypes.c_void_p()
        code = library().cuCtxGetCurrent(ctypes.byref(self._context))
        if code != SUCCESS or not self._context:
            raise Unsupported(f"cuCtxGetCurrent returned CUresult {code}, {self._context}")

    def __call__(self) -> None:
        call = self._call
        for arguments in self._arguments:
            code = call(*arguments)
            if code:
                self._retry(code, arguments)

    def _retry(self, code: int, arguments: tuple[Any, ...]) -> None:
        """Launch again if this thread only lacked its context: one that never used the device has none."""
        if code == INVALID_CONTEXT and not library().cuCtxSetCurrent(self._context):
            code = self._call(*arguments)
        if code:
            raise RuntimeError(f"cuLaunchKernelEx returned CUresult {code}")
