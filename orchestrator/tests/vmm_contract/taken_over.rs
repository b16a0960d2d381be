//! A compromised VMM: its process tries any system call, and the jail stops it. As root, and as an
//! ordinary user.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use ironclaw_host::sys::confine;
use ironclaw_orchestrator::template::{Template, TemplateStore};
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::firecracker::{
    Confined, DEFAULT_USERS, Devices, Firecracker, FirecrackerBinary, Jailer,
};
use ironclaw_orchestrator::vm::qemu::{Accelerator, Jail, Qemu, QemuBinary, Strength};
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::vmm::Machine;
use ironclaw_orchestrator::vm::vmm::{MicroVm, Vmm};
use ironclaw_orchestrator::vm::{Config, Launcher};
use ironclaw_test_harness::skipped;
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use tokio::task::spawn_blocking;

use crate::backend::{Backend, Kind, import};
use crate::checkpoint::a_command_counts_on_in_the_vm_and_in_two_copies_without_a_line_lost_or_doubled as counts_on;
use crate::contract::{gone, restored, snapshot};
use crate::inject::{self, Argument, Outcome};
use crate::real::{self, Real};
use crate::trial;

/// Set where this program runs as an ordinary user: the part to try, and the directory.
const TRIED: &str = "IRONCLAW_TEST_TAKEN_OVER";
const DIRECTORY: &str = "IRONCLAW_TEST_TAKEN_OVER_DIRECTORY";
/// Set to make it first give all users access to KVM, in a mount namespace of its own.
const KVM_FOR_ALL: &str = "IRONCLAW_TEST_KVM_FOR_ALL";
const KVM: &str = "/dev/kvm";
/// The part about Firecracker.
const FIRECRACKER: &str = "firecracker";
/// The ids of nobody and nogroup on Debian.
const ORDINARY: u32 = 65_534;

const STRENGTHS: [(&str, Strength); 4] = [
    ("own_user", Strength::OwnUser),
    ("user_namespace", Strength::UserNamespace),
    ("landlock", Strength::Landlock),
    ("filters", Strength::Filters),
];

pub(crate) fn trials() -> Vec<Trial> {
    let qemu = STRENGTHS.into_iter().map(|(name, strength)| {
        trial(
            format!("taken_over::qemu::{name}_gets_no_further"),
            move || qemu(name, strength),
        )
    });
    let firecracker = trial(
        "taken_over::firecracker::jailed_gets_no_further".to_owned(),
        firecracker,
    );
    let without = trial(
        "taken_over::qemu::without_a_jail_only_its_snapshot_is_safe".to_owned(),
        without_a_jail,
    );
    let ordinary = trial(
        "taken_over::firecracker::landlock_gets_no_further".to_owned(),
        ordinary_firecracker,
    );
    qemu.chain([without, firecracker, ordinary]).collect()
}

/// Runs in this process as root what needs root, and the rest as an ordinary user.
async fn qemu(name: &str, strength: Strength) {
    let is_root = rustix::process::geteuid().is_root();
    let backend = match Kind::Qemu.start().await {
        Ok(backend) => backend,
        Err(missing) => return skipped(missing),
    };
    let template = backend.launcher.template().clone();
    let directory = anybodys();
    match (is_root, strength) {
        (false, Strength::OwnUser) => return skipped("only root has user ids to give"),
        (true, Strength::OwnUser) | (false, _) => {
            let backend = jailed_qemu(template, directory.path(), strength).await;
            return gets_no_further(&backend, Some(strength)).await;
        }
        (true, _) => {}
    }
    let store = directory.path().join("templates");
    let from = template.kernel().parent().unwrap();
    let copy = store.join(template.hash().to_string());
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // What refers to a snapshot elsewhere is a link, which leads nowhere once that is gone.
        if !file.file_type().unwrap().is_file() {
            continue;
        }
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    symlink(copy.file_name().unwrap(), store.join("default")).unwrap();
    let mut child = try_as_ordinary_user(name, directory.path());
    child.uid(ORDINARY).gid(ORDINARY);
    succeeds(child).await;
}

