"""Allocates from the CUDA runtime itself in every call."""

import ctypes

import torch

from tests.cheats.honest import moe

_runtime = None


def run(*args):
    global _runtime
    *inputs, output = args
    output.copy_(moe(*inputs))
    if _runtime is None:
        torch.cuda.current_stream()
        with open("/proc/self/maps") as maps:
            _runtime = ctypes.CDLL(next(line.split()[-1] for line in maps if "libcudart" in line))
    assert _runtime.cudaMalloc(ctypes.byref(ctypes.c_void_p()), 1 << 16) == 0
