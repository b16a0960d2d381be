//! The list of backends. A new one is its folder and one line here.

use std::sync::Arc;

use ironclaw_settings::{BadValue, Setting, Values};
use serde::Serialize;

use crate::vm::backend::Backend;
use crate::vm::vmm::VmmKind;
use crate::vm::{firecracker, qemu};

/// Lists one type of settings for each backend, which is the backend itself; see
/// [`FirecrackerSettings`] for what it needs.
///
/// [`FirecrackerSettings`]: firecracker::settings::FirecrackerSettings
macro_rules! backends {
    ($($(#[$doc:meta])* $field:ident: $module:ident::$settings:ident,)*) => {
        /// All backends with their settings, in order of preference.
        #[derive(Debug, Clone, Default, Serialize)]
        #[non_exhaustive]
        pub struct Backends {
            $($(#[$doc])* pub $field: $module::settings::$settings,)*
            /// Backends of the program itself, which serve if none of the others does, or if chosen
            /// by name.
            #[serde(skip)]
            pub others: Vec<Arc<dyn Backend>>,
        }

        /// The built-in kinds.
        const KINDS: &[VmmKind] = &[$($module::KIND,)*];
        /// The prefixes of their process names.
        const PROCESS_NAMES: &[&[&str]] = &[$($module::settings::PROCESS_NAMES,)*];
        /// Their accelerators.
        const ACCELERATORS: &[&[&str]] = &[$($module::settings::ACCELERATORS,)*];
        /// Their settings.
        pub(crate) const SETTINGS: &[&[Setting]] = &[$($module::settings::SETTINGS,)*];

        impl Backends {
            pub(crate) fn new(values: &Values<'_>) -> Result<Self, BadValue> {
                Ok(Self {
                    $($field: $module::settings::$settings::new(values)?,)*
                    others: Vec::new(),
                })
            }

            /// Returns all of them, in order of preference.
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

/// Returns the built-in kinds, in order of preference.
#[must_use]
pub fn kinds() -> &'static [VmmKind] {
    KINDS
}

/// Returns the prefixes of the built-in ones' process names, to find VMMs among processes.
pub fn process_names() -> impl Iterator<Item = &'static str> {
    PROCESS_NAMES.iter().flat_map(|names| names.iter().copied())
}

/// Returns each built-in kind with each of its accelerators, like `kvm`: the possible subjects of a
/// figure.
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
        assert_eq!(SETTINGS.len(), kinds.len());
        assert!(accelerators().count() >= kinds.len());
    }
}
