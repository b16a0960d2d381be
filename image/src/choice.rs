//! Which template is wanted.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::name::TemplateName;
#[cfg(feature = "oci")]
use crate::oci::RootSource;

/// The template that VMs are to boot from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TemplateChoice {
    /// The default one: that of [`TemplateStore::set_default`](crate::TemplateStore::set_default), or the
    /// one that was built or imported last without a name. A minimal one is built where there is none.
    #[default]
    Default,
    /// The one that was built last under this name.
    Named(TemplateName),
    /// The one with a root from this source, as it is now. It is built where there is none.
    #[cfg(feature = "oci")]
    Image(RootSource),
}

impl From<TemplateName> for TemplateChoice {
    fn from(name: TemplateName) -> Self {
        Self::Named(name)
    }
}

#[cfg(feature = "oci")]
impl From<RootSource> for TemplateChoice {
    fn from(source: RootSource) -> Self {
        Self::Image(source)
    }
}

impl fmt::Display for TemplateChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default template"),
            Self::Named(name) => write!(f, "template {name}"),
            #[cfg(feature = "oci")]
            Self::Image(source) => write!(f, "image {source}"),
        }
    }
}

impl Serialize for TemplateChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_none(),
            Self::Named(name) => name.serialize(serializer),
            #[cfg(feature = "oci")]
            Self::Image(source) => serializer.collect_str(source),
        }
    }
}
