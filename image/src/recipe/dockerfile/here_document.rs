//! Here-documents that no step can be made of.

use parse_dockerfile::{Command, Instruction};

use super::error::{DockerfileError, unsupported};
use super::text::line_at;
use crate::recipe::expand;

/// Refuses a here-document behind other words of a `RUN`: the parser would take its lines for
/// instructions.
pub(super) fn refuse_later_documents(text: &str) -> Result<(), DockerfileError> {
    let Ok(instructions) = parse_dockerfile::parse_iter(text) else {
        return Ok(());
    };
    for instruction in instructions.map_while(Result::ok) {
        let Instruction::Run(run) = &instruction else {
            continue;
        };
        let (Command::Shell(command), []) = (&run.arguments, run.here_docs.as_slice()) else {
            continue;
        };
        let words = expand::words(command.value, '\\', &|_| None).unwrap_or_default();
        if words.iter().any(|word| is_here_document(word)) {
            let line = line_at(text, run.run.span.start);
            return Err(unsupported(
                line,
                "a here-document that the RUN does not begin with",
            ));
        }
    }
    Ok(())
}

/// Returns whether a shell takes `word` for the begin of a here-document: `<<EOF`, `<<-EOF`, `3<<EOF`.
fn is_here_document(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    word.strip_prefix("<<").is_some_and(|name| {
        let name = name.strip_prefix('-').unwrap_or(name);
        !name.is_empty() && !name.contains('<')
    })
}
