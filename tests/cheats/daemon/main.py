"""Starts a process that detaches itself, as a daemon does, and stays."""

import os
import time

from tests.cheats.honest import moe

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