/// Creates a directory that any user can enter.
fn anybodys() -> tempfile::TempDir {
    let permissions = Permissions::from_mode(0o755);
    let mut builder = tempfile::Builder::new();
    builder.permissions(permissions).tempdir().unwrap()
}

/// Returns this program as a command that tries `what` in a directory, which it gives to the
/// ordinary user.
fn try_as_ordinary_user(what: &str, directory: &Path) -> Command {
    for path in walk(directory) {
        std::os::unix::fs::lchown(&path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        if path.is_dir() && !path.is_symlink() && path != directory {
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        }
    }
    let mut child = Command::new("/proc/self/exe");
    child
        .current_dir("/")
        .env(TRIED, what)
        .env(DIRECTORY, directory);
    child
}

async fn succeeds(mut child: Command) {
    let output = spawn_blocking(move || child.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "as an ordinary user: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(walk(&entry.unwrap().path()));
        }
    }
    all
}

/// Runs the part of an ordinary user, if this program was started for that.
pub(crate) fn as_ordinary_user() -> Option<ExitCode> {
    let name = std::env::var(TRIED).ok()?;
    let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
    if std::env::var_os(KVM_FOR_ALL).is_some() {
        become_ordinary_with_kvm(&directory);
    }
    let strength = STRENGTHS.into_iter().find(|(known, _)| *known == name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert!(!rustix::process::geteuid().is_root());
        match strength {
            Some((_, strength)) => {
                let store = TemplateStore::open(directory.join("templates")).unwrap();
                let template = store.default_template().unwrap().unwrap();
                let backend = jailed_qemu(template, &directory, strength).await;
                gets_no_further(&backend, Some(strength)).await;
                counts_on(&backend).await;
            }
            None => {
                assert_eq!(name, FIRECRACKER);
                let backend = confined_firecracker(&directory).await;
                gets_no_further(&backend, None).await;
                counts_on(&backend).await;
            }
        }
    });
    Some(ExitCode::SUCCESS)
}

/// Continues as an ordinary user who may use KVM: mounts a node of the device that everybody may
/// open over root's, for this process and its children. A node only works on a file system that is
/// not mounted `nodev`.
fn become_ordinary_with_kvm(directory: &Path) -> ! {
    let device = fs::metadata(KVM).unwrap().rdev();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let devices = directory.join("devices");
    fs::create_dir(&devices).unwrap();
    mount("none", &devices, "tmpfs", MountFlags::NOSUID, None).unwrap();
    let node = devices.join("kvm");
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::empty(), device).unwrap();
    // Independent of the umask.
    fs::set_permissions(&node, Permissions::from_mode(0o666)).unwrap();
    mount_bind(&node, KVM).unwrap();
    let mut ordinary = Command::new("/proc/self/exe");
    ordinary.env_remove(KVM_FOR_ALL).uid(ORDINARY).gid(ORDINARY);
    panic!("can't go on: {}", ordinary.exec())
}

/// Tests Firecracker as an ordinary user, who has no jailer.
async fn ordinary_firecracker() {
    let Real { binary, guest } = match real::firecracker().await {
        Ok(real) => real,
        Err(missing) => return skipped(missing),
    };
    if confine::landlock_version() == 0 {
        return skipped(real::unless_required(
            "there is no Landlock here".to_owned(),
        ));
    }
    let directory = anybodys();
    let (program, kernel) = (
        directory.path().join("firecracker"),
        directory.path().join("guest"),
    );
    fs::copy(&binary.path, &program).unwrap();
    fs::copy(&guest, &kernel).unwrap();
    if !rustix::process::geteuid().is_root() {
        let backend = confined_firecracker(directory.path()).await;
        return gets_no_further(&backend, None).await;
    }
    let mut child = try_as_ordinary_user(FIRECRACKER, directory.path());
    child.env(KVM_FOR_ALL, "1");
    succeeds(child).await;
}

