//! Lists the files of a commit. Trees are input from people: depth and number of entries are bounded, and what is no plain
//! file is refused by name.

use git2::{ObjectType, Oid, Repository};

use crate::adapter::git::failed;
use crate::journal::record::Mend;
use crate::port::{PortError, Tree, TreeFile};

/// How deep folders may be nested: far deeper than people nest them, and the recursion stays small.
const DEPTH_MAX: usize = 32;
/// How many entries are looked at: an order of magnitude above the largest repositories of plans (10,000 VMs).
const ENTRIES_MAX: usize = 200_000;

const MODE_KIND: i32 = 0o170_000;
const MODE_FILE: i32 = 0o100_000;
const MODE_FOLDER: i32 = 0o040_000;
const MODE_LINK: i32 = 0o120_000;
const MODE_SUBMODULE: i32 = 0o160_000;

/// Lists the manifests of a commit below a folder. Files and folders whose name starts with a dot (`.github`) are not
/// manifests.
pub(super) fn list(repository: &Repository, commit: Oid, below: &str) -> Result<Tree, PortError> {
    let mut walk =
        Walk { repository, tree: Tree::default(), blobs: Vec::new(), seen: 0, select: is_manifest };
    let root = match root(repository, commit, below)? {
        Root::Folder(root) => root,
        Root::Missing(reason) => {
            return Ok(Tree { files: Vec::new(), refused: vec![(below.to_owned(), reason)] });
        }
    };
    walk.folder(&root, "", 0)?;
    let Walk { mut tree, blobs, .. } = walk;
    tree.files =
        blobs.into_iter().map(|(path, blob)| TreeFile { path, blob: blob.to_string() }).collect();
    tree.files.sort_by(|one, other| one.path.cmp(&other.path));
    tree.refused.sort();
    Ok(tree)
}

/// Lists all plain files of a commit below a folder, with their blobs.
pub(super) fn files(
    repository: &Repository,
    commit: Oid,
    below: &str,
) -> Result<Vec<(String, Oid)>, PortError> {
    let mut walk =
        Walk { repository, tree: Tree::default(), blobs: Vec::new(), seen: 0, select: |_| true };
    if let Root::Folder(root) = root(repository, commit, below)? {
        walk.folder(&root, "", 0)?;
    }
    Ok(walk.blobs)
}

/// Tells by a file's name whether it is a manifest.
pub(super) fn is_manifest(name: &[u8]) -> bool {
    !is_hidden(name) && (name.ends_with(b".yaml") || name.ends_with(b".yml"))
}

/// Tells by its name whether a file or folder is left alone.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
}

enum Root<'a> {
    Folder(git2::Tree<'a>),
    Missing(String),
}

fn root<'a>(repository: &'a Repository, commit: Oid, below: &str) -> Result<Root<'a>, PortError> {
    let unreadable =
        |error: git2::Error| failed(&format!("cannot read the commit {commit}"), &error);
    let mut tree =
        repository.find_commit(commit).and_then(|commit| commit.tree()).map_err(unreadable)?;
    // Step by step: libgit2's own path lookup would not say which part is missing or a link.
    for part in below.split('/').filter(|part| !part.is_empty()) {
        let Some((kind, id)) = tree.get_name(part).map(|entry| (entry.kind(), entry.id())) else {
            return Ok(Root::Missing(format!("the commit {commit} holds no folder `{below}`")));
        };
        if kind != Some(ObjectType::Tree) {
            return Ok(Root::Missing(format!("`{part}` of `{below}` is no folder in {commit}")));
        }
        tree = repository.find_tree(id).map_err(unreadable)?;
    }
    Ok(Root::Folder(tree))
}

struct Walk<'a> {
    repository: &'a Repository,
    tree: Tree,
    blobs: Vec<(String, Oid)>,
    seen: usize,
    select: fn(&[u8]) -> bool,
}

impl Walk<'_> {
    fn folder(
        &mut self,
        folder: &git2::Tree<'_>,
        path: &str,
        depth: usize,
    ) -> Result<(), PortError> {
        if depth > DEPTH_MAX {
            self.refuse(path.to_owned(), "folders are nested too deep");
            return Ok(());
        }
        for entry in folder {
            self.seen += 1;
            if self.seen > ENTRIES_MAX {
                return Err(PortError::lasting(
                    format!("the commit holds more than {ENTRIES_MAX} files and folders"),
                    "keep plans in a repository of their own, or set `repository.path`",
                    Mend::Person,
                ));
            }
            self.entry(&entry, path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &git2::TreeEntry<'_>,
        folder: &str,
        depth: usize,
    ) -> Result<(), PortError> {
        let bytes = entry.name_bytes();
        let name = String::from_utf8_lossy(bytes);
        let path = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let selected = (self.select)(bytes);
        let kind = entry.filemode_raw() & MODE_KIND;
        if is_hidden(bytes) && !selected && name != "." && name != ".." {
            return Ok(());
        }
        match kind {
            MODE_LINK => self.refuse(path, "it is a symbolic link; commit the file itself"),
            MODE_SUBMODULE => self.refuse(path, "it is a submodule; commit its files themselves"),
            MODE_FILE if !selected => {}
            MODE_FILE | MODE_FOLDER if std::str::from_utf8(bytes).is_err() => {
                self.refuse(path, "its name is not UTF-8; rename it");
            }
            MODE_FILE | MODE_FOLDER if is_odd(&name) => {
                self.refuse(path, "no file system takes it by that name; rename it");
            }
            MODE_FILE => self.blobs.push((path, entry.id())),
            MODE_FOLDER => match self.repository.find_tree(entry.id()) {
                Ok(tree) => self.folder(&tree, &path, depth + 1)?,
                // A folder that cannot be read is not a folder without manifests (safety rule 15).
                Err(error) => {
                    return Err(failed(&format!("cannot read the folder {path}"), &error));
                }
            },
            _ => self.refuse(path, "it is neither file nor folder"),
        }
        Ok(())
    }

    fn refuse(&mut self, path: String, reason: &str) {
        self.tree.refused.push((path, reason.to_owned()));
    }
}

/// Only a tree that was made by hand holds such a name.
fn is_odd(name: &str) -> bool {
    name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\'])
}
