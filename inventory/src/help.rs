//! The texts after the options in help texts.

pub(crate) const IMPORT_EXAMPLES: &str = "\
Examples:
  ironclaw template import --kernel vmlinux --initramfs initrd.img --boot-args 'console=ttyS0'
  ironclaw template import --kernel unikernel.elf";

pub(crate) const TEMPLATE_EXAMPLES: &str = "\
Needs apt-get and dpkg-deb; downloads some 30 MB. `ironclaw run` builds the template `minimal` by
itself when there is no default, and `ironclaw run --image SOURCE` whatever it lacks. `template build`
alone builds `minimal` and makes it the default again. `template build base` needs no source either: it
has mmdebstrap install a Debian with bash, Python, pip, Node, git, curl and sudo, for the user `user`,
which is what programs written for E2B expect.

Each --run and each RUN of a Dockerfile has a VM of its own, without a network, with 1 GiB of memory
(or IRONCLAW_MEMORY_MIB, if that is more) and 16 GiB of disk. Its result is kept: a later build begins
with the first step that is another, or that runs on other files. Steps and their output are shown on
standard error. A step that fails ends the build, and the template is as it was before.

Examples:
  ironclaw template build
  ironclaw template build base && ironclaw run --template base -- python3 -c 'print(1)'
  ironclaw template build base --include vim --copy lib:/srv/lib
  ironclaw template build debian --from docker://debian:12 && ironclaw run --template debian -- sh
  ironclaw template build app --from docker://127.0.0.1:5000/app:1
  ironclaw template build app --from docker://registry.example/app --ca-file ca.crt
  ironclaw template build python --from debian:bookworm --include python3,git
  docker save app > app.tar && ironclaw template build app --from docker-archive:app.tar
  ironclaw template build app --file Dockerfile --warm 'cat /etc/os-release'
  ironclaw template build tool --from minimal --copy t.sh:/usr/bin/ --run 'chmod +x /usr/bin/t.sh'
  ironclaw template list --json";

pub(crate) const TEMPLATE_SHOW_EXAMPLES: &str = "\
Examples:
  ironclaw template show
  ironclaw template show minimal --json | jq .manifest.kernel";

pub(crate) const TEMPLATE_DEFAULT_EXAMPLES: &str = "\
`ironclaw run`, `ironclaw pool` and programs that use the library take the default template where
neither IRONCLAW_TEMPLATE nor an option names another.

Examples:
  ironclaw template default
  ironclaw template default minimal";

pub(crate) const TEMPLATE_NAME_EXAMPLES: &str = "\
Examples:
  ironclaw template name minimal busybox";

pub(crate) const TEMPLATE_LIST_EXAMPLES: &str = "\
Examples:
  ironclaw template list
  ironclaw template list --json | jq -r '.[] | select(.default) | .hash'";

pub(crate) const TEMPLATE_VERIFY_EXAMPLES: &str = "\
Examples:
  ironclaw template verify --all
  ironclaw template verify $(ironclaw template list --json | jq -r '.[] | select(.default) | .hash')";

pub(crate) const TEMPLATE_DELETE_EXAMPLES: &str = "\
Examples:
  ironclaw template list --json | jq -r '.[] | select(.default | not) | .hash' |
    xargs -r ironclaw template delete
  ironclaw template rm minimal
  ironclaw template delete --all";

pub(crate) const SNAPSHOT_CREATE_EXAMPLES: &str = "\
`ironclaw run` and `ironclaw pool warmup` make the snapshots that they lack by themselves.

Examples:
  ironclaw snapshot create
  IRONCLAW_MEMORY_MIB=256 ironclaw snapshot create --json | jq .boot_ms";

pub(crate) const SNAPSHOT_LIST_EXAMPLES: &str = "\
Examples:
  ironclaw snapshot list
  ironclaw snapshot list --json | jq '.[] | select(.in_use) | {id, owners}'";

pub(crate) const SNAPSHOT_VERIFY_EXAMPLES: &str = "\
Examples:
  ironclaw snapshot verify --all
  ironclaw snapshot verify 0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";

pub(crate) const SNAPSHOT_DELETE_EXAMPLES: &str = "\
Examples:
  ironclaw snapshot delete 0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f
  ironclaw snapshot delete --all";

pub(crate) const POOL_EXAMPLES: &str = "\
Examples:
  ironclaw pool warmup
  IRONCLAW_POOL_SIZE=2 ironclaw pool warmup
  ironclaw pool refresh";

pub(crate) const POOL_STATS_EXAMPLES: &str = "\
Examples:
  ironclaw pool stats
  ironclaw pool stats --json | jq '.snapshots[] | select(.fits | not) | {id, error}'
  ironclaw pool stats --format prometheus > ironclaw.new && mv ironclaw.new ironclaw.prom";
