//! The texts after the options in help texts.

use std::fmt::Write as _;

use ironclaw_console::for_users;
use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_orchestrator::vm::guest::MAX_COLLECTED;
use ironclaw_settings::CONFIG;

use crate::exit::Code;

pub(crate) const MAIN_EXAMPLES: &str = "\
Examples:
  ironclaw run -- uname -a          run a command in a fresh Linux microVM
  ironclaw doctor                   check what is installed
  ironclaw pool warmup              build all snapshots before they are needed
  ironclaw run --help               exit codes, environment variables";

const _: () = assert!(
    MAX_COLLECTED == 64 << 20,
    "the help of run says another limit"
);

pub(crate) const RUN_EXAMPLES: &str = "\
Where a daemon runs (`ironclaw serve`), it makes the VM, by its own settings and with its warm clones, and ends
it with the command or the connection. --memory, --disk, --backend and the settings of a machine that
variables set are those of the daemon, too, or this process makes the VM; so it does with --image,
--changes, other settings by --set, and words that are not UTF-8. With a daemon that --host or
IRONCLAW_HOST names, what only this process can do is refused; --host none asks no daemon.

With --json the output is printed when the command has ended, 64 MiB of it at most: as text, and in
base64 besides where it is not UTF-8. Of a failure there is {\"error\", \"exit_code\"}, with the output
until then.

With --stdin no more is read than the command asks for, to within 4 KiB at first: one that reads
nothing leaves all of it to others, as to the loop of a shell that reads the same input.

Signals are for the command (HUP, INT, QUIT, USR1, USR2, ALRM, TERM, CONT, TSTP, WINCH), whose exit
code counts. After INT, QUIT or TERM it has 10 s to end; then it is killed, as at a second INT.

Where standard output and standard error are one terminal, file or pipe, as after 2>&1, what the
command writes to both stays in order; otherwise each comes in an order of its own.

The command ends with its main process. With --timeout, and when ironclaw ends, all that it
started is killed. Its output is waited for while something of it comes, for half a second of
silence and two seconds at most.

Examples:
  ironclaw run -- uname -a
  ironclaw run -v --timeout 10s -- sh -c 'echo $((6 * 7))'
  echo 'b a' | ironclaw run --stdin -- tr ' ' '\\n'
  timeout 1m ironclaw run -- sh -c 'trap \"echo bye; exit 5\" TERM; sleep 100 & wait'
  ironclaw run --env LANG=C --cwd /tmp --json -- ls -la
  ironclaw run --user nobody -- id
  ironclaw run -it -- sh
  ironclaw run -p 8080:80 -- httpd -f -h /etc
  ironclaw run --host none -v -- uname -a";

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Exits with 1 if `ironclaw run` would not work.

Examples:
  ironclaw doctor
  ironclaw doctor --json | jq '.checks[] | select(.status != \"ok\")'";

pub(crate) const BENCH_EXAMPLES: &str = "\
Takes a snapshot of its own and deletes it at the end; snapshots that the pool lacks are built, and
stay.

Examples:
  ironclaw bench
  ironclaw bench --rounds 200 --plot plots
  ironclaw bench --json | jq '.tiers[] | {origin, p50: .spawn_ms.p50}'
  ironclaw bench --quick --compare docs/bench-ratios.toml
  ironclaw bench --churn 10,20 --rounds 5
  ironclaw bench --clones 10,100,1000 --rounds 50 --plot plots
  ironclaw bench --template base --at-once 20 -- python3 -c 'print(1)'
  ironclaw bench --api --template base --sdk ~/venv/bin/python --rounds 50
  ironclaw bench --api --at-once 100 --warm 20 --rounds 50";

pub(crate) const SOAK_EXAMPLES: &str = "\
Works in a directory of its own beside the snapshots' directory, with the default template and the
settings of the environment; no snapshot but its own is touched. As root it mounts a file system
there, which --faults fills up. Ctrl-C ends it early, with a report once it has begun; a second one
at once.

With --api a daemon is soaked, by as many clients, which make, use, pause, resume, fork and delete
sandboxes. A daemon that is restarted has to keep all of them, and one that is killed the paused
ones; a sandbox that is missed, or has another one's content, is a failure.

Exits with 1 if anything leaked (processes, descriptors, sockets, files, memory, room in the pool,
sandboxes, checkpoints), or failed without an injected fault that explains it.

Examples:
  ironclaw soak --for 10m --concurrency 20 --faults
  ironclaw soak --api --for 10m --faults
  ironclaw soak --spawns 2000 --json | jq '.leaks[] | select(.leaked)'
  IRONCLAW_POOL_SIZE=2 ironclaw soak --for 8h --faults --seed 7";

pub(crate) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  ironclaw completions bash > ~/.local/share/bash-completion/completions/ironclaw
  ironclaw completions zsh > \"${fpath[1]}/_ironclaw\"";

pub(crate) const CONFIG_EXAMPLES: &str = "\
A file sets what no variable does, and --set what nothing else does:

  # /etc/ironclaw/config.toml
  pool_size = 3
  taps = [\"tap0\", \"tap1\"]

Examples:
  ironclaw config show
  IRONCLAW_POOL_SIZE=2 ironclaw --set jail=off config show
  ironclaw config show --json | jq '.settings.pool_size'";

/// Returns the text below `ironclaw --help`.
pub(crate) fn main() -> String {
    format!("{MAIN_EXAMPLES}\n\n{}\n{}", environment(), exit_codes())
}

/// Returns the text below `ironclaw run --help`.
pub(crate) fn run() -> String {
    format!("{RUN_EXAMPLES}\n\n{}\n{}", exit_codes(), environment())
}

fn environment() -> String {
    let mut text = String::from("Environment variables:\n");
    for setting in SETTINGS {
        let (name, meaning) = (setting.variable(), for_users(&setting.expected()));
        let default = for_users(&setting.default.to_string());
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {name}\n      {meaning}\n      default: {default}");
    }
    let _ = writeln!(
        text,
        "  {CONFIG}\n      path of a TOML file of these settings, with keys such as pool_size\n      \
         default: $XDG_CONFIG_HOME/ironclaw/config.toml, or else /etc/ironclaw/config.toml"
    );
    let _ = writeln!(
        text,
        "  RUST_LOG\n      what is logged on standard error\n      default: warn"
    );
    text
}

fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Code::ALL {
        let _ = writeln!(text, "  {:>5}  {}", *exit as u8, exit.meaning());
    }
    let _ = writeln!(
        text,
        "  128+N  the command, or ironclaw itself, was ended by signal N"
    );
    let _ = writeln!(text, "    255  the same, of a signal that does not exist");
    let _ = writeln!(text, "  other  the command's own");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_and_every_exit_code_is_in_the_help_of_run() {
        let text = run();
        for setting in SETTINGS {
            let (default, meaning) = (setting.default.to_string(), setting.expected());
            for part in [setting.variable(), for_users(&default), for_users(&meaning)] {
                assert!(text.contains(&part), "{part:?} is missing");
            }
        }
        for exit in Code::ALL {
            assert!(text.contains(&format!("{:>5}  {}", *exit as u8, exit.meaning())));
        }
    }
}
