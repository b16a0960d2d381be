//! Options that are steps of a template's recipe, in their order.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use ironclaw_console::value::{time_limit, variable};

/// A step as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOption {
    /// A script for the image's shell.
    Run(String),
    /// Files of the host, and their place.
    Copy(PathBuf, String),
    /// A variable.
    Env(String, String),
    /// The user of later steps and of commands.
    User(String),
    /// The directory of later steps and of commands.
    Workdir(String),
    /// A script that makes guests warm.
    Warm(String),
}

/// The steps, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepOptions(pub Vec<StepOption>);

/// The options with the kinds of their values, their help, and what makes steps of them.
const OPTIONS: [(&str, &str, &str, Parse); 6] = [
    (
        "run",
        "CMD",
        "Run a command in a VM of the image so far, by its shell, and keep what that changes",
        |text| Ok(StepOption::Run(text)),
    ),
    (
        "copy",
        "SRC:DST",
        "Copy a file, or what is in a directory, into the image; a DST that ends in / is a directory",
        |text| match text.rsplit_once(':') {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                Ok(StepOption::Copy(from.into(), to.to_owned()))
            }
            _ => Err("it takes SRC:DST"),
        },
    ),
    (
        "env",
        "NAME=VALUE",
        "Set a variable of later steps, and of commands in VMs of the template",
        |text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(StepOption::Env(name.to_owned(), value.to_owned()))
            }
            _ => Err("it takes NAME=VALUE"),
        },
    ),
    (
        "user",
        "USER[:GROUP]",
        "Set the user of later steps and of commands, by names or numbers of the image",
        |text| Ok(StepOption::User(text)),
    ),
    (
        "workdir",
        "DIR",
        "Set the directory of later steps and of commands, and create it",
        |text| Ok(StepOption::Workdir(text)),
    ),
    (
        "warm",
        "CMD",
        "Run a command before the snapshot, and again in each clone that is kept warm: what it \
         reads and loads is in memory before anybody uses the clone",
        |text| Ok(StepOption::Warm(text)),
    ),
];

type Parse = fn(String) -> Result<StepOption, &'static str>;

fn parse(parse: Parse) -> impl Fn(OsString) -> Result<StepOption, &'static str> + Clone {
    move |text| match text.into_string() {
        Ok(text) if text.is_empty() => Err("it is empty"),
        Ok(text) if text.contains('\0') => Err("it holds a NUL"),
        Ok(text) => parse(text),
        Err(_) => Err("it takes UTF-8"),
    }
}

impl Args for StepOptions {
    fn augment_args(command: Command) -> Command {
        OPTIONS
            .into_iter()
            .fold(command, |command, (name, value, help, of)| {
                command.arg(
                    Arg::new(name)
                        .long(name)
                        .value_name(value)
                        .help(help)
                        .help_heading("Steps, in the order in which they are given")
                        .action(ArgAction::Append)
                        .value_parser(OsStringValueParser::new().try_map(parse(of))),
                )
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for StepOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut steps = Vec::new();
        for (name, ..) in OPTIONS {
            let places = matches.indices_of(name).into_iter().flatten();
            let given = matches.get_many::<StepOption>(name).into_iter().flatten();
            steps.extend(places.zip(given.cloned()));
        }
        steps.sort_by_key(|(place, _)| *place);
        Ok(Self(steps.into_iter().map(|(_, step)| step).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A Dockerfile and what it needs.
#[derive(Debug, Args)]
pub struct DockerfileOptions {
    /// Follow the steps of a Dockerfile, and those given as options after them. What is not supported is
    /// refused, with its line.
    #[arg(long, value_name = "DOCKERFILE", conflicts_with = "from")]
    pub file: Option<PathBuf>,
    /// The directory whose files it may copy; by default the one that it is in.
    #[arg(long, value_name = "DIR", requires = "file")]
    pub context: Option<PathBuf>,
    /// The value of one of its ARGs.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", requires = "file",
          value_parser = OsStringValueParser::new().try_map(build_arg))]
    pub build_args: Vec<(String, String)>,
    /// Kill the command of a step after this time: 90s, 30m, 2h.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time_limit)]
    pub step_timeout: Duration,
}

fn build_arg(text: OsString) -> Result<(String, String), &'static str> {
    let (name, value) = variable(text)?;
    let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else {
        return Err("it takes UTF-8");
    };
    Ok((name, value))
}
