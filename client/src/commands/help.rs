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
  ironclaw ls --host https://node.example --ca ca.pem
  ironclaw ls --json | jq -r '.[] | select(.state == \"paused\") | .id'";

pub(super) const EXEC_EXAMPLES: &str = "\
Standard streams, signals and exit codes are those of `ironclaw run`. A command that is interrupted, or whose
connection is lost, is killed.

Examples:
  ironclaw exec build -- uname -a
  echo 'b a' | ironclaw exec -i build -- tr ' ' '\\n'
  ironclaw exec -it build -- sh";

pub(super) const LOGS_EXAMPLES: &str = "\
The daemon keeps the last 256 KiB of a sandbox, also of commands that have ended and while it is paused, and as long
as it runs itself. Standard output is printed there, and standard error there. With --json there is an object a line
for each piece, and for the start and end of each command.

Examples:
  ironclaw logs build
  ironclaw logs build --commands
  ironclaw logs -f build 215
  ironclaw logs build --json | jq -r 'select(.event == \"end\") | .exit_code'";

pub(super) const PORT_EXAMPLES: &str = "\
Prints where it listens. A connection is closed if no program of the sandbox listens on its port; 64 may be open.

Examples:
  ironclaw port build 8000
  ironclaw port build 8080:80 0:5432
  ironclaw port build 0.0.0.0:8080:80";

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
