//! The list of backends. One more is its folder and one line here.

use std::sync::Arc;

use serde::Serialize;

use crate::vm::backend::Backend;
use crate::vm::variables::{BadValue, Variable, Variables};
use crate::vm::vmm::VmmKind;
use crate::vm::{firecracker, qemu};

/// One setting type for each backend, which is the backend: [`FirecrackerSettings`] shows what it
/// has to have.
///
/// [`FirecrackerSettings`]: firecracker::settings::FirecrackerSettings
macro_rules! backends {
    ($($(#[$doc:meta])* $field:ident: $module:ident::$settings:ident,)*) => {
        /// All backends with their settings, in the order in which they are preferred.
        #[derive(Debug, Clone, Default, Serialize)]
        #[non_exhaustive]
        pub struct Backends {
            $($(#[$doc])* pub $field: $module::settings::$settings,)*
            /// Those of the program itself, which serve where none of the others does, or by their
            /// names.
            #[serde(skip)]
            pub others: Vec<Arc<dyn Backend>>,
        }

        /// The built-in kinds.
        const KINDS: &[VmmKind] = &[$($module::KIND,)*];
        /// How the names of their processes begin.
        const PROCESS_NAMES: &[&[&str]] = &[$($module::settings::PROCESS_NAMES,)*];
        /// What executes the code of their guests, of each.
        const ACCELERATORS: &[&[&str]] = &[$($module::settings::ACCELERATORS,)*];
        /// Their variables.
        pub(crate) const VARIABLES: &[&[Variable]] = &[$($module::settings::VARIABLES,)*];

        impl Backends {
            pub(crate) fn from_vars(vars: &Variables<'_>) -> Result<Self, BadValue> {
                Ok(Self {
                    $($field: $module::settings::$settings::from_vars(vars)?,)*
                    others: Vec::new(),
                })
            }

            /// All of them, in the order in which they are preferred.
            pub fn list(&self) -> Vec<Arc<dyn Backend>> {
                let mut all: Vec<Arc<dyn Backend>> = vec![$(Arc::new(self.$field.clone()),)*];
                all.extend(self.others.iter().cloned());
                all
            }
        }
    };
}

backends! {
    /// The one for production.
    firecracker: firecracker::FirecrackerSettings,
    /// The portable one.
    qemu: qemu::QemuSettings,
}

/// The built-in kinds, in the order in which they are preferred.
#[must_use]
pub fn kinds() -> &'static [VmmKind] {
    KINDS
}

/// How the names of the built-in ones' processes begin: for who looks for VMMs among processes.
pub fn process_names() -> impl Iterator<Item = &'static str> {
    PROCESS_NAMES.iter().flat_map(|names| names.iter().copied())
}

/// Each built-in kind with each thing that executes the code of its guests, as `kvm`: what a figure
/// may be of.
pub fn accelerators() -> impl Iterator<Item = (&'static VmmKind, &'static str)> {
    let all = KINDS.iter().zip(ACCELERATORS);
    all.flat_map(|(kind, all)| all.iter().map(move |accelerator| (kind, *accelerator)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_each_backend_is_told_and_no_name_is_given_twice() {
        let backends = Backends::default().list();
        let kinds: Vec<_> = backends.iter().map(|backend| backend.kind()).collect();
        assert_eq!(kinds, super::kinds());
        let names: std::collections::BTreeSet<_> = kinds.iter().map(VmmKind::name).collect();
        assert_eq!(names.len(), kinds.len());
        assert_eq!(VARIABLES.len(), kinds.len());
        assert!(accelerators().count() >= kinds.len());
    }
}
