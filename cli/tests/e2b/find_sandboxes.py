"""Checks what became of sandboxes: the arguments are states and ids in turns."""

import sys

from e2b import Sandbox

expected = dict(zip(sys.argv[2::2], sys.argv[1::2]))
found = {one.sandbox_id: one.state.value for one in Sandbox.list().next_items()}
for id, state in expected.items():
    if state == "gone":
        assert id not in found, found
        continue
    assert found[id] == state, found
    sandbox = Sandbox.connect(id)
    assert sandbox.files.read("/tmp/whose") == id
    assert len(sandbox.commands.list()) == 1, "its command goes on"
    if state == "paused":
        sandbox.pause()
