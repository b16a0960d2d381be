//! The properties of a host that a snapshot depends on.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The properties of a host on which a VMM's saved state depends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `model name` in `/proc/cpuinfo`.
    pub cpu_model: String,
    /// The release of the kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// The frequency of the time stamp counter in kHz; `None` if unknown.
    pub tsc_khz: Option<u32>,
}

/// The reason why the host's properties are unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A property is missing.
    #[error("{} names no {what}: snapshots could not be tied to this host", path.display())]
    Unknown {
        /// The file in which it was looked for.
        path: PathBuf,
        /// The missing property.
        what: &'static str,
    },
}

const CPUINFO: &str = "/proc/cpuinfo";
/// Reads the first processor's entry only, which has about 1.5 kB.
const CPUINFO_LIMIT: u64 = 16 << 10;

impl Host {
    /// Returns the host of this process. The caller measured or read `tsc_khz`.
    ///
    /// # Errors
    ///
    /// `/proc` is not mounted, or names no CPU model.
    pub fn current(tsc_khz: Option<u32>) -> Result<Self, HostError> {
        let unknown = |what| HostError::Unknown {
            path: CPUINFO.into(),
            what,
        };
        let cpuinfo = read_start(Path::new(CPUINFO), CPUINFO_LIMIT)?;
        let cpu_model = cpu_model(&cpuinfo).ok_or_else(|| unknown("CPU model"))?;
        let kernel_release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            cpu_model: cpu_model.to_owned(),
            kernel_release,
            tsc_khz,
        })
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim_end() == "model name")
        .map(|(_, model)| model.trim())
        .filter(|model| !model.is_empty())
}

fn read_start(path: &Path, limit: u64) -> Result<String, HostError> {
    let failed = |source| HostError::Io {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Parses a text of `/proc/cpuinfo`.
pub(crate) fn fuzz(cpuinfo: &str) {
    let _ = cpu_model(cpuinfo);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_that_of_the_first_processor() {
        let text =
            "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2: fast\n\nmodel name : X";
        assert_eq!(cpu_model(text), Some("Some CPU @ 2: fast"));
        assert_eq!(cpu_model("model name\t:  \n"), None);
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn this_host_is_the_same_when_asked_twice() {
        let host = Host::current(Some(1_000_000)).unwrap();
        assert_eq!(host, Host::current(Some(1_000_000)).unwrap());
        assert!(!host.kernel_release.is_empty());
    }
}
