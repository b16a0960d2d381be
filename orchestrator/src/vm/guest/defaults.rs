//! What a template says of the commands in its guests.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// The signal that asks a program to end where its image names none.
const SIGTERM: i32 = 15;

/// The defaults of commands that do not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// Variables.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The user.
    pub(crate) user: Option<OsString>,
    /// The working directory of all commands.
    pub(crate) cwd: Option<PathBuf>,
    /// The working directory of commands of the default user, if not its home.
    pub(crate) cwd_of_user: Option<PathBuf>,
    /// The signal that asks a command to end.
    pub(crate) stop_signal: Option<i32>,
}

impl Defaults {
    /// Those of an image: its variables as `NAME=VALUE`, its user, its working directory and the signal
    /// that ends its programs. What is empty is as Docker has it: root, in `/`.
    pub(crate) fn of_image(
        env: &[String],
        user: &str,
        working_dir: &str,
        stop_signal: &str,
    ) -> Self {
        let variables = env.iter().filter_map(|text| text.split_once('='));
        let is_root = user.is_empty();
        Self {
            env: variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            user: Some(if is_root { "0" } else { user }.into()),
            cwd: (!working_dir.is_empty()).then(|| absolute(working_dir)),
            cwd_of_user: is_root.then(|| PathBuf::from("/")),
            stop_signal: Some(signal(stop_signal).unwrap_or(SIGTERM)),
        }
    }
}

/// A directory from the root on.
fn absolute(directory: &str) -> PathBuf {
    PathBuf::from("/").join(OsStr::from_bytes(directory.as_bytes()))
}

/// The number of a signal of Linux on x86-64, from its number or its name, with or without `SIG`. `None`
/// for what is no signal that ends anything.
fn signal(text: &str) -> Option<i32> {
    /// In the order of their numbers, from 1.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=31).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let at = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_does_not_say_is_as_docker_has_it() {
        let nothing = Defaults::of_image(&[], "", "", "");
        assert_eq!(nothing.user.as_deref(), Some(OsStr::new("0")));
        assert_eq!(
            (&nothing.cwd, &nothing.cwd_of_user),
            (&None, &Some("/".into()))
        );
        let env = ["A=b=c".to_owned(), "E=".to_owned()];
        let all = Defaults::of_image(&env, "app:2", "srv", "SIGUSR1");
        let expected = [("A", "b=c"), ("E", "")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(all.env, expected);
        assert_eq!(all.user.as_deref(), Some(OsStr::new("app:2")));
        assert_eq!((all.cwd, all.cwd_of_user), (Some("/srv".into()), None));
        assert_eq!((all.stop_signal, nothing.stop_signal), (Some(10), Some(15)));
    }

    #[test]
    fn a_signal_has_a_number_or_a_name() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("37", 0),
            ("9", 9),
            ("SIGSYS", 31),
        ] {
            assert_eq!(signal(text).unwrap_or(0), number, "{text}");
        }
        for text in ["", "SIG", "0", "-1", "nonsense"] {
            assert_eq!(signal(text), None);
        }
    }
}
