//! The list of backends. A new one is its folder, a feature, and one line here.

use std::sync::Arc;

use ironclaw_settings::{BadValue, Setting, Values};
use serde::Serialize;

use crate::vm::backend::Backend;
#[cfg(feature = "firecracker")]
use crate::vm::firecracker;
#[cfg(feature = "qemu")]
use crate::vm::qemu;
use crate::vm::vmm::VmmKind;

/// Lists one type of settings for each backend, which is the backend itself; see
/// `FirecrackerSettings` for what it needs.
macro_rules! backends {
    ($($(#[doc = $doc:literal])* $feature:literal $field:ident: $module:ident::$settings:ident,)*) => {
        /// All backends with their settings, in order of preference.
        #[derive(Debug, Clone, Default, Serialize)]
        #[non_exhaustive]
        pub struct Backends {
            $(
                $(#[doc = $doc])*
                #[cfg(feature = $feature)]
                pub $field: $module::settings::$settings,
            )*
            /// Backends of the program itself, which serve if none of the others does, or if chosen
            /// by name.
            #[serde(skip)]
            pub others: Vec<Arc<dyn Backend>>,
        }

        /// The built-in kinds.
        const KINDS: &[VmmKind] = &[$(#[cfg(feature = $feature)] $module::KIND,)*];
        /// The prefixes of their process names.
        const PROCESS_NAMES: &[&[&str]] = &[
            $(#[cfg(feature = $feature)] $module::settings::PROCESS_NAMES,)*
        ];
        /// Their accelerators.
        const ACCELERATORS: &[&[&str]] = &[
            $(#[cfg(feature = $feature)] $module::settings::ACCELERATORS,)*
        ];
        /// Their settings.
        pub(crate) const SETTINGS: &[&[Setting]] = &[
            $(#[cfg(feature = $feature)] $module::settings::SETTINGS,)*
        ];

        impl Backends {
            pub(crate) fn new(values: &Values<'_>) -> Result<Self, BadValue> {
                // Without a backend, nothing reads them.
                let _ = values;
                Ok(Self {
                    $(#[cfg(feature = $feature)] $field: $module::settings::$settings::new(values)?,)*
                    others: Vec::new(),
                })
            }

            /// Returns all of them, in order of preference.
            pub fn list(&self) -> Vec<Arc<dyn Backend>> {
                let mut all: Vec<Arc<dyn Backend>> = Vec::new();
                $(
                    #[cfg(feature = $feature)]
                    all.push(Arc::new(self.$field.clone()));
                )*
                all.extend(self.others.iter().cloned());
                all
            }
        }
    };
}

backends! {
    /// The one for production.
    "firecracker" firecracker: firecracker::FirecrackerSettings,
    /// The portable one.
    "qemu" qemu: qemu::QemuSettings,
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
