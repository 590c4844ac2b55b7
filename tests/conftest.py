"""Without a GPU, Triton kernels run under Triton's interpreter, which must be chosen before import."""

import os
import signal

import torch

from harness.environment import visible_gpus

# Asked of the driver: torch would settle which GPUs this process sees before a test has chosen one.
if torch.version.cuda is None or not visible_gpus():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts background jobs with SIGINT ignored, which every child would inherit: tests that interrupt one need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
