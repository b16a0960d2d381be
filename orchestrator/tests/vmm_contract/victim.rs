//! A process to kill: does everything that a pool can do, again and again.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use ironclaw_orchestrator::vm::{Pool, PoolOptions};

use crate::backend::Kind;

/// Set to make this program the victim.
const KIND: &str = "IRONCLAW_TEST_VICTIM";
const DIRECTORY: &str = "IRONCLAW_TEST_VICTIM_DIRECTORY";
/// Printed when its pool is full, and when it has done everything once.
pub(crate) const FULL: &str = "full";
pub(crate) const ROUND: &str = "round";

/// The directory and the backend of a victim.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) kind: Kind,
    pub(crate) directory: PathBuf,
}

/// Returns the options of victims and their successors: the smallest pool that covers everything.
pub(crate) fn options(kind: Kind) -> PoolOptions {
    let size = if kind == Kind::Qemu { 1 } else { 2 };
    PoolOptions::new(size)
}

impl Life {
    pub(crate) fn from_env() -> Option<Self> {
        let name = std::env::var(KIND).ok()?;
        let directory = std::env::var_os(DIRECTORY)?;
        Some(Self {
            kind: Kind::ALL.into_iter().find(|kind| kind.name() == name)?,
            directory: directory.into(),
        })
    }

    /// Starts another process with these. It ends by itself when its standard input does.
    pub(crate) fn start(&self) -> Child {
        let settings: [(&str, OsString); 2] = [
            (KIND, self.kind.name().into()),
            (DIRECTORY, self.directory.clone().into()),
        ];
        Command::new(std::env::current_exe().unwrap())
            .envs(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn live(self) -> ExitCode {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::abort();
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.work())
    }

    async fn work(self) -> ExitCode {
        let backend = self.kind.start_in(&self.directory).await.unwrap();
        let pool = Pool::open(backend.launcher.clone(), options(self.kind)).await;
        let pool = pool.unwrap();
        loop {
            pool.warmup().await.unwrap();
            println!("{FULL}");
            let warm = pool.spawn("warm").await.unwrap();
            // The pool has not restored warm clones yet.
            let restored = pool.spawn("restored").await.unwrap();
            drop(warm);
            restored.destroy().await.unwrap();
            pool.refresh().await.unwrap();
            println!("{ROUND}");
        }
    }
}
