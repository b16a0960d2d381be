//! Tests jailed VMs, which need root and Firecracker's jailer.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ironclaw_host::sys::confine;
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::firecracker::find_jailer;
use ironclaw_orchestrator::vm::{
    CheckpointOptions, Config, Launcher, Origin, SpawnOptions, dropped_vms_ended,
};
use ironclaw_test_harness::skipped;

use crate::lab::{Lab, launcher, list, pool, run, words};
use crate::limit::Limit;
use crate::real;

/// Opens a lab with jailed VMs, if they are possible.
pub(crate) async fn jailed() -> Option<Lab> {
    let mut lab = Lab::open().await?;
    if !may_jail(&lab) {
        return None;
    }
    lab.config.jail = JailChoice::On;
    Some(lab)
}

/// Returns whether VMs can be jailed here; the test is ignored if not.
pub(crate) fn may_jail(lab: &Lab) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "only root can jail VMs".to_owned()
    } else {
        match find_jailer(lab.config.backends.firecracker.jailer.as_deref()) {
            Ok(_) => return true,
            Err(error) => error.to_string(),
        }
    };
    skipped(real::unless_required(reason));
    false
}

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim().to_owned()
}

/// Returns the control groups of a process that are below ours.
pub(crate) fn groups(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let ours = text.lines().filter_map(|line| {
        let (controller, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.strip_prefix('/')?;
        path.starts_with("ironclaw/").then_some((controller, path))
    });
    ours.map(|(controller, path)| {
        let mount = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let option = |wanted| fields[3].split(',').any(|option| option == wanted);
            let found = match controller {
                "" => fields[2] == "cgroup2",
                _ => fields[2] == "cgroup" && controller.split(',').all(option),
            };
            found.then(|| fields[1].to_owned())
        });
        PathBuf::from(mount.unwrap()).join(path)
    })
    .collect()
}

/// Returns whether this host has all controllers that limit a VM, in either version.
pub(crate) fn can_limit() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|l| l.split(' ').collect()).collect();
    let unified = mounts.iter().find(|mount| mount[2] == "cgroup2");
    let unified = unified.map(|mount| {
        let file = PathBuf::from(mount[1]).join("cgroup.controllers");
        fs::read_to_string(file).unwrap()
    });
    let unified = unified.unwrap_or_default();
    let all = |has: &dyn Fn(&str) -> bool| ["memory", "cpu", "pids"].into_iter().all(has);
    all(&|wanted| unified.split_whitespace().any(|has| has == wanted))
        || all(&|wanted| {
            mounts.iter().any(|mount| {
                mount[2] == "cgroup" && mount[3].split(',').any(|option| option == wanted)
            })
        })
}

/// The limits of a process's control groups.
#[derive(Debug)]
struct Limits {
    /// In bytes.
    memory: u64,
    processors: u64,
    processes: u64,
}