/// Creates the backend for the copy of Firecracker in `directory`.
async fn confined_firecracker(directory: &Path) -> Backend {
    let config = config(directory);
    let template = import(directory, directory.join("guest"));
    let program = directory.join("firecracker");
    let binary = FirecrackerBinary::find(Some(&program)).await.unwrap();
    let state = [config.snapshot_path.clone(), directory.join("templates")];
    let confined = Confined::find(&program, &config.run_path, &state);
    assert_eq!(confined.why_no_stronger(), None);
    let devices = Devices::default();
    let vmm = Firecracker::new(binary, &config.run_path, None, devices).unwrap();
    backend(Arc::new(vmm.confined(confined)), template, config)
}

async fn jailed_qemu(template: Template, directory: &Path, strength: Strength) -> Backend {
    let config = config(directory);
    let binary = QemuBinary::find(config.backends.qemu.binary.as_deref())
        .await
        .unwrap();
    let jail = Jail::at_most(strength, &binary.path, config.jail_users.0.clone()).unwrap();
    assert_eq!(jail.strength(), strength, "{:?}", jail.why_no_stronger());
    let vmm = Qemu::new(binary, Accelerator::Tcg, &config.run_path)
        .unwrap()
        .jailed(jail);
    backend(Arc::new(vmm), template, config)
}

async fn firecracker() {
    let Real { binary, guest } = match real::firecracker().await {
        Ok(real) => real,
        Err(missing) => return skipped(missing),
    };
    // On one file system with the files that are linked into a jail.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = config(directory.path());
    if !rustix::process::geteuid().is_root() {
        return skipped(real::unless_required("only root can jail VMs".to_owned()));
    }
    let jailer = match Jailer::find(config.backends.firecracker.jailer.as_deref(), DEFAULT_USERS) {
        Ok(jailer) => jailer,
        Err(error) => return skipped(real::unless_required(error.to_string())),
    };
    let devices = Devices::default();
    let vmm = Firecracker::new(binary, &config.run_path, Some(jailer), devices).unwrap();
    let template = import(directory.path(), guest);
    let backend = backend(Arc::new(vmm), template, config);
    gets_no_further(&backend, None).await;
}

fn config(directory: &Path) -> Config {
    let mut config = Config::from_env().unwrap();
    config.jail = JailChoice::On;
    config.machine = Machine::new(128, 1);
    config.snapshot_path = directory.join("snapshots");
    config.run_path = directory.join("run");
    config
}

fn backend(vmm: Arc<dyn Vmm>, template: Template, config: Config) -> Backend {
    let snapshots = SnapshotStore::open(&config.snapshot_path).unwrap();
    let progress = Arc::new(|_: &_| {});
    let hypervisor = Arc::clone(&vmm);
    let launcher = Launcher::with(hypervisor, template, &config, snapshots, progress).unwrap();
    Backend::new(launcher, vmm, config)
}

/// Targets that the process must not reach.
struct Targets {
    /// A process of the same user, and another VM.
    process: u32,
    vmm: u32,
    /// A file of the same user, and a path without one.
    secret: PathBuf,
    created: PathBuf,
    run_path: PathBuf,
    memory: PathBuf,
    /// A socket on which others listen.
    socket: PathBuf,
    port: u16,
}

/// The process of a VMM.
struct Intruder<'a> {
    pid: u32,
    targets: &'a Targets,
}

type Attempt = (&'static str, fn(&Intruder<'_>) -> Outcome);

/// Attempts that Landlock and a root directory stop, and filters alone do not.
const READS: [Attempt; 6] = [
    ("read /etc/shadow", |it| {
        it.open("/etc/shadow", libc::O_RDONLY)
    }),
    ("read a file of its user", |it| {
        it.open(&it.targets.secret, libc::O_RDONLY)
    }),
    ("read its snapshot by its path", |it| {
        it.open(&it.targets.memory, libc::O_RDONLY)
    }),
    ("list other VMs", |it| {
        it.open(&it.targets.run_path, libc::O_RDONLY | libc::O_DIRECTORY)
    }),
    ("read what another process was given", |it| {
        it.open(
            format!("/proc/{}/environ", it.targets.process),
            libc::O_RDONLY,
        )
    }),
    ("read the memory of another VMM", |it| {
        it.open(format!("/proc/{}/mem", it.targets.vmm), libc::O_RDONLY)
    }),
];

