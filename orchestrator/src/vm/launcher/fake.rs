//! A hypervisor for tests whose boots behave as configured.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ironclaw_protocol::VERSION;
use ironclaw_protocol::message::{Outcome, ToHost};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::template::{ImportSpec, Template, TemplateStore};
use crate::vm::guest::peer::Peer;
use crate::vm::vmm::{
    Exit, Machine, MicroVm, RestoreSpec, SavedFiles, VmSpec, Vmm, VmmError, VmmIdentity, VmmKind,
    VmmProcess,
};

/// The behaviour of a boot.
#[derive(Debug, Clone, Copy)]
pub(super) enum Boot {
    /// The agent answers.
    Answers,
    /// An agent of another release answers.
    OtherVersion,
    /// The guest never answers.
    Silent,
    /// The VMM ends by itself.
    Dies,
    /// The kernel panics, and the VMM ends with it.
    PanicsAndEnds,
    /// The same while the agent's channel is opened, which fails with it.
    PanicsAndEndsLate,
    /// The kernel panics, and the VMM continues.
    PanicsAndStays,
    /// The VMM is killed from outside.
    IsKilled,
    /// The host lacks a resource.
    Fails,
}

#[derive(Debug)]
pub(super) struct Fake {
    identity: VmmIdentity,
    boots: Mutex<VecDeque<Boot>>,
}

impl Fake {
    pub(super) fn new(boots: impl IntoIterator<Item = Boot>) -> Self {
        Self {
            identity: VmmIdentity {
                kind: VmmKind::new("fake"),
                version: "fake".to_owned(),
                accelerator: "kvm".to_owned(),
                devices: None,
            },
            boots: Mutex::new(boots.into_iter().collect()),
        }
    }

    /// Boots that are left.
    pub(super) fn left(&self) -> usize {
        self.boots().len()
    }

    fn boots(&self) -> std::sync::MutexGuard<'_, VecDeque<Boot>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates an empty template, in a directory of its own.
pub(super) fn template() -> (TempDir, Template) {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    std::fs::write(&kernel, "\x7fELF").unwrap();
    let store = TemplateStore::open(directory.path().join("templates")).unwrap();
    let spec = ImportSpec {
        kernel,
        initramfs: None,
        root_disk: None,
        boot_args: String::new(),
    };
    let template = store.import(&spec, &mut |_| {}).unwrap();
    (directory, template)
}

#[async_trait]
impl Vmm for Fake {
    fn identity(&self) -> &VmmIdentity {
        &self.identity
    }

    fn tsc_khz(&self) -> Option<u32> {
        None
    }

    async fn try_out(&self, _: Machine) -> Result<(), VmmError> {
        Ok(())
    }

    async fn boot(&self, _: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let boot = self.boots().pop_front().unwrap();
        let exit = watch::Sender::new(None);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let panics = matches!(
            boot,
            Boot::PanicsAndEnds | Boot::PanicsAndEndsLate | Boot::PanicsAndStays
        );
        let process = Arc::new(FakeProcess {
            exit,
            last_words: if panics { PANIC } else { "last words" },
            panics: matches!(boot, Boot::PanicsAndStays),
        });
        let mut vm = FakeVm {
            process: Arc::clone(&process),
            channel: Some(ours),
            _guest: None,
        };
        match boot {
            Boot::Answers => drop(tokio::spawn(answer(theirs, VERSION))),
            Boot::OtherVersion => drop(tokio::spawn(answer(theirs, VERSION + 1))),
            Boot::Silent | Boot::PanicsAndStays => vm._guest = Some(theirs),
            Boot::Dies => process.end("exit status: 1"),
            Boot::PanicsAndEnds => process.end("exit status: 0"),
            Boot::PanicsAndEndsLate => vm.channel = None,
            Boot::IsKilled => process.end("signal: 9 (SIGKILL)"),
            Boot::Fails => {
                let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(VmmError::io("make a directory for a VM")(full));
            }
        }
        Ok(Box::new(vm))
    }

    async fn restore(&self, _: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        unimplemented!("it boots only")
    }
}

async fn answer(stream: UnixStream, version: u16) {
    let mut peer = Peer::new(stream);
    peer.greet(version).await;
    while let Some(message) = peer.next().await {
        if let ironclaw_protocol::message::ToGuest::Request { id, .. } = message {
            let outcome = Outcome::Pong;
            peer.say(&ToHost::Done { id, outcome }).await;
        }
    }
}

#[derive(Debug)]
struct FakeVm {
    process: Arc<FakeProcess>,
    channel: Option<UnixStream>,
    /// The other end, of a guest that never answers.
    _guest: Option<UnixStream>,
}

#[derive(Debug)]
struct FakeProcess {
    exit: watch::Sender<Option<Exit>>,
    last_words: &'static str,
    panics: bool,
}

const PANIC: &str = "Kernel panic - not syncing: no init";

impl FakeProcess {
    fn end(&self, status: &str) {
        let exit = Exit {
            status: status.to_owned(),
            log: self.last_words.to_owned(),
            words: String::new(),
        };
        self.exit.send_modify(|end| {
            end.get_or_insert(exit);
        });
    }
}

#[async_trait]
impl MicroVm for FakeVm {
    async fn hold(&mut self) -> Result<(), VmmError> {
        Ok(())
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        Ok(())
    }

    async fn snapshot(&mut self, _: &SavedFiles) -> Result<(), VmmError> {
        Ok(())
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        self.channel.take().ok_or_else(|| {
            self.process.end("exit status: 0");
            VmmError::NoChannel
        })
    }

    fn started_in(&self) -> Duration {
        Duration::ZERO
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        Arc::clone(&self.process) as Arc<dyn VmmProcess>
    }
}

impl VmmProcess for FakeProcess {
    fn pid(&self) -> u32 {
        0
    }

    fn kill(&self) {
        self.end("signal: 9 (SIGKILL)");
    }

    fn panicked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self.panics {
            true => Box::pin(std::future::ready(())),
            false => Box::pin(std::future::pending()),
        }
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let mut exit = self.exit.subscribe();
        Box::pin(async move {
            let exit = exit.wait_for(Option::is_some).await.unwrap();
            exit.clone().unwrap()
        })
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.process.kill();
    }
}
