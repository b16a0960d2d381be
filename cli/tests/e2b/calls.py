"""Calls of the newest SDK of E2B for Python, one after the other."""

import io
import json
import os
import time
import urllib.error
import urllib.request

from e2b import (
    AuthenticationException,
    CommandExitException,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxState,
    TimeoutException,
)
from e2b import SandboxQuery


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


raises(AuthenticationException, lambda: Sandbox.create(api_key="e2b_0000"))
raises(SandboxException, lambda: Sandbox.create("no-such-template"))
raises(SandboxException, lambda: Sandbox.create(network={"allow_out": ["1.1.1.1"]}))

sandbox = Sandbox.create(metadata={"for": "a test"}, envs={"OF_ALL": "1"}, timeout=300)
run = sandbox.commands.run

# Commands
result = run("echo out; echo err >&2; echo $OF_ALL $OWN", envs={"OWN": "2"})
assert (result.stdout, result.stderr, result.exit_code) == ("out\n1 2\n", "err\n", 0), result
error = raises(CommandExitException, lambda: run("echo before; exit 7"))
assert (error.exit_code, error.stdout) == (7, "before\n"), error
error = raises(CommandExitException, lambda: run("kill -9 $$"))
assert error.exit_code != 0
assert run("pwd", cwd="/tmp").stdout == "/tmp\n"
raises(InvalidArgumentException, lambda: run("true", cwd="/nowhere"))
assert run("id -un", user="root").stdout == "root\n"
live = []
run("for i in 1 2 3; do echo $i; done", on_stdout=live.append)
assert "".join(live) == "1\n2\n3\n", live
assert len(run("head -c 1000000 /dev/zero | tr '\\0' x").stdout) == 1_000_000
raises(TimeoutException, lambda: run("sleep 100", timeout=1))

cat = run("cat", background=True, stdin=True)
before = time.monotonic()
# The one whose time was over may take a moment to end.
while [p.pid for p in sandbox.commands.list()] != [cat.pid]:
    assert time.monotonic() - before < 60
sandbox.commands.send_stdin(cat.pid, "typed\n")
sandbox.commands.stream_input(cat.pid, ["one ", "two\n"])
sandbox.commands.close_stdin(cat.pid)
assert cat.wait().stdout == "typed\none two\n"
assert sandbox.commands.list() == []

sleeper = run("sleep 1000", background=True)
assert run(f"kill -0 {sleeper.pid}").exit_code == 0
sleeper.disconnect()
again = sandbox.commands.connect(sleeper.pid)
assert sandbox.commands.kill(sleeper.pid)
assert not sandbox.commands.kill(sleeper.pid)
raises(CommandExitException, again.wait)
raises(CommandExitException, lambda: run(f"kill -0 {sleeper.pid}"))
raises(NotFoundException, lambda: sandbox.commands.connect(999999))

# A terminal
printed = []
terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 3\n")
error = raises(CommandExitException, lambda: terminal.wait(on_pty=printed.append))
assert error.exit_code == 3
assert b"24 80" in b"".join(printed), printed

# Files
files = sandbox.files
assert files.write("/tmp/a/b.txt", "text").path == "/tmp/a/b.txt"
assert files.read("/tmp/a/b.txt") == "text"
everything = bytes(range(256)) * 5000
files.write("/tmp/bytes", everything)
assert bytes(files.read("/tmp/bytes", format="bytes")) == everything
assert b"".join(files.read("/tmp/bytes", format="stream")) == everything
written = files.write_files([{"path": f"/tmp/many/{i}", "data": str(i)} for i in range(3)])
assert [one.name for one in written] == ["0", "1", "2"]
raises(NotFoundException, lambda: files.read("/tmp/nothing"))
raises(InvalidArgumentException, lambda: files.read("/tmp"))
raises(InvalidArgumentException, lambda: files.write("/tmp/a", "a directory"))
assert files.exists("/tmp/a/b.txt") and not files.exists("/tmp/nothing")
info = files.get_info("/tmp/a/b.txt")
assert (info.name, info.type, info.size, info.permissions) == ("b.txt", FileType.FILE, 4, "-rw-r--r--"), info
assert files.make_dir("/tmp/d/e") and not files.make_dir("/tmp/d/e")
assert [e.name for e in files.list("/tmp/d")] == ["e"]
files.rename("/tmp/a/b.txt", "/tmp/d/e/f.txt")
assert [e.path for e in files.list("/tmp/d", depth=3)] == ["/tmp/d/e", "/tmp/d/e/f.txt"]
raises(NotFoundException, lambda: files.list("/tmp/nothing"))
raises(InvalidArgumentException, lambda: files.list("/tmp/d/e/f.txt"))
files.remove("/tmp/d")
assert not files.exists("/tmp/d")
files.write("relative.txt", "at home")

