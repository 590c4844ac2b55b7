"""Starts a process that stays, for instance to look at what the harness does."""

import subprocess
import sys

from tests.cheats.honest import moe

_helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
