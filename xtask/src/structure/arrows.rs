//! Finds the dependencies between modules.

use std::path::PathBuf;

use super::modules::Package;

/// A dependency: one module uses an item defined in another of its package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    /// For example `orchestrator::vm::pool`.
    pub(super) from: String,
    pub(super) to: String,
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

/// Limit of the re-exports followed for one name, against endless circles.
const MAX_IMPORTS: usize = 16;

/// Returns all dependencies, once for each place in the code.
pub(super) fn arrows(package: &Package) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for (from, module) in &package.modules {
        for path in &module.paths {
            match resolve(package, from, &path.segments, MAX_IMPORTS) {
                Some(to) if to != *from => arrows.push(Arrow {
                    from: from.clone(),
                    to,
                    file: module.file.clone(),
                    line: path.line,
                }),
                _ => {}
            }
        }
    }
    arrows.sort();
    arrows.dedup();
    arrows
}

/// Returns the module that defines the item named by `segments` in the module `from`; `None` for
/// another package.
fn resolve(package: &Package, from: &str, segments: &[String], depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let (first, rest) = segments.split_first()?;
    match first.as_str() {
        "crate" => Some(descend(package, package.root.clone(), rest, depth)?),
        "self" => descend(package, from.to_owned(), rest, depth),
        "super" => {
            let (mut module, mut rest) = (parent(from)?, rest);
            while let Some((first, others)) = rest.split_first()
                && first == "super"
            {
                module = parent(module)?;
                rest = others;
            }
            descend(package, module.to_owned(), rest, depth)
        }
        name => {
            let child = format!("{from}::{name}");
            if package.modules.contains_key(&child) {
                return descend(package, child, rest, depth);
            }
            let import = package.modules.get(from)?.imports.get(name)?;
            // A crate that has the same name as the import.
            if import.first() == Some(first) {
                return None;
            }
            let path: Vec<_> = import.iter().chain(rest).cloned().collect();
            resolve(package, from, &path, depth)
        }
    }
}

/// Resolves `segments` below `module`.
fn descend(
    package: &Package,
    mut module: String,
    mut segments: &[String],
    depth: usize,
) -> Option<String> {
    while let Some((first, rest)) = segments.split_first() {
        let child = format!("{module}::{first}");
        if package.modules.contains_key(&child) {
            (module, segments) = (child, rest);
            continue;
        }
        let Some(import) = package.modules.get(&module)?.imports.get(first) else {
            break;
        };
        let path: Vec<_> = import.iter().chain(rest).cloned().collect();
        return resolve(package, &module, &path, depth);
    }
    Some(module)
}

fn parent(module: &str) -> Option<&str> {
    Some(module.rsplit_once("::")?.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Lists the dependencies of a package with these files, as `from:line -> to`.
    fn of(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, source) in files {
            let path = root.path().join("p/src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, source).unwrap();
        }
        let packages = Package::read_all(root.path(), "p").unwrap();
        let all = packages.iter().flat_map(arrows);
        all.map(|Arrow { from, to, line, .. }| format!("{from}:{line} -> {to}"))
            .collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a;\nmod b;\npub use b::Shown;\n");

    #[test]
    fn an_arrow_leads_to_where_a_name_is_defined_however_it_is_written() {
        for (line, to) in [
            ("use crate::b::B;", "p::b"),
            ("use super::b::{self, B};", "p::b"),
            ("use super::{b::B as C, b};", "p::b"),
            ("use super::b::*;", "p::b"),
            ("fn f() -> crate::b::B { todo!() }", "p::b"),
            ("fn f() { println!(\"{}\", crate::b::g()); }", "p::b"),
            ("use crate::Shown;", "p::b"),
            ("use crate::Own;", "p"),
            ("mod inner { use super::super::b::B; }", "p::b"),
            ("impl super::b::Trait for () {}", "p::b"),
        ] {
            let b = ("b.rs", "pub struct B;\n");
            let found = of(&[ROOT, ("a.rs", &format!("\n{line}\n")), b]);
            let expected = format!("p::a:2 -> {to}");
            assert!(found.contains(&expected), "{line}: {found:?}");
            assert!(
                found
                    .iter()
                    .all(|arrow| !arrow.starts_with("p::a") || *arrow == expected),
                "{line}: {found:?}"
            );
        }
    }

    #[test]
    fn tests_other_packages_and_where_a_name_is_seen_are_no_arrows() {
        for source in [
            "#[cfg(test)]\nmod tests { use crate::b::B; }",
            "#[cfg(test)]\nuse crate::b::B;",
            "use std::fs::File;\nfn f() -> std::io::Error { todo!() }",
            "pub(in crate::b) struct A;",
            "#[cfg(test)]\nmod tests;",
        ] {
            let found = of(&[ROOT, ("a.rs", source), ("b.rs", "")]);
            assert_eq!(found, ["p:3 -> p::b"], "{source}");
        }
    }

    #[test]
    fn modules_in_directories_are_found_with_their_names() {
        let found = of(&[
            ("lib.rs", "mod vm;\n"),
            ("vm/mod.rs", "mod pool;\npub mod vmm;\n"),
            ("vm/pool.rs", "mod slots;\n"),
            (
                "vm/pool/slots.rs",
                "use crate::vm::vmm::Vmm;\nuse super::Core;\n",
            ),
            ("vm/vmm.rs", ""),
        ]);
        assert_eq!(
            found,
            [
                "p::vm::pool::slots:2 -> p::vm::pool",
                "p::vm::pool::slots:1 -> p::vm::vmm",
            ]
        );
    }
}
