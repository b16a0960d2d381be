"""Builds templates by the SDK, and uses one."""

import tempfile
from pathlib import Path
from uuid import uuid4

from e2b import BuildException, Sandbox, SandboxException, Template, wait_for_timeout


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


context = Path(tempfile.mkdtemp())
(context / "folder").mkdir()
(context / "folder" / "one.txt").write_text("one\n")
(context / "folder" / "two.txt").write_text("two\n")
(context / "folder" / "link").symlink_to("one.txt")
(context / "script.sh").write_text("#!/bin/sh\necho from a script\n")


def template():
    return Template(file_context_path=str(context))


lines = []
built = (
    template()
    .from_template("minimal")
    .copy("folder/*", "/srv/files")
    .copy("script.sh", "/usr/local/bin/script", mode=0o755)
    .set_envs({"OF_TEMPLATE": "a b"})
    .set_workdir("/srv")
    .run_cmd("echo $OF_TEMPLATE > made; cat files/one.txt; id -un")
    .run_cmd("echo user:x:1000:1000::/home/user:/bin/sh >> /etc/passwd && mkdir -p /home/user", user="root")
    .set_user("user")
    .run_cmd("id -un")
)
info = Template.build(
    built, "of-the-sdk", skip_cache=True, on_build_logs=lambda line: lines.append(line.message)
)
assert info.template_id == "of-the-sdk", info
assert "one" in lines and "user" in lines and "root" in lines, lines
assert Template.exists("of-the-sdk") and not Template.exists("no-such-template")
sandbox = Sandbox.create("of-the-sdk")
assert sandbox.files.read("/srv/made") == "a b\n"
assert sandbox.files.read("/srv/files/two.txt") == "two\n"
assert sandbox.files.get_info("/srv/files/link").symlink_target
assert sandbox.commands.run("script; id -un; echo $OF_TEMPLATE").stdout == "from a script\nuser\na b\n"
assert sandbox.kill()

# On top of it, in the background, what was done before is not done again
again = Template.build_in_background(template().from_template("of-the-sdk").run_cmd("cat made"), "on-top")
while Template.get_build_status(again).status.value in ("waiting", "building"):
    pass
status = Template.get_build_status(again)
assert status.status.value == "ready" and "a b" in status.logs, status

# What fails says which step it was, and leaves no template
failing = template().from_template("minimal").run_cmd("true").run_cmd("echo the reason >&2; exit 3")
error = raises(BuildException, lambda: Template.build(failing, "fails"))
assert "step 2 of 2" in str(error) and "3" in str(error), error
assert not Template.exists("fails")
missing = template().from_template("minimal").run_cmd("whoami", user="nobody-here")
assert "nobody-here" in str(raises(BuildException, lambda: Template.build(missing, "fails")))

# What can't be served is refused by name
for refused, name in (
    (template().from_template("minimal").set_start_cmd("true", wait_for_timeout(1)), "startCmd"),
    (template().from_image("x/y", username="u", password="p"), "fromImageRegistry"),
    (template().from_template("no-such-template"), "no-such-template"),
    (template().from_image("rootfs:/etc"), ""),
):
    error = raises(BuildException, lambda: Template.build(refused, "refused"))
    assert name in str(error), error
raises(BuildException, lambda: Template.build(built, "x:y:z"))
raises(BuildException, lambda: Template.build(built, "minimal"))
raises(SandboxException, lambda: Sandbox.create("refused"))

# Tags lead to what was built, and can be moved and taken away. Others may have the same templates.
tagged_as = f"tagged-{uuid4().hex[:8]}"
tagged = Template.build(template().from_template("of-the-sdk").run_cmd("true"), f"{tagged_as}:v1", tags=["stable"])
assert tagged.template_id == tagged_as, tagged
assert Template.exists(f"{tagged_as}:v1") and not Template.exists(tagged_as), "it has no default"
given = Template.assign_tags(f"{tagged_as}:v1", ["latest", "default"])
assert given.tags == ["latest", "default"], given
found = Template.get_tags(tagged_as)
assert sorted(one.tag for one in found) == ["default", "latest", "stable", "v1"], found
assert {one.build_id for one in found} == {given.build_id}
for name in (tagged_as, f"{tagged_as}:latest"):
    sandbox = Sandbox.create(name)
    assert sandbox.files.read("/srv/made") == "a b\n"
    assert sandbox.kill()
Template.remove_tags(tagged_as, ["latest", "stable"])
assert sorted(one.tag for one in Template.get_tags(tagged_as)) == ["default", "v1"]
raises(SandboxException, lambda: Sandbox.create(f"{tagged_as}:latest"))
for bad in (":v2", f"{tagged_as}:", "a:b:c"):
    raises(Exception, lambda: Template.assign_tags(f"{tagged_as}:v1", bad))
raises(Exception, lambda: Template.assign_tags("no-such-template:v1", "v2"))
raises(Exception, lambda: Template.get_tags("no-such-template"))
raises(Exception, lambda: Template.remove_tags(tagged_as, "never-there"))
raises(Exception, lambda: Template.remove_tags(tagged_as, "default"))
print("all calls are served")
