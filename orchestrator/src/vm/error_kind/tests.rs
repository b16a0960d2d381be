use super::*;
use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::Printed;
use std::sync::Arc;
use std::time::Duration;

const ALL: [ErrorKind; 23] = [
    ErrorKind::Setting,
    ErrorKind::NotInstalled,
    ErrorKind::Unusable,
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Snapshot,
    ErrorKind::Template,
    ErrorKind::Store,
    ErrorKind::NoSpace,
    ErrorKind::NoRoom,
    ErrorKind::Busy,
    ErrorKind::TimedOut,
    ErrorKind::Network,
    ErrorKind::Vmm,
    ErrorKind::Boot,
    ErrorKind::Guest,
    ErrorKind::TooMuchOutput,
    ErrorKind::Protocol,
    ErrorKind::VmOver,
    ErrorKind::Denied,
    ErrorKind::Closed,
    ErrorKind::Host,
    ErrorKind::Panicked,
];

#[test]
fn an_error_of_another_package_has_its_kind_behind_every_wrapper() {
    let root = std::path::PathBuf::from("/x");
    let template = TemplateError::NoBuilder { root };
    assert_eq!(ErrorKind::of(&template), Some(ErrorKind::NotInstalled));
    let launch = LaunchError::from(template);
    assert_eq!(launch.kind(), ErrorKind::NotInstalled);
    let store = StoreError::Io {
        operation: "read",
        path: "/x".into(),
        source: std::io::ErrorKind::Other.into(),
    };
    let template = TemplateError::from(store);
    assert_eq!(ErrorKind::of(&template), Some(ErrorKind::Store));
}

#[test]
fn each_kind_has_a_name_of_its_own_that_programs_can_take() {
    let names: std::collections::BTreeSet<_> = ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), ALL.len());
    let is_plain = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(names.iter().all(is_plain), "{names:?}");
}

#[test]
fn the_kind_is_that_of_the_cause_however_deep_it_is() {
    let full = || VmmError::NoSpace {
        operation: "write".to_owned(),
    };
    let spawn = SpawnError::Pool(PoolError::WarmUp(Arc::new(LaunchError::Vmm(full()))));
    assert_eq!(spawn.kind(), ErrorKind::NoSpace);
    assert!(!spawn.is_retryable());
    #[derive(Debug, thiserror::Error)]
    #[error("a job failed")]
    struct Job(#[source] SpawnError);
    let wrapped = Job(spawn);
    assert_eq!(ErrorKind::of(&wrapped), Some(ErrorKind::NoSpace));
    assert_eq!(ErrorKind::of(&std::io::Error::other("x")), None);
}

#[test]
fn errors_caused_by_others_or_the_host_are_retryable() {
    let late = GuestError::NoAnswer {
        operation: "answer",
        after: Duration::from_secs(1),
    };
    assert!(late.is_retryable());
    let closed = |reason| GuestError::Closed {
        reason,
        printed: Printed::default(),
    };
    assert!(closed(ExitReason::HungUp).is_retryable());
    // Who ended it does not want it again.
    assert!(!closed(ExitReason::Destroyed).is_retryable());
    assert!(!SpawnError::Closed.is_retryable());
    assert!(VmError::Denied(Denied::Busy).is_retryable());
    let panic = LaunchError::Panicked {
        reason: "x".to_owned(),
    };
    assert!(!panic.is_retryable());
}

#[test]
fn an_error_behind_another_says_itself_whether_to_try_again() {
    let closed = |reason| GuestError::Closed {
        reason,
        printed: Printed::default(),
    };
    let hung_up = closed(ExitReason::HungUp);
    let destroyed = closed(ExitReason::Destroyed);
    for (error, expected) in [(hung_up, true), (destroyed, false)] {
        assert_eq!(error.is_retryable(), expected);
        assert_eq!(crate::vm::is_retryable(&error), expected);
        let wrapped = anyhow::Error::new(error).context("a job failed");
        assert_eq!(crate::vm::is_retryable(wrapped.as_ref()), expected);
    }
    let busy = SpawnError::StartsBusy {
        waited: Duration::ZERO,
        starts: 1,
    };
    assert!(busy.is_retryable() && crate::vm::is_retryable(&busy));
    assert!(!crate::vm::is_retryable(&std::io::Error::other("theirs")));
}
