"""Reaches ports of a sandbox, by host name and by headers, by HTTP and by what it is upgraded to."""

import http.client
import json
import os
import socket
import time
from urllib.parse import urlsplit

from e2b import Sandbox

DAEMON = urlsplit(os.environ["E2B_API_URL"])
UP = 60


def get(host, path="/", headers={}, method="GET", body=None):
    connection = http.client.HTTPConnection(DAEMON.hostname, DAEMON.port, timeout=UP)
    connection.request(method, path, body=body, headers={"Host": host, **headers})
    answer = connection.getresponse()
    return answer, answer.read()


def until(wanted, host, **options):
    before = time.monotonic()
    while True:
        answer, body = get(host, **options)
        if answer.status == wanted or time.monotonic() - before > UP:
            assert answer.status == wanted, (answer.status, body)
            return body


def serve(sandbox, port):
    sandbox.files.write("/tmp/web/file", "hello")
    sandbox.files.write("/tmp/web/many", "x" * 3_000_000)
    sandbox.commands.run(f"httpd -p 127.0.0.1:{port} -h /tmp/web")


sandbox = Sandbox.create()
serve(sandbox, 8080)
name = sandbox.get_host(8080)
assert name.startswith(f"8080-{sandbox.sandbox_id}."), name
assert until(200, name, path="/file") == b"hello"
assert until(200, name, path="/many") == b"x" * 3_000_000
assert until(200, name, path="/many", method="HEAD") == b""
by_header = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8080"}
assert until(200, DAEMON.netloc, path="/file", headers=by_header) == b"hello"
until(404, name, path="/nothing")
# Whatever the path is, it is the program's: the API's own paths, too.
until(404, name, path="/v2/sandboxes")

body = json.loads(until(502, sandbox.get_host(8081)))
assert (body["sandboxId"], body["port"], body["code"]) == (sandbox.sandbox_id, 8081, 502), body
assert "port is not open" in body["message"], body
gone = "i" + "a" * 20
assert "was not found" in json.loads(until(502, f"8080-{gone}.e2b.app"))["message"]

# Another protocol
sandbox.files.write(
    "/tmp/echo.sh",
    "while IFS= read -r line; do [ \"$line\" = \"$(printf '\\r')\" ] && break; echo \"$line\" >> /tmp/head; done\n"
    "printf 'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'\n"
    "exec cat\n",
)
sandbox.commands.run("mkfifo /tmp/back && nc -l -p 9000 < /tmp/back | sh /tmp/echo.sh > /tmp/back", background=True)
while not sandbox.commands.run("grep -c :2328 /proc/net/tcp /proc/net/tcp6 || true").stdout.count(":1"):
    pass
with socket.create_connection((DAEMON.hostname, DAEMON.port), timeout=UP) as stream:
    head = f"GET /socket HTTP/1.1\r\nHost: {sandbox.get_host(9000)}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"
    stream.sendall(f"{head}E2b-Traffic-Access-Token: not-yours\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += stream.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    for sent in (b"one", b"two" * 10_000):
        stream.sendall(sent)
        back = b""
        while len(back) < len(sent):
            back += stream.recv(65536)
        assert back == sent
told = sandbox.files.read("/tmp/head").lower()
assert told.startswith("get /socket http/1.1"), told
assert "not-yours" not in told, "a token is for the daemon alone"

# A sandbox that asks who comes, and tells its programs another name
private = Sandbox.create(
    network={"allow_public_traffic": False, "mask_request_host": "inside.test:${PORT}"}
)
assert private.traffic_access_token
serve(private, 8080)
name = private.get_host(8080)
assert json.loads(until(403, name, path="/file"))["code"] == 403
until(403, name, path="/file", headers={"E2b-Traffic-Access-Token": sandbox.sandbox_id})
token = {"E2b-Traffic-Access-Token": private.traffic_access_token}
assert until(200, name, path="/file", headers=token) == b"hello"
private.commands.run("sleep 1000 | nc -l -p 9001 > /tmp/head", background=True)
while not private.commands.run("grep -c :2329 /proc/net/tcp /proc/net/tcp6 || true").stdout.count(":1"):
    pass
with socket.create_connection((DAEMON.hostname, DAEMON.port), timeout=UP) as stream:
    stream.sendall(
        f"GET / HTTP/1.1\r\nHost: {private.get_host(9001)}\r\n"
        f"E2b-Traffic-Access-Token: {private.traffic_access_token}\r\n\r\n".encode()
    )
    before = time.monotonic()
    while "Host: inside.test:9001" not in private.files.read("/tmp/head"):
        assert time.monotonic() - before < UP
private.update_network({"deny_out": ["8.8.8.8"]})

# A request wakes up who wants that
sleepy = Sandbox.create(lifecycle={"on_timeout": "pause", "auto_resume": True})
serve(sleepy, 8080)
sleepy.pause()
assert until(200, sleepy.get_host(8080), path="/file") == b"hello"
for one in (sandbox, private, sleepy):
    assert one.kill()
until(502, sandbox.get_host(8080))
print("all ports are reached")
