//! Edits of manifests in a work tree, for `migrate` and `cancel`: find, write, show, commit. Git stays the only way in.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use owo_colors::OwoColorize;
use similar::{ChangeTag, TextDiff};

use crate::adapter::git::Place;
use crate::adapter::git::commit::WorkTree;
use crate::cli::settings::{Flags, Settings, personal_git_files};
use crate::cli::{Global, answer, explained, tell};
use crate::domain::text::visible;
use crate::manifest::edit::{Outline, number_of, outline};

/// As deep as the reader of commits goes.
const DEPTH_MAX: usize = 32;
/// How much two names must be alike to be taken for a slip.
const ALIKE: f32 = 0.6;

/// What commands that edit manifests take.
#[derive(Debug, clap::Args)]
pub(super) struct EditFlags {
    #[command(flatten)]
    flags: Flags,
    /// Commit exactly this file on the checked-out branch
    #[arg(long)]
    commit: bool,
    /// Commit it, and push that commit to the remote's branch of the same name
    #[arg(long)]
    push: bool,
}

/// The manifests of a work tree.
#[derive(Debug)]
pub(super) struct Plans {
    tree: WorkTree,
    watched: String,
    files: Vec<ManifestFile>,
}

/// One file.
#[derive(Debug)]
pub(super) struct ManifestFile {
    /// Its path below the work tree.
    path: PathBuf,
    /// What it holds.
    pub(super) text: String,
    /// Its documents.
    pub(super) outline: Vec<Outline>,
}

impl Plans {
    /// Reads the work tree that the settings name.
    pub(super) fn open(global: &Global, edit: &EditFlags) -> anyhow::Result<Self> {
        let settings = Settings::resolve(global, &edit.flags)?;
        let place = match settings.repository()? {
            Place::Folder(folder) => folder,
            Place::Remote(remote) => bail!(
                "{} is on another machine, where no file can be edited … hint: clone it and name the clone with `--repo`",
                remote.url
            ),
        };
        let Some(tree) = WorkTree::open(place).map_err(explained)? else {
            bail!(
                "{} is a bare repository, in which no file can be edited … hint: clone it and name the clone with `--repo`",
                place.display()
            );
        };
        let mut reader =
            Reader { tree: &tree, limit: settings.manifest_bytes.0, files: Vec::new() };
        reader.folder(Path::new(&settings.below), 0)?;
        let Reader { mut files, .. } = reader;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Self { tree, watched: settings.branch, files })
    }

    /// Finds a plan, or says which ones there are.
    pub(super) fn plan(&self, name: &str) -> anyhow::Result<(&ManifestFile, &Outline)> {
        let plans = || self.documents().filter(|(_, document)| document.kind == "Plan");
        if let Some(found) = plans().find(|(_, document)| document.name == name) {
            return Ok(found);
        }
        let names: Vec<_> = plans().map(|(_, document)| document.name.as_str()).collect();
        bail!("there is no Plan `{name}`{}", did_you_mean(name, &names));
    }

    /// Lists the migrations of a plan.
    pub(super) fn migrations(&self, plan: &str) -> Vec<(&ManifestFile, &Outline)> {
        self.documents()
            .filter(|(_, found)| found.kind == "Migration" && found.plan.as_deref() == Some(plan))
            .collect()
    }

    /// Finds the migration that is meant: the named one, else the plan's last.
    pub(super) fn migration(
        &self,
        plan: &str,
        named: Option<&str>,
    ) -> anyhow::Result<(&ManifestFile, &str)> {
        let migrations = self.migrations(plan);
        let outlines: Vec<_> = migrations.iter().map(|(_, found)| *found).collect();
        let name = choose(plan, &outlines, named)?;
        let found = migrations.into_iter().find(|(_, found)| found.name == name);
        Ok(found.map(|(file, outline)| (file, outline.name.as_str())).expect("it is one of them"))
    }

    /// Lists all documents.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&ManifestFile, &Outline)> {
        self.files.iter().flat_map(|file| file.outline.iter().map(move |document| (file, document)))
    }

    /// Writes a file, prints what changed, and commits it where that was asked for.
    pub(super) fn write(
        &self,
        edit: &EditFlags,
        file: &ManifestFile,
        text: &str,
        message: &str,
    ) -> anyhow::Result<()> {
        let path = self.tree.root().join(&file.path);
        // Everything that can refuse is asked before anything is written.
        let commit = if edit.commit || edit.push {
            let branch = self.tree.committable(&file.path)?;
            let push = edit.push.then(|| self.tree.pushable(&branch, &self.watched)).transpose()?;
            Some((branch, self.tree.author(&personal_git_files())?, push))
        } else {
            None
        };
        replace(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        answer(&diff(&file.path.display().to_string(), &file.text, text));
        let Some((branch, author, push)) = commit else {
            tell(&format!("written, not committed: it counts once it is on `{}`", self.watched));
            return Ok(());
        };
        let id = self.tree.commit(&file.path, message, &author)?;
        let short = id.get(..12).unwrap_or(&id);
        if branch == self.watched {
            tell(&format!("committed as {short} on `{branch}`"));
        } else {
            tell(&format!(
                "committed as {short} on `{branch}`: it counts once it is on `{}`",
                self.watched
            ));
        }
        if let Some(to) = push {
            self.tree.push(&id, &to)?;
            tell(&format!("pushed to {to}"));
        }
        Ok(())
    }
}

