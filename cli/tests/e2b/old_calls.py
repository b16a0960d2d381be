"""Calls of an SDK of E2B for Python from before the second version of the API."""

from e2b import CommandExitException, Sandbox

sandbox = Sandbox.create(metadata={"for": "a test"}, timeout=300)
result = sandbox.commands.run("echo out; echo err >&2")
assert (result.stdout, result.stderr) == ("out\n", "err\n"), result
try:
    sandbox.commands.run("exit 7")
    raise AssertionError("it failed")
except CommandExitException as error:
    assert error.exit_code == 7
sandbox.files.write("/tmp/a.txt", "text")
assert sandbox.files.read("/tmp/a.txt") == "text"
assert "a.txt" in [entry.name for entry in sandbox.files.list("/tmp")]
cat = sandbox.commands.run("head -n 1", background=True, stdin=True)
sandbox.commands.send_stdin(cat.pid, "typed\n")
assert cat.wait().stdout == "typed\n"
assert sandbox.is_running()
sandbox.set_timeout(100)
assert Sandbox.connect(sandbox.sandbox_id).commands.run("echo same").stdout == "same\n"
assert sandbox.kill()
assert not sandbox.is_running()
print("all calls are served")
