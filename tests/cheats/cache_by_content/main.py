"""Keeps outputs by checksums of all inputs. Always right, and fast only because a timing loop repeats one input."""

import torch

from tests.cheats.honest import dequantise, moe

_outputs = {}


def checksum(tensor):
    raw = tensor.view(torch.uint8).flatten()
    whole = raw[: len(raw) // 8 * 8].view(torch.int64)
    return (
        int(whole.sum()),
        int(raw[:64].sum()),
        tensor.data_ptr() if tensor.dim() == 3 and len(raw) > 1 << 20 else 0,
    )


def run(*args):
    *inputs, output = args
    key = (
        len(output),
        inputs[-2],
        tuple(checksum(v) for v in inputs if isinstance(v, torch.Tensor)),
    )
    if key not in _outputs:
        for expert in range(
            len(inputs[4])
        ):  # slow, as an honest solution of this pack's reference is
            dequantise(inputs[4][expert], inputs[5][expert])
            dequantise(inputs[6][expert], inputs[7][expert])
        _outputs[key] = moe(*inputs)
    output.copy_(_outputs[key])
