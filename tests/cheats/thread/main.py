"""Returns at once and lets a thread do the work; whoever looks late enough sees a right output."""

import threading
import time

from tests.cheats.honest import moe


def work(inputs, output):
    time.sleep(0.002)
    output.copy_(moe(*inputs))


def run(*args):
    *inputs, output = args
    threading.Thread(target=work, args=(inputs, output)).start()
