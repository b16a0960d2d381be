//! The settings that are not of a backend, each declared once, and the list of all.

use ironclaw_settings::{DefaultValue, Setting};

use crate::vm::backends;
use DefaultValue::{Described, Is};

/// Number of snapshots in the pool.
pub const POOL_SIZE: Setting = Setting::number(
    "pool_size",
    Is("5"),
    1,
    Some(20),
    "number of snapshots in the pool",
);
/// Minimum of warm clones.
pub const MIN_WARM: Setting = Setting::number(
    "min_warm",
    Described("one for each snapshot"),
    0,
    None,
    "number of warm clones that are always there",
);
/// Maximum of warm clones.
pub const MAX_WARM: Setting = Setting::text(
    "max_warm",
    Described("`min_warm`"),
    "most warm clones, `min_warm` or more; as many as the bursts of the last hours needed",
);
/// Number of standby processes.
pub const STANDBY: Setting = Setting::number(
    "standby",
    Is("1"),
    0,
    None,
    "VMM processes that stand by for spawns that find no warm clone (Firecracker), more while many do",
);
/// Limit of VMs at a time.
pub const MAX_VMS: Setting = Setting::number(
    "max_vms",
    Described("as many as fit into the memory budget"),
    1,
    None,
    "most VMs at a time, warm clones included",
);
/// Memory budget of all VMs together.
pub const MEMORY_BUDGET_MIB: Setting = Setting::number(
    "memory_budget_mib",
    Described("three quarters of the memory that the process may use"),
    128,
    None,
    "memory of all VMs together in MiB: each guest's own and 32 MiB",
);
/// Age in seconds at which a snapshot gets a successor.
pub const SNAPSHOT_REFRESH_SECS: Setting = Setting::number(
    "snapshot_refresh_secs",
    Is("3600"),
    60,
    None,
    "seconds until a snapshot is replaced by a fresh one",
);
/// The directory of snapshots.
pub const SNAPSHOT_PATH: Setting = Setting::text(
    "snapshot_path",
    Described("/var/lib/ironclaw/snapshots as root, $XDG_STATE_HOME/ironclaw/snapshots otherwise"),
    "absolute path of the snapshots' directory, in UTF-8",
);
/// The directory of templates.
pub const TEMPLATE_PATH: Setting = Setting::text(
    "template_path",
    Described("/var/lib/ironclaw/templates as root, $XDG_STATE_HOME/ironclaw/templates otherwise"),
    "absolute path of the templates' directory, in UTF-8",
);
/// The template that VMs boot from.
pub const TEMPLATE: Setting = Setting::text(
    "template",
    Described("the default one, which `ironclaw template default` sets"),
    "name of the template that VMs boot from, as `ironclaw template list` shows it",
);
/// The directory for running VMs.
pub const RUN_PATH: Setting = Setting::text(
    "run_path",
    Described("/var/lib/ironclaw/run as root, $XDG_STATE_HOME/ironclaw/run otherwise"),
    "absolute path of the directory for the sockets of running VMs, in UTF-8",
);
/// The choices that this program has.
const BACKENDS: &str = if cfg!(all(feature = "firecracker", feature = "qemu")) {
    "auto, firecracker or qemu"
} else if cfg!(feature = "firecracker") {
    "auto or firecracker"
} else if cfg!(feature = "qemu") {
    "auto or qemu"
} else {
    "auto"
};
/// The choice of the backend.
pub const BACKEND: Setting = Setting::text("backend", Is("auto"), BACKENDS);
/// Memory of a guest in MiB.
pub const MEMORY_MIB: Setting = Setting::number(
    "memory_mib",
    Is("128"),
    96,
    Some(16384),
    "memory of a guest in MiB",
);
/// Number of a guest's vCPUs.
pub const VCPUS: Setting = Setting::number("vcpus", Is("1"), 1, Some(32), "processors of a guest");
/// Limit in seconds of one attempt at booting a guest.
pub const BOOT_TIMEOUT_SECS: Setting = Setting::number(
    "boot_timeout_secs",
    Is("60"),
    1,
    Some(3600),
    "seconds that a guest has to boot, three times at most",
);
/// Size of a guest's writable disk in MiB.
pub const DISK_MIB: Setting = Setting::number(
    "disk_mib",
    Is("4096"),
    16,
    Some(262_144),
    "most that a guest whose template has a root disk may write to it, in MiB",
);
/// Limit of a template's root disk in MiB.
pub const ROOT_DISK_MIB: Setting = Setting::number(
    "root_disk_mib",
    Is("32768"),
    16,
    Some(1 << 24),
    "most that the root disk of a template may take, and all layers that it is built from, in MiB",
);
/// Whether VMMs are jailed.
pub const JAIL: Setting = Setting::text(
    "jail",
    Is("auto"),
    "auto (the strongest that can be had; Firecracker as root: on), on (jailed or an error) or off",
);
/// The range of user ids of jailed VMs.
pub const JAIL_USERS: Setting = Setting::text(
    "jail_users",
    Is("70000-99999"),
    "unused user ids for jailed VMMs, FIRST-LAST, both from 1 to 4294967294",
);
/// The path of the guest agent's binary for templates.
pub const GUEST_AGENT: Setting = Setting::text(
    "guest_agent",
    Described("beside the ironclaw binary"),
    "path of the guest agent's binary",
);
/// A file with certificates of registries' authorities.
pub const REGISTRY_CA_FILE: Setting = Setting::text(
    "registry_ca_file",
    Described("the system's authorities alone"),
    "file with the certificates, in PEM, of further authorities of registries",
);
/// The registries that are asked in plain HTTP.
pub const REGISTRY_PLAIN_HTTP: Setting = Setting::text(
    "registry_plain_http",
    Described("those on this machine that speak no TLS"),
    "registries on other machines that are asked in plain HTTP, HOST[:PORT], with commas between them",
);
/// A file with certificates of daemons' authorities.
pub const DAEMON_CA_FILE: Setting = Setting::text(
    "daemon_ca_file",
    Described("the system's authorities alone"),
    "file with the certificates, in PEM, of further authorities of daemons that are asked by https",
);

