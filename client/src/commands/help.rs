//! The texts after the options in help texts.

pub(super) const CREATE_EXAMPLES: &str = "\
Needs a daemon: `ironclaw serve` starts one.

Examples:
  ironclaw create
  ironclaw create base --name build --lifetime 1h --label project=site
  ironclaw create --name build && ironclaw exec build -- uname -a && ironclaw rm build";

pub(super) const LS_EXAMPLES: &str = "\
Examples:
  ironclaw ls
  ironclaw ls --json | jq -r '.[] | select(.state == \"paused\") | .id'";

pub(super) const EXEC_EXAMPLES: &str = "\
Standard streams, signals and exit codes are those of `ironclaw run`. A command that is interrupted, or whose
connection is lost, is killed.

Examples:
  ironclaw exec build -- uname -a
  echo 'b a' | ironclaw exec -i build -- tr ' ' '\\n'
  ironclaw exec -it build -- sh";

pub(super) const PAUSE_EXAMPLES: &str = "\
Examples:
  ironclaw pause build";

pub(super) const RESUME_EXAMPLES: &str = "\
Examples:
  ironclaw resume build --lifetime 1h";

pub(super) const FORK_EXAMPLES: &str = "\
Examples:
  ironclaw fork build
  ironclaw fork build -n 5 --lifetime 1h";

pub(super) const RM_EXAMPLES: &str = "\
Examples:
  ironclaw rm build
  ironclaw rm --all";

pub(super) const CP_EXAMPLES: &str = "\
A file keeps its mode and time. What is there is replaced, a directory by nothing but a directory. What comes out
of a sandbox was written there: its links are not followed while it is copied.

Examples:
  ironclaw cp data.csv build:/tmp
  ironclaw cp -u root site build:/srv/www
  ironclaw cp build:/tmp/out ./out
  ironclaw cp build:/home/user/. backup
  ironclaw cp build:/tmp/out - | tar -t";