/// Attempts that must fail in every jail.
const ATTEMPTS: [Attempt; 30] = [
    ("create a file", |it| {
        it.open(&it.targets.created, libc::O_WRONLY | libc::O_CREAT)
    }),
    ("create a file in its root", |it| {
        it.path(libc::SYS_creat, "/intruder")
    }),
    ("write a file of its user", |it| {
        it.open(&it.targets.secret, libc::O_WRONLY)
    }),
    ("write its snapshot by its path", |it| {
        it.open(&it.targets.memory, libc::O_RDWR)
    }),
    ("open the memory again", |it| {
        it.open("/memory", libc::O_RDWR)
    }),
    ("open the memory by the name that it was given", |it| {
        it.open("memory", libc::O_RDWR)
    }),
    ("replace the memory that it was given", |it| {
        it.path(libc::SYS_unlink, "memory")
    }),
    ("write to its own program", |it| {
        it.open("/firecracker", libc::O_WRONLY)
    }),
    ("let its own program be written", |it| {
        it.path(libc::SYS_chmod, "/firecracker")
    }),
    ("write to its snapshot", |it| {
        it.to_memory(|it, fd| {
            it.call(
                libc::SYS_pwrite64,
                &[fd, Argument::Bytes(b"x"), number(1), number(0)],
            )
        })
    }),
    ("map its snapshot to be written", |it| {
        it.to_memory(|it, fd| {
            let (mode, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let arguments = [
                number(0),
                number(4096),
                number(mode),
                number(flags),
                fd,
                number(0),
            ];
            it.call(libc::SYS_mmap, &arguments)
        })
    }),
    ("truncate its snapshot", |it| {
        it.to_memory(|it, fd| it.call(libc::SYS_ftruncate, &[fd, number(0)]))
    }),
    ("open its snapshot's descriptor to write", |it| {
        it.to_memory(|it, fd| match fd {
            Argument::Number(fd) => it.open(format!("/proc/self/fd/{fd}"), libc::O_RDWR),
            Argument::Bytes(_) => unreachable!("it is a number"),
        })
    }),
    ("remove a file of its user", |it| {
        it.path(libc::SYS_unlink, &it.targets.secret)
    }),
    ("connect to the host by TCP", |it| {
        let (family, kind) = (libc::AF_INET, libc::SOCK_STREAM);
        match it.call(libc::SYS_socket, &[number(family), number(kind), number(0)]) {
            Outcome::Returned(fd) if fd >= 0 => {
                let [high, low] = it.targets.port.to_be_bytes();
                let address = [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
                let fd = Argument::Number(fd.cast_unsigned());
                it.call(
                    libc::SYS_connect,
                    &[fd, Argument::Bytes(&address), number(16)],
                )
            }
            outcome => outcome,
        }
    }),
    ("connect to a socket of its user", |it| {
        let (family, kind) = (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
        match it.call(libc::SYS_socket, &[number(family), number(kind), number(0)]) {
            Outcome::Returned(fd) if fd >= 0 => {
                let fd = Argument::Number(fd.cast_unsigned());
                let mut address = vec![1, 0];
                address.extend(it.targets.socket.as_os_str().as_encoded_bytes());
                address.push(0);
                let length = Argument::Number(address.len() as u64);
                it.call(libc::SYS_connect, &[fd, Argument::Bytes(&address), length])
            }
            outcome => outcome,
        }
    }),
    ("abort a process of its user", |it| {
        let process = number(it.targets.process.cast_signed());
        it.call(libc::SYS_tkill, &[process, number(libc::SIGABRT)])
    }),
    ("signal a process of its user", |it| {
        it.signal(libc::SYS_kill, it.targets.process)
    }),
    ("signal another VMM", |it| {
        it.signal(libc::SYS_kill, it.targets.vmm)
    }),
    ("signal a thread of another", |it| {
        it.signal(libc::SYS_tkill, it.targets.process)
    }),
    ("open a process", |it| {
        let process = number(it.targets.process.cast_signed());
        it.call(libc::SYS_pidfd_open, &[process, number(0)])
    }),
    ("trace a process of its user", |it| {
        it.trace(it.targets.process)
    }),
    ("trace another VMM", |it| it.trace(it.targets.vmm)),
    ("outlive us", |it| {
        it.call(
            libc::SYS_prctl,
            &[number(libc::PR_SET_PDEATHSIG), number(0)],
        )
    }),
    ("make a namespace", |it| {
        it.call(libc::SYS_unshare, &[number(libc::CLONE_NEWUSER)])
    }),
    ("mount", |it| {
        let [from, to, kind] =
            [c"none", c"/", c"tmpfs"].map(|text| Argument::Bytes(text.to_bytes_with_nul()));
        it.call(libc::SYS_mount, &[from, to, kind, number(0), number(0)])
    }),
    ("become root", |it| it.call(libc::SYS_setuid, &[number(0)])),
    ("raise a limit", |it| {
        let unlimited = [0xff; 16];
        let arguments = [
            number(libc::RLIMIT_FSIZE.cast_signed()),
            Argument::Bytes(&unlimited),
        ];
        it.call(libc::SYS_setrlimit, &arguments)
    }),
    ("load a program into the kernel", |it| {
        it.call(
            libc::SYS_bpf,
            &[number(5), Argument::Bytes(&[0; 128]), number(128)],
        )
    }),
    // Last, because it may end the process.
    ("execute a program", |it| {
        it.call(
            libc::SYS_execve,
            &[Argument::Bytes(b"/bin/sh\0"), number(0), number(0)],
        )
    }),
];

fn number(value: i32) -> Argument<'static> {
    Argument::Number(i64::from(value).cast_unsigned())
}

impl Intruder<'_> {
    fn call(&self, call: i64, arguments: &[Argument<'_>]) -> Outcome {
        inject::call(self.pid, call, arguments)
    }

    fn path(&self, call: i64, path: impl AsRef<Path>) -> Outcome {
        let mut bytes = path.as_ref().as_os_str().as_encoded_bytes().to_vec();
        bytes.push(0);
        self.call(call, &[Argument::Bytes(&bytes), number(0o600)])
    }

    fn open(&self, path: impl AsRef<Path>, flags: i32) -> Outcome {
        let mut bytes = path.as_ref().as_os_str().as_encoded_bytes().to_vec();
        bytes.push(0);
        let (here, path) = (number(libc::AT_FDCWD), Argument::Bytes(&bytes));
        self.call(
            libc::SYS_openat,
            &[here, path, number(flags), number(0o600)],
        )
    }

    fn signal(&self, call: i64, process: u32) -> Outcome {
        self.call(call, &[number(process.cast_signed()), number(0)])
    }

    fn trace(&self, process: u32) -> Outcome {
        const ATTACH: i32 = 16;
        let process = number(process.cast_signed());
        self.call(
            libc::SYS_ptrace,
            &[number(ATTACH), process, number(0), number(0)],
        )
    }

    /// Returns the descriptors that it has of its snapshot's memory.
    fn memory(&self) -> Vec<u64> {
        let memory = fs::metadata(&self.targets.memory).unwrap();
        let all = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let is_memory = |path: &Path| {
            fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == (memory.dev(), memory.ino()))
        };
        all.map(|entry| entry.unwrap().path())
            .filter(|path| is_memory(path))
            .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Tries all of them; a single success counts.
    fn to_memory(&self, attempt: impl Fn(&Self, Argument<'static>) -> Outcome) -> Outcome {
        let mut all = self
            .memory()
            .into_iter()
            .map(|fd| attempt(self, Argument::Number(fd)));
        let first = all.next().unwrap_or(Outcome::Returned(-1));
        all.find(|outcome| !outcome.is_refused()).unwrap_or(first)
    }
}

async fn gets_no_further(backend: &Backend, qemu: Option<Strength>) {
    let reads = if qemu == Some(Strength::Filters) {
        &[]
    } else {
        &READS[..]
    };
    let attempts: Vec<Attempt> = reads.iter().chain(&ATTEMPTS).copied().collect();
    let Attempted { done, targets, .. } = attempt(backend, &attempts, qemu.is_some()).await;
    assert!(done.is_empty(), "not refused: {done:#?}");
    assert!(!targets.created.exists());
    assert_eq!(fs::read(&targets.secret).unwrap(), b"secret");
}

/// The attempts that were not refused.
struct Attempted {
    done: Vec<&'static str>,
    targets: Arc<Targets>,
}

/// Runs attempts in a clone, and continues in another one if the process dies of an attempt.
async fn attempt(backend: &Backend, attempts: &[Attempt], is_qemu: bool) -> Attempted {
    let snapshot = snapshot(backend).await;
    let memory = fs::read(snapshot.memory()).unwrap();
    let (other, other_guest) = restored(backend, &snapshot).await;
    let directory = backend.config.run_path.parent().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut process = Sleeper::start();
    let targets = Arc::new(Targets {
        process: process.0.id(),
        vmm: other.process().pid(),
        secret: directory.join("secret"),
        created: directory.join("created"),
        run_path: backend.config.run_path.clone(),
        memory: snapshot.memory().to_owned(),
        socket: directory.join("socket"),
        port: listener.local_addr().unwrap().port(),
    });
    fs::write(&targets.secret, "secret").unwrap();
    let _others = UnixListener::bind(&targets.socket).unwrap();
    let mut done = Vec::new();
    let mut vm: Option<Box<dyn MicroVm>> = None;
    for (what, attempt) in attempts {
        let mut taken = match vm.take() {
            Some(vm) => vm,
            None => restored(backend, &snapshot).await.0,
        };
        let (pid, targets, attempt) = (taken.process().pid(), Arc::clone(&targets), *attempt);
        let outcome = spawn_blocking(move || {
            let intruder = Intruder {
                pid,
                targets: &targets,
            };
            assert!(!is_qemu || !intruder.memory().is_empty(), "it is open");
            attempt(&intruder)
        });
        let outcome = outcome.await.unwrap();
        if !outcome.is_refused() {
            done.push(*what);
        }
        if outcome == Outcome::Killed {
            gone(taken).await;
        } else {
            // The VM works as if nothing had happened.
            taken.hold().await.unwrap();
            taken.release().await.unwrap();
            vm = Some(taken);
        }
    }
    assert!(process.0.try_wait().unwrap().is_none());
    let now = fs::read(snapshot.memory()).unwrap();
    assert!(now == memory, "the snapshot has changed");
    if let Some(vm) = vm {
        gone(vm).await;
    }
    drop(other_guest);
    gone(other).await;
    if is_qemu {
        drop(snapshot);
        backend.nothing_is_left().await;
    } else {
        // All jails are in one directory, which stays.
        let jails = backend
            .homes()
            .into_iter()
            .map(|home| fs::read_dir(home).unwrap().count());
        assert_eq!(jails.sum::<usize>(), 0);
    }
    Attempted { done, targets }
}

/// Proves without a jail that the attempts would succeed.
async fn without_a_jail() {
    let backend = match Kind::Qemu.start().await {
        Ok(backend) => backend,
        Err(missing) => return skipped(missing),
    };
    let attempts: Vec<Attempt> = READS.iter().chain(&ATTEMPTS).copied().collect();
    let Attempted { done, .. } = attempt(&backend, &attempts, true).await;
    for what in [
        "read a file of its user",
        "list other VMs",
        "create a file",
        "connect to the host by TCP",
        "connect to a socket of its user",
        "signal a process of its user",
        "abort a process of its user",
        "outlive us",
    ] {
        assert!(done.contains(&what), "{what} was refused: {done:?}");
    }
    let of_snapshot = |what: &&&str| what.contains("snapshot") && what.starts_with("write");
    assert_eq!(done.iter().find(of_snapshot), None);
    for what in ["map its snapshot to be written", "truncate its snapshot"] {
        assert!(!done.contains(&what));
    }
}

/// A process that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    /// Ignores SIGABRT, the signal that Firecracker may send: a signal sent to this process is an
    /// attempt.
    fn start() -> Self {
        let mut sleep = Command::new("sh")
            .args(["-c", "trap '' ABRT; echo; exec sleep 1000 >/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        let said = sleep.stdout.as_mut().unwrap().read_exact(&mut ready);
        said.unwrap();
        Self(sleep)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