/// Says which of the names was probably meant, else all of them.
pub(super) fn did_you_mean(word: &str, names: &[&str]) -> String {
    match similar::get_close_matches(word, names, 1, ALIKE).first() {
        Some(name) => format!(" … hint: did you mean `{name}`?"),
        None if names.is_empty() => " … hint: there are none".to_owned(),
        None => format!(" … hint: there are {}", names.join(", ")),
    }
}

/// Chooses the migration that is meant; what cannot be told is asked.
fn choose<'a>(
    plan: &str,
    migrations: &[&'a Outline],
    named: Option<&str>,
) -> anyhow::Result<&'a str> {
    let names: Vec<_> = migrations.iter().map(|found| found.name.as_str()).collect();
    if let Some(named) = named {
        return match names.iter().find(|name| **name == named) {
            Some(name) => Ok(name),
            None => {
                bail!("the plan `{plan}` has no Migration `{named}`{}", did_you_mean(named, &names))
            }
        };
    }
    match names.as_slice() {
        [] => bail!("the plan `{plan}` has no Migration, so nothing of it moves"),
        [name] => Ok(name),
        // Names that `ferry migrate` gave tell which is the last.
        several if several.iter().all(|name| number_of(plan, name).is_some()) => {
            let last = several.iter().max_by_key(|name| number_of(plan, name));
            Ok(last.expect("there are several"))
        }
        several => bail!(
            "the plan `{plan}` has several Migrations … hint: choose one with `--migration`: {}",
            several.join(", ")
        ),
    }
}

struct Reader<'a> {
    tree: &'a WorkTree,
    limit: u64,
    files: Vec<ManifestFile>,
}

impl Reader<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> anyhow::Result<()> {
        let path = self.tree.root().join(folder);
        let entries = std::fs::read_dir(&path);
        for entry in entries.with_context(|| format!("cannot read {}", path.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // As commits are read: what starts with a dot is no manifest, links are not followed.
            if name.starts_with('.') {
                continue;
            }
            let below = folder.join(name.as_ref());
            let kind =
                entry.file_type().with_context(|| format!("cannot read {}", below.display()))?;
            if kind.is_dir() && depth < DEPTH_MAX {
                self.folder(&below, depth + 1)?;
            } else if kind.is_file() && (name.ends_with(".yaml") || name.ends_with(".yml")) {
                self.file(below);
            }
        }
        Ok(())
    }

    /// A file that cannot be read is said and passed over: it must not keep people from the others.
    fn file(&mut self, path: PathBuf) {
        let mut text = String::new();
        let read = File::open(self.tree.root().join(&path))
            .and_then(|file| file.take(self.limit + 1).read_to_string(&mut text));
        let refused = match read {
            Err(error) => error.to_string(),
            Ok(read) if u64::try_from(read).map_or(true, |read| read > self.limit) => {
                format!("it is larger than {} bytes", self.limit)
            }
            Ok(_) => match outline(&text) {
                Ok(outline) => {
                    self.files.push(ManifestFile { path, text, outline });
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        tell(&format!("passed over: {}: {refused}", visible(&path.display().to_string())));
    }
}

/// Puts a new file in the place of the old one, whole or not at all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.ferry"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(std::fs::metadata(path)?.permissions())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        // The error that is returned is the one that matters.
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Shows an edit as a unified diff. The colours are taken out again where nobody sees them.
fn diff(path: &str, old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    let path = visible(path);
    let mut shown = format!("--- a/{path}\n+++ b/{path}\n");
    for hunk in diff.unified_diff().iter_hunks() {
        shown.push_str(&format!("{}\n", hunk.header()).cyan().to_string());
        for change in hunk.iter_changes() {
            // A tab is part of a line of YAML, and moves nothing that was printed.
            let fields = change.value().trim_end_matches(['\r', '\n']).split('\t');
            let line = fields.map(visible).collect::<Vec<_>>().join("\t");
            let line = match change.tag() {
                ChangeTag::Delete => format!("-{line}").red().to_string(),
                ChangeTag::Insert => format!("+{line}").green().to_string(),
                ChangeTag::Equal => format!(" {line}"),
            };
            shown.push_str(&line);
            shown.push('\n');
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_diff_shows_the_edit_and_obeys_nothing() {
        let shown = diff("plans/web.yaml", "a: \u{1b}[2J\nb: 1\n", "a: \u{1b}[2J\nb: 1\nc: 2\n");
        expect![[r"
            --- a/plans/web.yaml
            +++ b/plans/web.yaml
            @@ -1,2 +1,3 @@
             a: \u{1b}[2J
             b: 1
            +c: 2
        "]]
        .assert_eq(&anstream::adapter::strip_str(&shown).to_string());
    }

    #[test]
    fn a_slip_is_told_from_a_stranger() {
        assert_eq!(did_you_mean("web-o1", &["web-01", "db"]), " … hint: did you mean `web-01`?");
        assert_eq!(did_you_mean("x", &["web", "db"]), " … hint: there are web, db");
        assert_eq!(did_you_mean("x", &[]), " … hint: there are none");
    }
}
