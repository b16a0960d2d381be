"""Kills sandboxes at different times while they are being paused; the argument is the daemon's database."""

import sqlite3
import sys
import threading
import time

from e2b import Sandbox, SandboxException


def pause(sandbox):
    try:
        sandbox.pause()
    except SandboxException:
        pass


for delay in (0, 0.02, 0.05, 0.1, 0.2, 0.4):
    sandbox = Sandbox.create()
    pausing = threading.Thread(target=pause, args=(sandbox,))
    pausing.start()
    time.sleep(delay)
    assert sandbox.kill()
    pausing.join()
assert Sandbox.list().next_items() == []
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
kept = database.execute("SELECT id FROM paused_sandbox").fetchall()
assert kept == [], kept
