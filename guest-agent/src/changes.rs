//! What differs from the guest's image, as a list and as a layer.

mod layer;
mod list;
mod search;

pub(crate) use layer::Layer;
pub(crate) use list::ChangeList;
pub(crate) use search::Changes;
