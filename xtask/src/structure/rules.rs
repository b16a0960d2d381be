//! Rules for the dependencies between modules.

use std::collections::BTreeSet;

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::arrows::Arrow;

/// A rule: the siblings that a module and its submodules may use.
pub(super) struct Rule {
    /// For example `orchestrator::vm::vmm`.
    pub(super) module: &'static str,
    pub(super) uses: Uses,
}

pub(super) enum Uses {
    /// Only these.
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

/// A known violation: a dependency of one module on another. For a [`Rule`], from its module or a
/// submodule to a sibling or a submodule of that.
pub(super) type Known = (&'static str, &'static str);

/// Returns dependencies that break a rule and are not known.
pub(super) fn forbidden(arrows: &[Arrow], rules: &[Rule], known: &[Known]) -> Vec<String> {
    let breaks = arrows.iter().filter_map(|arrow| {
        let rule = rules.iter().find(|rule| rule.is_broken_by(arrow))?;
        let is_known = known.iter().any(|known| rule.covers(arrow, *known));
        (!is_known).then(|| offence(arrow, &rule.to_string()))
    });
    breaks.collect()
}

/// Returns dependencies that are part of a circle, without the known ones.
pub(super) fn circles(arrows: &[Arrow], known: &[Known]) -> Vec<String> {
    let unknown = |arrow: &&Arrow| !known.iter().any(|known| is(arrow, *known));
    let unknown: Vec<_> = arrows.iter().filter(unknown).collect();
    let circles = components(unknown.iter().map(|arrow| (&*arrow.from, &*arrow.to)));
    let mut offences = Vec::new();
    for circle in circles {
        let names: Vec<_> = circle.iter().copied().collect();
        let rule = format!("modules use each other in no circle: {}", names.join(", "));
        let parts = unknown.iter().filter(|arrow| {
            circle.contains(arrow.from.as_str()) && circle.contains(arrow.to.as_str())
        });
        offences.extend(parts.map(|arrow| offence(arrow, &rule)));
    }
    offences
}

/// Returns known violations that no longer exist, or break no rule.
pub(super) fn unneeded(
    arrows: &[Arrow],
    rules: &[Rule],
    forbidden: &[Known],
    circles: &[Known],
) -> Vec<String> {
    let text = |(from, to): &Known, list: &str| {
        format!(
            "xtask/src/structure/known.rs: {from} -> {to} breaks no rule any more: take it out of \
             {list}"
        )
    };
    let breaks = |known: &&Known| {
        let breaks = |arrow: &Arrow| {
            let mut rules = rules.iter();
            rules.any(|rule| rule.covers(arrow, **known) && rule.is_broken_by(arrow))
        };
        arrows.iter().any(breaks)
    };
    let closes = |known: &&Known| {
        let others = arrows
            .iter()
            .filter(|arrow| is(arrow, **known) || !circles.iter().any(|known| is(arrow, *known)));
        let all = components(others.map(|arrow| (&*arrow.from, &*arrow.to)));
        let (from, to) = known;
        let is_there = arrows.iter().any(|arrow| is(arrow, **known));
        is_there
            && all
                .iter()
                .any(|circle| circle.contains(from) && circle.contains(to))
    };
    let forbidden = forbidden.iter().filter(|known| !breaks(known));
    let circles = circles.iter().filter(|known| !closes(known));
    let forbidden = forbidden.map(|known| text(known, "FORBIDDEN"));
    forbidden
        .chain(circles.map(|known| text(known, "CIRCLES")))
        .collect()
}

/// Returns the strongly connected components of more than one module.
fn components<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<BTreeSet<&'a str>> {
    let graph: DiGraphMap<&str, ()> = pairs.collect();
    let components = tarjan_scc(&graph).into_iter();
    components
        .filter(|component| component.len() > 1)
        .map(|component| component.into_iter().collect())
        .collect()
}

fn is(arrow: &Arrow, (from, to): Known) -> bool {
    arrow.from == from && arrow.to == to
}

/// Formats a violation as compilers format errors.
fn offence(arrow: &Arrow, rule: &str) -> String {
    let Arrow {
        from,
        to,
        file,
        line,
    } = arrow;
    format!("{}:{line}: {from} uses {to}, but {rule}", file.display())
}

