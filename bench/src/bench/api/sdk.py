"""Runs a command in one sandbox, once for each line of its input, and prints how long each run took.

The sandbox is the official SDK's; the environment says where its daemon listens.
"""

import sys
import time
from importlib.metadata import version

from e2b import Sandbox

TEMPLATE, COMMAND = sys.argv[1:]

sandbox = Sandbox.create(template=TEMPLATE, timeout=3600)
try:
    print(version("e2b"), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        sandbox.commands.run(COMMAND)
        print(time.perf_counter_ns() - begin, flush=True)
finally:
    sandbox.kill()
