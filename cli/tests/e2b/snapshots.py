"""Snapshots, forks, and what a sandbox uses."""

import datetime
import os
import urllib.request

from e2b import Sandbox, SandboxException, SandboxNotFoundException
import e2b


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


sandbox = Sandbox.create(envs={"OF_ALL": "1"}, metadata={"for": "a test"})
sandbox.files.write("/tmp/state", "before")
sandbox.commands.run("sleep 10000", background=True)

# Snapshots
first = sandbox.create_snapshot()
assert first.snapshot_id and first.names == [], first
named = sandbox.create_snapshot(name="one")
assert named.names == ["one"], named
sandbox.files.write("/tmp/state", "after")
begun = [Sandbox.create(first.snapshot_id), Sandbox.create("one", envs={"OWN": "2"}), Sandbox.create("one:default")]
for one in begun:
    assert one.sandbox_id != sandbox.sandbox_id
    assert one.files.read("/tmp/state") == "before"
    assert len(one.commands.list()) == 1, "its command goes on"
assert begun[1].commands.run("echo $OF_ALL $OWN").stdout == "1 2\n"
begun[0].files.write("/tmp/state", "its own")
assert begun[1].files.read("/tmp/state") == "before"
listed = Sandbox.list_snapshots()
assert [one.snapshot_id for one in listed.next_items()] == [named.snapshot_id, first.snapshot_id]
page = Sandbox.list_snapshots(limit=1)
assert [one.snapshot_id for one in page.next_items()] == [named.snapshot_id]
assert [one.snapshot_id for one in page.next_items()] == [first.snapshot_id]
assert not page.has_next
assert len(Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id).next_items()) == 2
assert Sandbox.list_snapshots(sandbox_id=begun[0].sandbox_id).next_items() == []
again = begun[0].create_snapshot(name="one")
assert Sandbox.create("one").files.read("/tmp/state") == "its own", "the name leads to the newer one"
assert Sandbox.delete_snapshot(again.snapshot_id) and not Sandbox.delete_snapshot(again.snapshot_id)
assert Sandbox.delete_snapshot(first.snapshot_id)
raises(SandboxException, lambda: Sandbox.create(first.snapshot_id))
assert begun[0].files.read("/tmp/state") == "its own", "who began from it goes on"
begun[0].pause()
assert Sandbox.connect(begun[0].sandbox_id).files.read("/tmp/state") == "its own"
raises(SandboxException, lambda: sandbox.create_snapshot(name="no/name"))

# Forks
forks = sandbox.fork(count=3, timeout=60)
assert len({one.sandbox_id for one in forks} | {sandbox.sandbox_id}) == 4, forks
for fork in forks:
    assert fork.files.read("/tmp/state") == "after"
    assert fork.get_info().metadata == {"for": "a test"}
identities = {one.files.read("/etc/machine-id") for one in [sandbox, *forks, *begun]}
assert len(identities) == 7, "a copy is not what it is a copy of"
raises(SandboxException, lambda: sandbox.fork(count=21))

# What it uses
(metrics,) = sandbox.get_metrics()
assert 0 < metrics.mem_used <= metrics.mem_total and metrics.cpu_count >= 1, metrics
assert 0 <= metrics.cpu_used_pct <= 100 and 0 < metrics.disk_used <= metrics.disk_total, metrics
long_ago = datetime.datetime(2000, 1, 1)
assert sandbox.get_metrics(start=long_ago, end=long_ago) == []

# The same request again
request = urllib.request.Request(
    os.environ["E2B_API_URL"] + "/v2/sandboxes",
    data=b'{"templateID":"base"}',
    headers={
        "X-API-Key": os.environ["E2B_API_KEY"],
        "Content-Type": "application/json",
        "Idempotency-Key": "once",
    },
)
made = {urllib.request.urlopen(request).read() for _ in range(3)}
assert len(made) == 1, made

for one in Sandbox.list().next_items():
    Sandbox.kill(one.sandbox_id)
raises(SandboxNotFoundException, sandbox.fork)
raises(SandboxNotFoundException, sandbox.create_snapshot)
print("all calls are served")
