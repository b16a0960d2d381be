//! The daemon: hands out microVMs over HTTP.
//!
//! ```text
//!  E2B's SDKs ──▶ e2b ──┬──▶ sandboxes ──▶ templates ──▶ ironclaw_orchestrator::vm
//!  others ───────▶ v1 ──┤        │
//!                       ▼        ▼
//!                     keys    database
//! ```
//!
//! [`Server`] listens; a [`Sandboxes`] has the VMs under the ids that clients know, with their deadlines.
//! Each API translates: what it asks for is done by the library's own calls, and no foreign agent runs in
//! a guest.

#![forbid(unsafe_code)]

mod accounts;
mod api;
mod audit;
mod build_log;
mod builds;
mod caller;
mod causes;
mod checkpoints;
mod database;
mod e2b;
mod fan_out;
mod file_watch;
mod host_fault;
mod idempotency;
mod keys;
mod leftovers;
mod listen;
mod log;
mod memory;
mod new_sandbox;
mod observe;
mod paused_sandboxes;
mod peer;
mod place;
mod port_access;
mod ports;
mod process;
mod record;
mod sandbox;
mod sandbox_id;
mod sandboxes;
mod secret;
mod streamed_body;
mod templates;
mod uploads;
mod usage;
mod v1;
mod watchers;
mod whole_body;

pub use audit::Audit;
pub use database::{Claim, Database, DatabaseError};
pub use keys::{BadKeyName, Key, KeyInfo, Keys, NewKeyError};
pub use listen::{Bounds, ListenError, Passed, Reach, Server, Tls, TlsError};
pub use new_sandbox::{InvalidSandbox, NewSandbox};
pub use record::Expiry;
pub use sandbox::SandboxError;
pub use sandbox_id::SandboxId;
pub use sandboxes::Sandboxes;
pub use templates::{TemplateError, Templates};