# No permission of the guest's stands in the way, and what is made belongs to the user.
files.write("/owned/by/file", "1", user="nobody")
assert files.make_dir("/owned/made", user="nobody")
owners = run("stat -c %U /owned /owned/by /owned/by/file /owned/made").stdout.split()
assert owners == ["nobody"] * 4, owners
run("echo secret > /owned/of-root && chmod 600 /owned/of-root")
assert files.read("/owned/of-root", user="nobody") == "secret\n"
files.write("/owned/of-root", "given", user="nobody")
assert run("stat -c '%U %a' /owned/of-root").stdout == "nobody 600\n"
files.rename("/owned/of-root", "/owned/new/name", user="nobody")
assert run("stat -c %U /owned/new").stdout == "nobody\n"
files.remove("/owned", user="nobody")
assert not files.exists("/owned")
home = run("echo -n ~").stdout
assert files.read(f"{home}/relative.txt") == "at home"

# What is compressed, streamed, or described on its way
text = "compressible " * 100_000
files.write("/tmp/gzip", text, gzip=True)
assert files.read("/tmp/gzip", gzip=True) == text
files.write("/tmp/stream", io.BytesIO(everything), gzip=True)
assert bytes(files.read("/tmp/stream", format="bytes")) == everything
files.write("/tmp/iterated", (b"%d " % i for i in range(1000)))
assert files.read("/tmp/iterated").split() == [str(i) for i in range(1000)]
request = urllib.request.Request(
    sandbox.upload_url("/tmp/broken"), b"no gzip", {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
)
error = raises(urllib.error.HTTPError, lambda: urllib.request.urlopen(request))
assert error.code == 400, error
keeps_attributes = files.write("/tmp/described", "1", metadata={"Author": "me", "of": "a test"}).metadata is not None
if keeps_attributes:
    described = {"author": "me", "of": "a test"}
    assert files.get_info("/tmp/described").metadata == described
    assert [e.metadata for e in files.list("/tmp") if e.name == "described"] == [described]
    assert files.write("/tmp/described", "2").metadata is None
assert files.get_info("/tmp/described").metadata is None
run("echo 'echo ran' > /tmp/program; chmod 755 /tmp/program; ln -s program /tmp/link")
files.write("/tmp/program", "echo ran again")
assert run("/bin/sh /tmp/program; test -x /tmp/program").stdout == "ran again\n", "it keeps its mode"
link = files.get_info("/tmp/link")
assert (link.symlink_target, link.type, link.mode) == ("/tmp/program", FileType.FILE, 0o755), link


# What happens in a directory
def events(watch):
    return [(event.type.name, event.name) for event in watch.get_new_events()]


files.make_dir("/tmp/watched/deep")
watch = files.watch_dir("/tmp/watched")
deep = files.watch_dir("/tmp/watched", recursive=True, include_entry=True)
assert events(watch) == []
files.write("/tmp/watched/a", "1")
assert events(watch) == [("CREATE", "a"), ("CHMOD", "a"), ("WRITE", "a")]
assert events(watch) == []
files.rename("/tmp/watched/a", "/tmp/watched/b")
files.make_dir("/tmp/watched/new")
files.write("/tmp/watched/new/c", "1234")
files.remove("/tmp/watched/b")
told = [event for event in events(watch) if event[0] != "CHMOD"]
assert told == [("RENAME", "a"), ("CREATE", "b"), ("CREATE", "new"), ("REMOVE", "b")], told
got = deep.get_new_events()
assert ("WRITE", "new/c") in [(event.type.name, event.name) for event in got], got
entries = [event.entry for event in got if event.name == "new/c" and event.type.name == "WRITE"]
assert (entries[0].path, entries[0].size) == ("/tmp/watched/new/c", 4), entries
assert all(event.entry is None for event in got if event.type.name in ("REMOVE", "RENAME"))
watch.stop()
raises(SandboxException, watch.get_new_events)
raises(NotFoundException, lambda: files.watch_dir("/tmp/nothing"))
raises(InvalidArgumentException, lambda: files.watch_dir("/tmp/gzip"))
files.watch_dir("/tmp/watched", allow_network_mounts=True).stop()

# URLs without the sandbox's token
signed = sandbox.download_url("/tmp/bytes", use_signature_expiration=60)
assert urllib.request.urlopen(signed).read() == everything
error = raises(urllib.error.HTTPError, lambda: urllib.request.urlopen(signed.replace("=v1_", "=v1_x")))
assert error.code == 401

# What commands printed
def asked(path):
    request = urllib.request.Request(f"{os.environ['E2B_API_URL']}{path}", headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    return json.load(urllib.request.urlopen(request))


raises(CommandExitException, lambda: run("echo to be found >&2; exit 3"))
path = f"sandboxes/{sandbox.sandbox_id}/logs"
[ended, said] = asked(f"/v2/{path}?direction=backward&limit=2&level=warn")["logs"]
assert (said["message"], said["fields"]["event"], ended["message"]) == ("to be found\n", "stderr", "exit code 3"), (said, ended)
[found_again] = asked(f"/v2/{path}?search=be+found%0A")["logs"]
assert found_again == said
line = json.loads(asked(f"/{path}")["logs"][-1]["line"])
assert (line["level"], line["message"]) == ("warn", "exit code 3"), line
error = raises(urllib.error.HTTPError, lambda: asked(f"/v2/{path}?limit=1001"))
assert error.code == 400

# The life of a sandbox
info = sandbox.get_info()
assert (info.state, info.metadata) == (SandboxState.RUNNING, {"for": "a test"}), info
other = Sandbox.create(metadata={"for": "another"})
listed = Sandbox.list(query=SandboxQuery(metadata={"for": "a test"})).next_items()
assert [one.sandbox_id for one in listed] == [sandbox.sandbox_id]
first_page = Sandbox.list(limit=1)
assert [one.sandbox_id for one in first_page.next_items()] == [other.sandbox_id]
assert [one.sandbox_id for one in first_page.next_items()] == [sandbox.sandbox_id]
assert not first_page.has_next
def found(order=None, **query):
    return [one.sandbox_id for one in Sandbox.list(query=SandboxQuery(**query), order=order).next_items()]
assert found(order="asc") == [sandbox.sandbox_id, other.sandbox_id]
assert found(template="no-such-template") == [] and len(found(template="base")) == 2
assert found(started_after=other.get_info().started_at) == [other.sandbox_id]
interrupted = other.commands.run("sleep 1000", background=True)
assert other.kill() and not other.kill()
error = raises(TimeoutException, interrupted.wait)
assert "killed or reached its end of life" in str(error), error
raises(SandboxNotFoundException, lambda: Sandbox.connect(other.sandbox_id))

run("echo kept > /tmp/kept")
counter = run("i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done", background=True)
before = time.monotonic()
while not files.exists("/tmp/count") and time.monotonic() - before < 60:
    pass
identity = run("cat /etc/machine-id /proc/sys/kernel/random/boot_id").stdout
sandbox.pause()
assert sandbox.get_info().state == SandboxState.PAUSED
assert found(state=[SandboxState.PAUSED]) == [sandbox.sandbox_id]
assert asked("/sandboxes") == [], "the first version of the API lists what runs"
assert not sandbox.is_running()
resumed = Sandbox.connect(sandbox.sandbox_id)
assert resumed.is_running()
assert resumed.files.read("/tmp/kept") == "kept\n"
assert resumed.commands.run("cat /etc/machine-id /proc/sys/kernel/random/boot_id").stdout == identity
count = int(resumed.files.read("/tmp/count") or 0)
while int(resumed.files.read("/tmp/count") or 0) <= count and time.monotonic() - before < 120:
    pass
assert int(resumed.files.read("/tmp/count")) > count, "its commands go on"
assert counter.pid in [p.pid for p in resumed.commands.list()]
resumed.set_timeout(0)
while resumed.is_running() and time.monotonic() - before < 120:
    pass
assert not resumed.is_running(), "it ends at its deadline"

automatic = Sandbox.create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
assert automatic.get_info().lifecycle == {"on_timeout": "pause", "auto_resume": True}
automatic.files.write("/tmp/here", "still")
automatic.set_timeout(0)
while automatic.get_info().state != SandboxState.PAUSED and time.monotonic() - before < 240:
    pass
assert automatic.files.read("/tmp/here") == "still", "a request resumes it"
assert automatic.kill()
print("all calls are served")
