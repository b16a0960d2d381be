//! Parses the modules of a package and the paths that each uses, without code for tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// A library or a program.
pub(super) struct Package {
    /// Its modules by name, like `orchestrator::vm::pool`.
    pub(super) modules: BTreeMap<String, Module>,
    /// The name of the root module.
    pub(super) root: String,
}

/// A module in a file of its own.
pub(super) struct Module {
    /// The file, relative to the root of the repository.
    pub(super) file: PathBuf,
    pub(super) paths: Vec<Named>,
    /// The paths of imported names.
    pub(super) imports: BTreeMap<String, Vec<String>>,
}

/// A path and its place in the code.
pub(super) struct Named {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

impl Package {
    /// Reads the library and the program in `directory`, as far as they exist.
    pub(super) fn read_all(root: &Path, directory: &str) -> Result<Vec<Self>> {
        let mut packages = Vec::new();
        for file in ["lib.rs", "main.rs"] {
            let file = Path::new(directory).join("src").join(file);
            if !root.join(&file).is_file() {
                continue;
            }
            let mut package = Self {
                modules: BTreeMap::new(),
                root: directory.to_owned(),
            };
            let below = Path::new(directory).join("src");
            package.read(root, directory.to_owned(), file, &below)?;
            packages.push(package);
        }
        Ok(packages)
    }

    /// Reads the module `name` from `file`, and its submodules from the directory `below`.
    fn read(&mut self, root: &Path, name: String, file: PathBuf, below: &Path) -> Result<()> {
        let text = fs::read_to_string(root.join(&file))
            .with_context(|| format!("can't read {}", file.display()))?;
        let source = syn::parse_file(&text)
            .with_context(|| format!("can't understand {}", file.display()))?;
        let mut reader = Reader::default();
        for item in &source.items {
            if let Item::Use(import) = item
                && !is_for_tests(&import.attrs)
            {
                let mut leaves = Vec::new();
                flatten(&import.tree, &mut Vec::new(), &mut leaves);
                let named = leaves
                    .into_iter()
                    .filter_map(|leaf| Some((leaf.alias?, leaf.path)));
                reader.imports.extend(named);
            }
        }
        reader.visit_file(&source);
        let Reader {
            paths,
            imports,
            children,
            ..
        } = reader;
        let module = Module {
            file,
            paths,
            imports,
        };
        self.modules.insert(name.clone(), module);
        for child in children {
            let flat = below.join(format!("{child}.rs"));
            let directory = below.join(&child);
            let file = if root.join(&flat).is_file() {
                flat
            } else {
                directory.join("mod.rs")
            };
            self.read(root, format!("{name}::{child}"), file, &directory)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Reader {
    paths: Vec<Named>,
    imports: BTreeMap<String, Vec<String>>,
    children: Vec<String>,
    /// Nesting of modules written out in this file around the current code.
    depth: usize,
}

impl Reader {
    fn add(&mut self, mut segments: Vec<String>, line: usize) {
        // That many `super` only lead to the file's own module.
        for _ in 0..self.depth {
            if segments.first().is_some_and(|first| first == "super") {
                segments.remove(0);
            }
        }
        if !segments.is_empty() {
            self.paths.push(Named { segments, line });
        }
    }

    /// Finds paths in the arguments of a macro, which are bare tokens.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.found(&mut path, line);
                    }
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.found(&mut path, line);
                    colons = 0;
                    self.scan(group.stream());
                }
                _ => {
                    self.found(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.found(&mut path, line);
    }

    fn found(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add(path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_none() {
            self.children.push(item.ident.to_string());
            return;
        }
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        for leaf in leaves {
            self.add(leaf.path, leaf.line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().collect();
        if let [first, _, ..] = segments[..]
            && path.leading_colon.is_none()
        {
            let line = first.ident.span().start().line;
            let names = segments.iter().map(|segment| segment.ident.to_string());
            self.add(names.collect(), line);
        }
        visit::visit_path(self, path);
    }

    /// A visibility is no dependency.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }
}

/// One name of a `use` declaration.
struct Leaf {
    /// `None` for `*`.
    alias: Option<String>,
    path: Vec<String>,
    line: usize,
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    let mut leaf = |ident: &syn::Ident, alias: Option<&syn::Ident>| {
        let mut path = before.clone();
        let line = ident.span().start().line;
        let last = if ident == "self" && !path.is_empty() {
            path.last().cloned().unwrap_or_default()
        } else {
            path.push(ident.to_string());
            ident.to_string()
        };
        leaves.push(Leaf {
            alias: Some(alias.map_or(last, ToString::to_string)),
            path,
            line,
        });
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, leaves);
            before.pop();
        }
        UseTree::Name(name) => leaf(&name.ident, None),
        UseTree::Rename(rename) => leaf(&rename.ident, Some(&rename.rename)),
        UseTree::Glob(glob) => leaves.push(Leaf {
            alias: None,
            path: before.clone(),
            line: glob.star_token.spans[0].start().line,
        }),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, leaves);
            }
        }
    }
}

/// Returns whether it has `#[cfg(test)]`, or a condition that contains it.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        let mut words = words.split(|c: char| !c.is_alphanumeric());
        words.clone().any(|word| word == "test") && words.all(|word| word != "not")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
