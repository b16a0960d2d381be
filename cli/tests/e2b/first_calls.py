"""Calls of an SDK of E2B for Python of the first major version, one after the other."""

import time
import urllib.error
import urllib.request

from e2b import (
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    TimeoutException,
)
from e2b.sandbox.sandbox_api import SandboxQuery


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


error = raises(SandboxException, lambda: Sandbox(api_key="e2b_0000"))
assert "401" in str(error), error
raises(SandboxException, lambda: Sandbox("no-such-template"))
sandbox = Sandbox(metadata={"for": "a test"}, envs={"OF_ALL": "1"}, timeout=300)
run = sandbox.commands.run

# Commands
result = run("echo out; echo err >&2; echo $OF_ALL $OWN", envs={"OWN": "2"})
assert (result.stdout, result.stderr, result.exit_code) == ("out\n1 2\n", "err\n", 0), result
error = raises(CommandExitException, lambda: run("echo before; exit 7"))
assert (error.exit_code, error.stdout) == (7, "before\n"), error
assert run("pwd", cwd="/tmp").stdout == "/tmp\n"
assert run("id -un", user="root").stdout == "root\n"
live = []
run("for i in 1 2 3; do echo $i; done", on_stdout=live.append)
assert "".join(live) == "1\n2\n3\n", live
raises(TimeoutException, lambda: run("sleep 100", timeout=1))
cat = run("head -n 1", background=True)
before = time.monotonic()
# The one whose time was over may take a moment to end.
while [p.pid for p in sandbox.commands.list()] != [cat.pid]:
    assert time.monotonic() - before < 60
sandbox.commands.send_stdin(cat.pid, "typed\n")
assert cat.wait().stdout == "typed\n"
sleeper = run("sleep 1000", background=True)
sleeper.disconnect()
again = sandbox.commands.connect(sleeper.pid)
assert sandbox.commands.kill(sleeper.pid)
assert not sandbox.commands.kill(sleeper.pid)
raises(CommandExitException, again.wait)
raises(NotFoundException, lambda: sandbox.commands.connect(999999))

# A terminal
printed = []
terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
sandbox.pty.resize(terminal.pid, PtySize(rows=25, cols=81))
sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 3\n")
error = raises(CommandExitException, lambda: terminal.wait(on_pty=printed.append))
assert error.exit_code == 3
assert b"25 81" in b"".join(printed), printed

# Files
files = sandbox.files
assert files.write("/tmp/a/b.txt", "text").path == "/tmp/a/b.txt"
assert files.read("/tmp/a/b.txt") == "text"
everything = bytes(range(256)) * 5000
files.write("/tmp/bytes", everything)
assert bytes(files.read("/tmp/bytes", format="bytes")) == everything
assert b"".join(files.read("/tmp/bytes", format="stream")) == everything
written = files.write([{"path": f"/tmp/many/{i}", "data": str(i)} for i in range(3)])
assert [one.name for one in written] == ["0", "1", "2"]
raises(NotFoundException, lambda: files.read("/tmp/nothing"))
raises(InvalidArgumentException, lambda: files.write("/tmp/a", "a directory"))
assert files.exists("/tmp/a/b.txt") and not files.exists("/tmp/nothing")
info = files.get_info("/tmp/a/b.txt")
assert (info.name, info.size, info.permissions) == ("b.txt", 4, "-rw-r--r--"), info
assert files.make_dir("/tmp/d/e") and not files.make_dir("/tmp/d/e")
files.rename("/tmp/a/b.txt", "/tmp/d/e/f.txt")
assert [e.path for e in files.list("/tmp/d", depth=3)] == ["/tmp/d/e", "/tmp/d/e/f.txt"]
files.remove("/tmp/d")
assert not files.exists("/tmp/d")
files.make_dir("/tmp/watched")
watch = files.watch_dir("/tmp/watched", recursive=True)
files.write("/tmp/watched/a", "1")
assert [event.name for event in watch.get_new_events()] == ["a", "a", "a"]
watch.stop()
raises(SandboxException, watch.get_new_events)

# URLs without the sandbox's token
signed = sandbox.download_url("/tmp/bytes", use_signature_expiration=60)
assert urllib.request.urlopen(signed).read() == everything
error = raises(urllib.error.HTTPError, lambda: urllib.request.urlopen(signed.replace("=v1_", "=v1_x")))
assert error.code == 401
form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="up"\r\n\r\nsent\r\n--x--\r\n'
headers = {"Content-Type": "multipart/form-data; boundary=x"}
urllib.request.urlopen(urllib.request.Request(sandbox.upload_url("/tmp/up"), form, headers))
assert files.read("/tmp/up") == "sent"

# A program on a port
run("mkdir -p /tmp/www && echo served > /tmp/www/index.html")
python = run("command -v python3 || true").stdout
if python:
    run("python3 -m http.server 8080 --directory /tmp/www", background=True)
    before = time.monotonic()
    while True:
        try:
            page = urllib.request.urlopen(f"https://{sandbox.get_host(8080)}/").read()
            break
        except urllib.error.HTTPError as error:
            assert error.code == 502 and time.monotonic() - before < 60, error
    assert page == b"served\n", page

# The life of a sandbox
assert sandbox.get_info().metadata == {"for": "a test"}
other = Sandbox()
listed = Sandbox.list(query=SandboxQuery(metadata={"for": "a test"}))
assert [one.sandbox_id for one in listed] == [sandbox.sandbox_id], listed
assert len(Sandbox.list()) == 2
[metrics] = sandbox.get_metrics()
assert 0 < metrics.mem_used <= metrics.mem_total, metrics
other.kill()
assert not other.is_running()
assert not Sandbox.kill(other.sandbox_id)
raises(SandboxException, lambda: Sandbox.connect(other.sandbox_id))
same = Sandbox.connect(sandbox.sandbox_id)
assert same.commands.run("echo same").stdout == "same\n"
assert same.files.read("/tmp/up") == "sent"
same.set_timeout(0)
while sandbox.is_running() and time.monotonic() - before < 120:
    pass
assert not sandbox.is_running(), "it ends at its deadline"
print("all calls are served")