const OF_ALL_BACKENDS: &[Setting] = &[
    POOL_SIZE,
    MIN_WARM,
    MAX_WARM,
    STANDBY,
    MAX_VMS,
    MEMORY_BUDGET_MIB,
    SNAPSHOT_REFRESH_SECS,
    SNAPSHOT_PATH,
    TEMPLATE_PATH,
    RUN_PATH,
    TEMPLATE,
    BACKEND,
    MEMORY_MIB,
    VCPUS,
    BOOT_TIMEOUT_SECS,
    DISK_MIB,
    ROOT_DISK_MIB,
    JAIL,
    JAIL_USERS,
    GUEST_AGENT,
    REGISTRY_CA_FILE,
    REGISTRY_PLAIN_HTTP,
    DAEMON_CA_FILE,
];

/// All settings.
pub const SETTINGS: &[Setting] = &ALL;

/// The common table, then that of each backend.
const TABLES: [&[Setting]; backends::SETTINGS.len() + 1] = {
    let mut tables = [OF_ALL_BACKENDS; backends::SETTINGS.len() + 1];
    let mut at = 0;
    while at < backends::SETTINGS.len() {
        tables[at + 1] = backends::SETTINGS[at];
        at += 1;
    }
    tables
};

const COUNT: usize = {
    let (mut count, mut table) = (0, 0);
    while table < TABLES.len() {
        count += TABLES[table].len();
        table += 1;
    }
    count
};

const ALL: [Setting; COUNT] = {
    let mut all = [POOL_SIZE; COUNT];
    let (mut at, mut table) = (0, 0);
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            all[at] = TABLES[table][row];
            at += 1;
            row += 1;
        }
        table += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::pool::VMM_MIB;

    #[test]
    fn memory_overhead_of_a_vm_is_documented_as_it_is_counted() {
        let counted = format!("{VMM_MIB} MiB");
        let meaning = MEMORY_BUDGET_MIB.meaning;
        assert!(meaning.contains(&counted), "{meaning:?}: {counted}");
    }

    #[test]
    fn no_two_settings_have_one_key() {
        let keys: std::collections::BTreeSet<_> = SETTINGS.iter().map(|it| it.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
    }
}
