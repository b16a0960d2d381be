"""Leaves memory of all kinds: of a paused sandbox, one that goes on, a snapshot, a fork."""

from e2b import Sandbox

paused, resumed = Sandbox.create(timeout=3000), Sandbox.create(timeout=3000)
paused.pause()
resumed.pause()
Sandbox.connect(resumed.sandbox_id)
resumed.create_snapshot()
(fork,) = resumed.fork()
assert fork.is_running()
