"""Leaves a thread behind and replaces the functions that would show it."""

import sys
import threading
import time

from tests.cheats.honest import moe

_before = threading.enumerate()
_frames = sys._current_frames()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
threading.enumerate = lambda: list(_before)
sys._current_frames = lambda: dict(_frames)


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
