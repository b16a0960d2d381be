"""Leaves a sandbox that runs, and one that is paused."""

from e2b import Sandbox

sandboxes = [Sandbox.create(timeout=3000) for _ in range(2)]
for sandbox in sandboxes:
    sandbox.files.write("/tmp/whose", sandbox.sandbox_id)
    sandbox.commands.run("sleep 10000", background=True)
sandboxes[1].pause()
print(*(sandbox.sandbox_id for sandbox in sandboxes))