impl Rule {
    fn is_broken_by(&self, arrow: &Arrow) -> bool {
        let Some((parent, _)) = self.module.rsplit_once("::") else {
            return false;
        };
        if !is_within(&arrow.from, self.module) || is_within(&arrow.to, self.module) {
            return false;
        }
        let Some(below) = arrow.to.strip_prefix(parent) else {
            return false;
        };
        let sibling = below.trim_start_matches("::").split("::").next();
        let sibling = sibling.unwrap_or_default();
        match self.uses {
            Uses::Only(names) => !names.contains(&sibling),
            Uses::AllBut(names) => names.contains(&sibling),
        }
    }
}

impl Rule {
    /// Returns whether `known` stands for this dependency.
    fn covers(&self, arrow: &Arrow, (from, to): Known) -> bool {
        self.module == from && is_within(&arrow.from, from) && is_within(&arrow.to, to)
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let module = self.module;
        match self.uses {
            Uses::Only(names) => write!(f, "{module} uses only {}", names.join(", ")),
            Uses::AllBut(names) => write!(f, "{module} does not use {}", names.join(", ")),
        }
    }
}

/// Returns whether it is `module` or one of its submodules.
fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrow(from: &str, to: &str) -> Arrow {
        Arrow {
            from: from.to_owned(),
            to: to.to_owned(),
            file: "a.rs".into(),
            line: 7,
        }
    }

    const RULES: &[Rule] = &[
        Rule {
            module: "p::vm::vmm",
            uses: Uses::Only(&["spec"]),
        },
        Rule {
            module: "p::vm::pool",
            uses: Uses::AllBut(&["qemu"]),
        },
    ];

    #[test]
    fn a_violation_is_reported_with_its_place_and_the_rule() {
        let arrows = [
            arrow("p::vm::vmm::deep", "p::vm::config"),
            arrow("p::vm::vmm", "p::vm::spec::plain"),
            arrow("p::vm::vmm", "p::vm::vmm::deep"),
            arrow("p::vm::vmm_like", "p::vm::config"),
            arrow("p::vm::pool", "p::vm::qemu::jail"),
            arrow("p::vm::pool", "p::vm::config"),
        ];
        assert_eq!(
            forbidden(&arrows, RULES, &[]),
            [
                "a.rs:7: p::vm::vmm::deep uses p::vm::config, but p::vm::vmm uses only spec",
                "a.rs:7: p::vm::pool uses p::vm::qemu::jail, but p::vm::pool does not use qemu",
            ]
        );
        let known = [
            ("p::vm::vmm", "p::vm::config"),
            ("p::vm::pool", "p::vm::qemu"),
        ];
        assert!(forbidden(&arrows, RULES, &known).is_empty());
        assert!(unneeded(&arrows, RULES, &known, &[]).is_empty());
    }

    #[test]
    fn every_arrow_of_a_circle_is_told_and_none_beside_it() {
        let arrows = [
            arrow("p::a", "p::b"),
            arrow("p::b", "p::c"),
            arrow("p::c", "p::a"),
            arrow("p::c", "p::d"),
        ];
        let told = circles(&arrows, &[]);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("a.rs:7: p::a uses p::b"), "{told:?}");
        assert!(told[0].ends_with("circle: p::a, p::b, p::c"), "{told:?}");
        assert!(circles(&arrows, &[("p::c", "p::a")]).is_empty());
    }

    #[test]
    fn a_stale_exception_is_an_error() {
        let arrows = [arrow("p::a", "p::b"), arrow("p::b", "p::a")];
        let needed = [("p::b", "p::a")];
        assert!(unneeded(&arrows, RULES, &[], &needed).is_empty());
        for (forbidden, circles) in [
            (&[("p::vm::vmm", "p::vm::config")][..], &needed[..]),
            (&[], &[("p::b", "p::a"), ("p::a", "p::c")]),
            (&[], &[("p::b", "p::c")]),
        ] {
            let told = unneeded(&arrows, RULES, forbidden, circles);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("take it out of"), "{told:?}");
        }
    }
}
