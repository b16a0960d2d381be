use std::fs;

use proptest::prelude::*;

use super::*;
use crate::fixture::{self, GUEST_MODULES, RELEASE};

type Graph = BTreeMap<String, Vec<String>>;

/// Returns the order of modules that all exist.
fn order(wanted: &[&str], graph: &Graph) -> Result<Vec<String>, OrderError<String>> {
    load_order(wanted, |name, _| {
        let needs = graph.get(name).cloned().ok_or_else(|| name.to_owned())?;
        Ok(Found::Module { needs })
    })
}

fn graph(edges: &[(&str, &[&str])]) -> Graph {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    edges
        .iter()
        .map(|(name, needs)| ((*name).to_owned(), owned(needs)))
        .collect()
}

#[test]
fn dependencies_load_first_and_the_rest_in_the_order_given() {
    let graph = graph(&[("a", &["c"]), ("b", &[]), ("c", &["d"]), ("d", &[])]);
    assert_eq!(order(&["b", "a"], &graph).unwrap(), ["b", "d", "c", "a"]);
}

#[test]
fn a_cycle_is_named() {
    let graph = graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
    let names = ["b", "c", "b"].map(str::to_owned).to_vec();
    assert_eq!(order(&["a"], &graph), Err(OrderError::Cycle(names)));
}

#[test]
fn a_module_that_needs_itself_is_a_cycle() {
    let graph = graph(&[("a", &["a"])]);
    let names = ["a", "a"].map(str::to_owned).to_vec();
    assert_eq!(order(&["a"], &graph), Err(OrderError::Cycle(names)));
}

proptest! {
    #[test]
    fn every_needed_module_loads_once_and_after_what_it_needs(
        // Module n may only need modules of lower numbers: no cycles.
        needs in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..30),
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let graph: Graph = needs.iter().enumerate().map(|(n, needs)| {
            let needs = needs.iter().filter(|_| n > 0).map(|need| need.index(n).to_string());
            (n.to_string(), needs.collect())
        }).collect();
        let wanted: Vec<String> = wanted.iter().map(|w| w.index(needs.len()).to_string()).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let order = order(&wanted, &graph).unwrap();

        let mut expected: BTreeSet<&str> = BTreeSet::new();
        let mut open = wanted.clone();
        while let Some(name) = open.pop() {
            if expected.insert(name) {
                open.extend(graph[name].iter().map(String::as_str));
            }
        }
        prop_assert_eq!(order.len(), expected.len());
        prop_assert!(order.iter().all(|name| expected.contains(name.as_str())));
        for (at, name) in order.iter().enumerate() {
            prop_assert!(graph[name].iter().all(|need| order[..at].contains(need)));
        }
    }
}

fn collected(modules: &[(&str, Option<&str>)]) -> Result<Vec<String>, TemplateError> {
    let directory = tempfile::tempdir().unwrap();
    fixture::modules_dir(directory.path(), modules);
    let modules = collect(directory.path(), RELEASE)?;
    Ok(modules.into_iter().map(|module| module.name).collect())
}

fn reason(result: Result<Vec<String>, TemplateError>) -> ModuleError {
    match result {
        Err(TemplateError::Modules { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_guest_channel_loads_first_and_built_in_modules_are_left_out() {
    let names = collected(&GUEST_MODULES).unwrap();
    assert_eq!(
        names[..4],
        ["virtio_ring", "virtio", "virtio_mmio", "virtio_console"]
    );
    assert_eq!(names.len(), GUEST_MODULES.len() - 1);
    assert!(!names.contains(&"ext4".to_owned()));
}

#[test]
fn a_driver_that_is_merely_welcome_is_taken_where_it_exists() {
    let modules = [GUEST_MODULES.as_slice(), &[("vmgenid", Some(""))]].concat();
    assert_eq!(collected(&modules).unwrap().last().unwrap(), "vmgenid");
}

#[test]
fn a_missing_module_is_named_with_what_needs_it() {
    let without = |name: &str| {
        let rest = GUEST_MODULES
            .into_iter()
            .filter(|(other, _)| *other != name);
        reason(collected(&rest.collect::<Vec<_>>())).to_string()
    };
    let text = without("squashfs");
    assert_eq!(text, "module squashfs is neither built in nor present");
    let text = without("virtio_ring");
    assert_eq!(
        text,
        "module virtio_ring is neither built in nor present (needed by virtio)"
    );
}

#[test]
fn compressed_modules_are_packed_uncompressed() {
    let directory = tempfile::tempdir().unwrap();
    fixture::modules_dir(directory.path(), &GUEST_MODULES);
    let plain = collect(directory.path(), RELEASE).unwrap();
    for entry in fs::read_dir(directory.path().join("kernel/drivers")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fixture::xz(&fs::read(&path).unwrap());
        fs::write(path.with_extension("ko.xz"), bytes).unwrap();
        fs::remove_file(path).unwrap();
    }
    assert_eq!(collect(directory.path(), RELEASE).unwrap(), plain);
}

#[test]
fn modules_of_another_kernel_and_other_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    fixture::modules_dir(directory.path(), &GUEST_MODULES);
    let names = |result: Result<Vec<Module>, _>| result.map(|_| Vec::new());
    let error = reason(names(collect(directory.path(), "6.2.0-other")));
    assert!(matches!(error, ModuleError::WrongRelease { .. }), "{error}");
    fs::write(
        directory.path().join("kernel/drivers/overlay.ko"),
        "no module",
    )
    .unwrap();
    let error = reason(names(collect(directory.path(), RELEASE)));
    assert_eq!(
        error,
        ModuleError::NotAModule {
            name: "overlay".to_owned()
        }
    );
}
