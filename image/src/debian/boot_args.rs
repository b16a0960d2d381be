//! Arguments for the guest's kernel that do not depend on the VMM.

/// Arguments that every VMM passes to the kernel; the backends add what their machine needs.
///
/// * `console=ttyS0 quiet`: every VMM has this console, and only errors are worth its slowness.
/// * `reboot=t panic=-1`: a guest that ends or fails takes its VMM with it, without a firmware
///   to ask.
/// * `cryptomgr.notests`: known-answer tests of ciphers that no guest uses at boot took 0.6 of
///   3.9 s (medians of 6 boots under QEMU/TCG, Debian's 6.1 cloud kernel, 128 MiB).
/// * `init_on_free=1`: what is freed is zero, so a snapshot's memory file gets sparser and holds
///   nothing of what ended before it was taken. In the same boots 13,638 of 32,768 pages were
///   not zero once the guest was idle, 16,815 without. The price is that booting touches all of
///   the memory: 0.2 s there by the medians, 0.3 s by the minima. Pages zeroed when freed are
///   not zeroed again when allocated, which Debian's kernels do otherwise.
/// * `cgroup.memory=nokmem,nosocket`: each command has a control group, whose memory is counted to tell
///   that one of its processes was killed for lack of it. Nothing limits it, so what the kernel
///   allocates for a command need not be counted: the first command of a warm clone took 11.5 ms
///   instead of 12.8 to 14.4 (minima of 20, QEMU/TCG on a busy machine).
///
/// Tried and left out, as the difference was within the noise or belongs to one machine:
/// `audit=0`, `8250.nr_uarts=1`, `i8042.noaux i8042.nokbd`, `rcupdate.rcu_expedited=1`,
/// `raid=noautodetect`, `pci=off`. The mitigations stay on, and the
/// randomisation of programs' address layouts: what runs in a guest may be hostile to other
/// programs in it. The kernel itself is where it was linked: its own decompressor would move it,
/// and a `vmlinux` has none. Booted as a `bzImage` it came to its first line in 1.2 instead of
/// 0.7 s (one boot each under QEMU/TCG on a busy machine), and all clones of a snapshot would
/// share its place all the same. The kernel trusts the
/// processor's random generator by itself (`CONFIG_RANDOM_TRUST_CPU`).
pub(super) const BOOT_ARGS: &str = "console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests init_on_free=1 \
     cgroup.memory=nokmem,nosocket";
