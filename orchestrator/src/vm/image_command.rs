//! Commands as the image of a template has them.

use crate::template::ImageConfig;
use crate::vm::guest::Command;

/// Returns the command `argv`, as the user, in the directory and with the variables that an image
/// says.
pub(crate) fn image_command(config: &ImageConfig, argv: &[String]) -> Command {
    let env = config.env.iter().filter_map(|it| it.split_once('='));
    let mut command = Command::from(argv).envs(env);
    if !config.user.is_empty() {
        command = command.user(&config.user);
    }
    if !config.working_dir.is_empty() {
        command = command.current_dir(&config.working_dir);
    }
    command
}