impl Limits {
    fn read(groups: &[PathBuf]) -> Self {
        let read = |name: &str| {
            let files = groups.iter().map(|group| group.join(name));
            files.flat_map(fs::read_to_string).next()
        };
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        // The names in version 2, then in version 1.
        let memory = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        let (quota, period) = match read("cpu.max") {
            Some(both) => {
                let (quota, period) = both.split_once(' ').unwrap();
                (number(quota), number(period))
            }
            None => (
                number(&read("cpu.cfs_quota_us").unwrap()),
                number(&read("cpu.cfs_period_us").unwrap()),
            ),
        };
        Self {
            memory: number(&memory.unwrap()),
            processors: quota / period,
            processes: number(&read("pids.max").unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vm_has_a_user_a_root_namespaces_and_limits_of_its_own() {
    let Some(lab) = jailed().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let one = launcher.restore_vm(&snapshot, "one").await.unwrap();
    let two = launcher.restore_vm(&snapshot, "two").await.unwrap();
    let user = |pid| status(pid, "Uid:");
    assert_ne!(user(one.pid()), user(two.pid()));
    for vm in [&one, &two] {
        assert!(vm.is_jailed());
        let pid = vm.pid();
        assert!(!user(pid).starts_with("0\t"));
        assert_eq!(status(pid, "CapEff:"), "0000000000000000");
        assert_eq!(status(pid, "Seccomp:"), "2", "filters are on");
        for namespace in ["mnt", "net", "pid"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
        let memory = fs::metadata(format!("/proc/{pid}/root/memory")).unwrap();
        assert_eq!((memory.uid(), memory.mode() & 0o777), (0, 0o640));
        assert_eq!(run(vm, ["echo", "inside"]).await, "inside\n");
    }
    let net = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(net(one.pid()), net(two.pid()));
    let limited = groups(one.pid());
    if can_limit() {
        let limits = Limits::read(&limited);
        let machine = lab.config.machine;
        assert_eq!(limits.memory, machine.memory_bytes() + (64 << 20));
        assert_eq!(limits.processors, u64::from(machine.vcpus));
        assert!((1..100).contains(&limits.processes), "{limits:?}");
    } else {
        assert!(limited.is_empty(), "{limited:?}");
        skipped("limits of jailed VMs: this host lacks a controller of memory, cpu or pids");
    }
    for vm in [one, two] {
        vm.destroy().await.unwrap();
    }
    assert!(lab.homes().is_empty(), "{:?}", lab.homes());
    drop(launcher);
    dropped_vms_ended().await;
    let left: Vec<_> = limited.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_jail_says_so() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("unjailed").await;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(namespace(&vm.pid().to_string()), namespace("self"));
    assert!(!vm.is_jailed());
    assert!(!vm.client().is_jailed());
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_pool_serves_warm_clones_and_leaves_nothing() {
    let Some(lab) = jailed().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 3, 1).await;
    for _ in 0..6 {
        pool.warmup().await.unwrap();
        let vm = pool.spawn("jailed").await.unwrap();
        assert_eq!(vm.origin(), Origin::Warm);
        assert_eq!(run(&vm, ["counter"]).await, "1\n");
        vm.destroy().await.unwrap();
    }
    assert_eq!(pool.stats().failures, 0);
    pool.close().await;
    assert!(lab.homes().is_empty(), "{:?}", lab.homes());
}

/// Returns the file that a process executes, by its number, after checking that nobody else may write
/// to it.
fn program(pid: u32) -> u64 {
    let facts = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o7777), (0, 0o555));
    facts.ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vm_shares_its_program_with_no_other_and_leaves_it_to_the_next() {
    let Some(lab) = jailed().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let one = launcher.restore_vm(&snapshot, "one").await.unwrap();
    let two = launcher.restore_vm(&snapshot, "two").await.unwrap();
    let (first, second) = (program(one.pid()), program(two.pid()));
    assert_ne!(first, second);
    let its_own = fs::metadata(&lab.binary.path).unwrap().ino();
    assert!(![first, second].contains(&its_own));
    let name = fs::read_to_string(format!("/proc/{}/comm", one.pid())).unwrap();
    assert_eq!(name, "firecracker\n");
    one.destroy().await.unwrap();
    let three = launcher.restore_vm(&snapshot, "three").await.unwrap();
    // Those of the two, or that of the VM which the snapshot was taken of.
    assert_ne!(program(three.pid()), second);
    let copies = fs::read_dir(cells(&lab)).unwrap().count();
    assert!(copies <= 4, "{copies} with the trampoline");
    for vm in [two, three] {
        vm.destroy().await.unwrap();
    }
    drop(launcher);
    dropped_vms_ended().await;
    assert_eq!(list(&lab.config.run_path).len(), 0);
}

/// Returns the directory of what jails keep for the next VM.
fn cells(lab: &Lab) -> PathBuf {
    let owners = list(&lab.config.run_path).into_iter();
    let mut cells = owners.map(|owner| owner.join(".cells"));
    cells.find(|cells| cells.is_dir()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firecracker_that_can_not_be_executed_in_a_jail_is_told() {
    let Some(mut lab) = jailed().await else {
        return;
    };
    // There is no shell in a jail.
    let script = lab.path().join("firecracker");
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", lab.binary.path.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    lab.config.backends.firecracker.binary = Some(script);
    let error = words(&lab.launcher().await.cold_boot("script").await.unwrap_err());
    for part in ["can't be executed in its jail", "exit status: 2"] {
        assert!(error.contains(part), "{error}");
    }
    lab.until_no_home();
}

/// Returns the first process of the PID namespace of `pid`.
fn guard_of(pid: u32) -> u32 {
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace(pid);
    let all = list(Path::new("/proc")).into_iter();
    let numbers = all.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    let mut inside = numbers.filter(|pid| namespace(*pid) == ours);
    inside
        .find(|pid| status(*pid, "NSpid:").ends_with("\t1"))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_jailed_again_after_the_guard_of_their_namespace_was_killed() {
    let Some(lab) = jailed().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let one = launcher.restore_vm(&snapshot, "one").await.unwrap();
    let guard = i32::try_from(guard_of(one.pid())).unwrap();
    let guard = rustix::process::Pid::from_raw(guard).unwrap();
    rustix::process::kill_process(guard, rustix::process::Signal::KILL).unwrap();
    one.exited().await;
    let two = launcher.restore_vm(&snapshot, "two").await.unwrap();
    assert_eq!(run(&two, ["echo", "inside"]).await, "inside\n");
    two.destroy().await.unwrap();
}

/// Set where the last test of this file runs for another: where to open a launcher. It does nothing
/// otherwise.
const OPEN_BELOW: &str = "IRONCLAW_TEST_OPEN_BELOW";

#[tokio::test(flavor = "multi_thread")]
async fn vms_without_a_jailer_are_refused_as_root_and_warned_of_where_nothing_else_confines_them() {
    let Some(lab) = Lab::open().await else { return };
    let is_root = rustix::process::geteuid().is_root();
    for (choice, told) in [("auto", true), ("off", false)] {
        let opens = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "jail::opens_a_launcher_for_another_test",
                "--nocapture",
            ])
            .env(OPEN_BELOW, lab.path())
            .env("IRONCLAW_JAIL", choice)
            .env("IRONCLAW_FIRECRACKER", &lab.binary.path)
            .env_remove("IRONCLAW_JAILER")
            .env("PATH", lab.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _limit = Limit::new(&opens);
        let output = opens.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), !(told && is_root), "{said}");
        let warned = said.contains("Firecracker can read and write files of this user");
        let is_weak = !is_root && confine::landlock_version() == 0;
        assert_eq!(warned, told && is_weak, "{choice}: {said}");
        let refused = said.contains("`jail=off` to do without");
        assert_eq!(refused, told && is_root, "{choice}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_a_launcher_for_another_test() {
    let Some(below) = std::env::var_os(OPEN_BELOW).map(PathBuf::from) else {
        return skipped("a process of another test");
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut config = Lab::config_below(&below);
    config.jail = Config::from_env().unwrap().jail;
    drop(launcher(&config).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_may_be_symbolic_links_to_files_of_another_name() {
    let Some(mut lab) = jailed().await else {
        return;
    };
    // As in a release's archive.
    let release = lab.path().join("release");
    fs::create_dir(&release).unwrap();
    let link = |name: &str, program: &Path| {
        let named = release.join(format!("{name}-v1.17.0-x86_64"));
        fs::copy(program, &named).unwrap();
        let link = lab.path().join(name);
        std::os::unix::fs::symlink(&named, &link).unwrap();
        Some(link)
    };
    let jailer = find_jailer(lab.config.backends.firecracker.jailer.as_deref()).unwrap();
    let (firecracker, jailer) = (
        link("firecracker", &lab.binary.path),
        link("jailer", &jailer),
    );
    (
        lab.config.backends.firecracker.binary,
        lab.config.backends.firecracker.jailer,
    ) = (firecracker, jailer);
    let (_launcher, vm) = lab.vm("linked").await;
    assert_eq!(run(&vm, ["echo", "inside"]).await, "inside\n");
    vm.destroy().await.unwrap();
}

/// Set where the next test runs for another: where to run out of descriptors. It does nothing
/// otherwise.
const FEW_FILES_BELOW: &str = "IRONCLAW_TEST_FEW_FILES_BELOW";

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_open_files_is_named() {
    let Some(lab) = jailed().await else { return };
    let runs_out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jail::runs_out_of_files", "--nocapture"])
        .env(FEW_FILES_BELOW, lab.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = Limit::new(&runs_out);
    let output = runs_out.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_out_of_files() {
    let Some(below) = std::env::var_os(FEW_FILES_BELOW).map(PathBuf::from) else {
        return skipped("a process of another test");
    };
    let mut config = Lab::config_below(&below);
    config.jail = JailChoice::On;
    let launcher = launcher(&config).await;
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    let limit = rustix::process::Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut vms = Vec::new();
    let error = loop {
        match launcher.restore_vm(&snapshot, "one").await {
            Ok(vm) => vms.push(vm),
            Err(error) => break words(&error),
        }
        assert!(vms.len() < 128);
    };
    println!("{} VMs, then: {error}", vms.len());
    assert!(error.contains("128 open files (ulimit -n)"), "{error}");
    let vm = vms.pop().unwrap();
    assert_eq!(run(&vm, ["echo", "inside"]).await, "inside\n");
    vm.destroy().await.unwrap();
    // Covers a lack of any of the descriptors.
    for files in 100..128 {
        let limit = rustix::process::Rlimit {
            current: Some(files),
            ..limit
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        match launcher.restore_vm(&snapshot, "one").await {
            Ok(_) => break,
            Err(error) => assert!(
                words(&error).contains("open files (ulimit -n)"),
                "{files}: {}",
                words(&error)
            ),
        }
    }
    drop(vms);
    drop(launcher);
    // The other test removes the directory by which the next start would find what is left.
    dropped_vms_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_on_which_no_jail_works_is_named_with_its_option() {
    let Some(lab) = jailed().await else { return };
    for option in ["nodev", "noexec"] {
        let directory = lab.path().join(option);
        fs::create_dir(&directory).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", option, "tmpfs"])
            .arg(&directory)
            .status();
        if !mounted.unwrap().success() {
            return skipped("a tmpfs can't be mounted");
        }
        let mut config = lab.config.clone();
        // Does not exist yet.
        config.run_path = directory.join("ironclaw/run");
        let opened = Launcher::open(&config, Arc::new(|_: &_| {})).await;
        let unmounted = Command::new("umount").arg(&directory).status();
        assert!(unmounted.unwrap().success());
        let error = words(&opened.unwrap_err());
        let mount = format!("{} is mounted `{option}`", directory.display());
        assert!(
            error.contains(&mount) && error.contains("`run_path`"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vm_is_checkpointed_again_and_again_and_so_is_a_copy() {
    let Some(lab) = jailed().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let vm = pool.spawn("original").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    let kept = || CheckpointOptions::owned_by("suite");
    let fork = SpawnOptions::named;
    for number in ["1", "2"] {
        assert_eq!(run(&vm, ["counter"]).await.trim(), number);
        let checkpoint = vm.checkpoint(kept()).await.unwrap();
        let copy = pool.fork(&checkpoint, fork("copy")).await.unwrap();
        let of_copy = copy.checkpoint(kept()).await.unwrap();
        let second = pool.fork(&of_copy, fork("second")).await.unwrap();
        let next = (number.parse::<u32>().unwrap() + 1).to_string();
        for copy in [&copy, &second] {
            assert_ne!(status(copy.pid(), "Uid:"), "0\t0\t0\t0");
            assert_eq!(run(copy, ["counter"]).await.trim(), next);
        }
        copy.destroy().await.unwrap();
        second.destroy().await.unwrap();
    }
    vm.destroy().await.unwrap();
    pool.close().await;
    drop(launcher);
    lab.until_no_home();
}
