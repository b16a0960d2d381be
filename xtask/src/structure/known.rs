//! The rules, and the known violations. The lists of these only shrink: an entry that is no longer
//! needed is an error, too.

use super::rules::{Known, Rule, Uses};

/// A VMM knows nothing of the code that starts, restores and kills it: a third one is a folder and
/// one line in a list. It reads its own settings.
pub(super) const RULES: &[Rule] = &[
    Rule {
        module: "orchestrator::vm::vmm",
        uses: Uses::Only(&[]),
    },
    Rule {
        module: "orchestrator::vm::firecracker",
        uses: Uses::Only(&["backend", "kvm", "vmm"]),
    },
    Rule {
        module: "orchestrator::vm::qemu",
        uses: Uses::Only(&["backend", "kvm", "vmm"]),
    },
    Rule {
        module: "orchestrator::vm::pool",
        uses: Uses::AllBut(&["firecracker", "qemu"]),
    },
    Rule {
        module: "orchestrator::vm::snapshot",
        uses: Uses::AllBut(&["firecracker", "qemu", "launcher", "pool", "config"]),
    },
];

/// Known violations of rules.
pub(super) const FORBIDDEN: &[Known] = &[];

/// Known dependencies that close a circle.
pub(super) const CIRCLES: &[Known] = &[];
