"""Without a GPU, Triton kernels run under Triton's interpreter, which must be chosen before import."""

import os
import signal

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts background jobs with SIGINT ignored, which every child would inherit: tests that interrupt one need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
