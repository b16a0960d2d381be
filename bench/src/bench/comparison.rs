//! Compares the ratios of a run with committed ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ironclaw_orchestrator::vm::backends;
use ironclaw_orchestrator::vm::vmm::VmmKind;
use serde::{Deserialize, Serialize};

use super::ratios::Ratios;
use super::report::Report;

/// The factor above a committed ratio that counts as broken: machines are noisy.
pub(super) const GROSS: f64 = 2.0;

/// A file of ratios, in TOML.
#[derive(Debug)]
pub(super) struct Committed {
    path: PathBuf,
    /// A section for each VMM and accelerator, like `qemu-tcg`.
    sections: BTreeMap<String, Section>,
}

/// The ratios, and the guests for which they hold.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    memory_mib: u32,
    vcpus: u8,
    ratios: Ratios,
}

/// The result of a comparison.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) file: PathBuf,
    /// The ratios for such guests; otherwise the reason why there are none.
    #[serde(flatten)]
    pub(super) result: Outcome,
}

/// A report with its comparison.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    #[serde(flatten)]
    pub(super) report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ratios(Vec<Row>),
    Nothing { because: String },
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) measured: f64,
    pub(super) committed: f64,
    /// The factor to the committed ratio.
    pub(super) times: f64,
    /// Whether it exceeds the limit.
    pub(super) broken: bool,
}

impl Committed {
    /// Reads a file of ratios.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("can't read the ratios in {}", path.display()))?;
        Self::parse(path, &text).with_context(|| format!("{} has no ratios", path.display()))
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let sections: BTreeMap<String, Section> = toml::from_str(text)?;
        let known: Vec<_> = backends::accelerators()
            .map(|(kind, accelerator)| name(kind, accelerator))
            .collect();
        for (section_name, section) in &sections {
            ensure!(
                known.contains(section_name),
                "[{section_name}] is of no VMM: it takes one of {}",
                known.join(", ")
            );
            for (name, ratio) in section.ratios.named() {
                ensure!(
                    ratio.is_finite() && ratio > 0.0,
                    "{name} = {ratio} is not greater than 0"
                );
            }
        }
        Ok(Self {
            path: path.to_owned(),
            sections,
        })
    }

    fn section(&self, kind: &VmmKind, accelerator: &str) -> Option<Section> {
        self.sections.get(&name(kind, accelerator)).copied()
    }
}

/// Returns the section with the ratios of that VMM.
fn name(kind: &VmmKind, accelerator: &str) -> String {
    format!("{}-{accelerator}", kind.name())
}

impl Comparison {
    pub(super) fn new(committed: &Committed, report: &Report) -> Self {
        let (kind, accelerator) = (&report.vmm.kind, report.vmm.accelerator.as_str());
        let (memory_mib, vcpus) = (report.guest.memory_mib, report.guest.vcpus);
        let result = match committed.section(kind, accelerator) {
            Some(section) if (section.memory_mib, section.vcpus) == (memory_mib, vcpus) => {
                Outcome::Ratios(rows(&report.ratios, &section.ratios))
            }
            Some(section) => Outcome::Nothing {
                because: format!(
                    "its ratios are of guests of {} MiB and {} vCPU, and these have {memory_mib} \
                     MiB and {vcpus} vCPU",
                    section.memory_mib, section.vcpus
                ),
            },
            None => Outcome::Nothing {
                because: format!("it has no ratios of {kind} with {accelerator}"),
            },
        };
        Self {
            file: committed.path.clone(),
            result,
        }
    }

    /// Returns whether a ratio grossly exceeds the committed one.
    pub(super) fn is_broken(&self) -> bool {
        match &self.result {
            Outcome::Ratios(rows) => rows.iter().any(|row| row.broken),
            Outcome::Nothing { .. } => false,
        }
    }
}

fn rows(measured: &Ratios, committed: &Ratios) -> Vec<Row> {
    let pairs = measured.named().into_iter().zip(committed.named());
    pairs
        .map(|((name, measured), (_, committed))| {
            let times = measured / committed;
            Row {
                name,
                measured,
                committed,
                times,
                broken: times > GROSS,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fixture::report;

    /// The file of this repository.
    const FILE: &str = include_str!("../../../docs/bench-ratios.toml");

    fn parse(text: &str) -> Result<Committed> {
        Committed::parse(Path::new("ratios.toml"), text)
    }

    #[test]
    fn the_committed_file_has_what_ci_compares_with() {
        let section = parse(FILE)
            .unwrap()
            .section(&VmmKind::new("QEMU"), "tcg")
            .unwrap();
        assert_eq!((section.memory_mib, section.vcpus), (128, 1));
    }

    #[test]
    fn a_slip_in_the_file_is_named_with_its_place() {
        for (from, to, said) in [
            ("warm_of_floor", "warm_of_flor", "warm_of_flor"),
            ("qemu-tcg", "qemu-tgc", "qemu-tgc"),
            ("vcpus = 1", "vcpus = \"one\"", "vcpus"),
            ("warm_of_floor = 1", "warm_of_floor = -1", "warm_of_floor"),
        ] {
            assert!(FILE.contains(from), "{from}");
            let error = parse(&FILE.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{from}: {error:#}");
        }
    }

    /// Returns a file with the ratios of `report()`, all multiplied by `factor`.
    fn committed(factor: f64) -> Committed {
        let ratios = report().ratios.named();
        let lines = ratios.map(|(name, ratio)| format!("{name} = {:.9}", ratio * factor));
        let text = format!(
            "[qemu-tcg]\nmemory_mib = 128\nvcpus = 1\n[qemu-tcg.ratios]\n{}",
            lines.join("\n")
        );
        parse(&text).unwrap()
    }

    #[test]
    fn only_more_than_twice_the_committed_ratio_is_broken() {
        for (factor, broken) in [(10.0, false), (1.0, false), (0.51, false), (0.49, true)] {
            let comparison = Comparison::new(&committed(factor), &report());
            assert_eq!(comparison.is_broken(), broken, "{factor}");
        }
    }

    #[test]
    fn a_single_broken_ratio_breaks_and_is_named() {
        let mut worse = report();
        worse.ratios.warm_of_restored *= 2.5;
        let comparison = Comparison::new(&committed(1.0), &worse);
        assert!(comparison.is_broken());
        let Outcome::Ratios(rows) = comparison.result else {
            panic!("nothing was compared");
        };
        let names: Vec<_> = rows.iter().filter(|row| row.broken).collect();
        assert!(matches!(names[..], [row] if row.name == "warm_of_restored"));
    }

    #[test]
    fn guests_of_another_size_and_other_vmms_are_not_compared_and_the_reason_is_said() {
        let (mut larger, mut other) = (report(), report());
        larger.guest.memory_mib = 512;
        other.vmm.kind = VmmKind::new("Firecracker");
        other.vmm.accelerator = "kvm".to_owned();
        for (report, said) in [(larger, "512 MiB"), (other, "Firecracker")] {
            // These ratios would break it.
            let comparison = Comparison::new(&committed(0.1), &report);
            assert!(!comparison.is_broken());
            let Outcome::Nothing { because } = comparison.result else {
                panic!("{said} was compared");
            };
            assert!(because.contains(said), "{because}");
        }
    }
}
