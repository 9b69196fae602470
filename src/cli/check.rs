//! `ferry check`: judges every manifest of a folder or a revision in one run, and shows each finding at its place.
//!
//! Nothing is contacted and nothing but manifests is read. A line that holds a secret is shown without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use anyhow::{Context, bail};
use serde_json::json;

use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer};
use crate::desired::{self, FileVersions};
use crate::manifest::diagnostic::{Finding, Severity};
use crate::manifest::parse::{Limits, ParsedFile, parse_file};
use crate::manifest::{is_invisible, is_secret, refused};
use crate::policy;
use crate::port::{PlanRepo, PortError};

/// Folders within folders that are searched.
const FOLDERS_MAX: usize = 32;

/// Judges every manifest: syntax, schema, references, mappings. Contacts nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry check plans                       judge every .yaml and .yml file below plans
  ferry check plans --output github       the same as annotations of a GitHub workflow
  ferry check plans --rev add-web         judge what is committed on the branch add-web
  ferry check --output json | jq '.findings[].code'

Exit codes: 0 nothing that blocks, 1 a finding that blocks, or an error, 64 wrong usage")]
pub struct Check {
    /// A folder of manifests, or one file; with `--rev` a repository, bare ones too.
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Judges the manifests of a revision instead of the files: a branch, a commit, `HEAD~1`.
    #[arg(long, value_name = "REV")]
    pub rev: Option<String>,
    /// How the findings are printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people, with the lines that they speak of.
    Text,
    /// One JSON object.
    Json,
    /// Annotations of a GitHub workflow.
    Github,
}

/// The manifests of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Their paths and bytes, in the order of the paths.
    pub files: Vec<(String, Vec<u8>)>,
    /// What is not read, with the reason.
    pub refused: Vec<(String, String)>,
}

/// Judges a folder, or a revision.
pub(super) fn run(args: Check, global: &Global) -> anyhow::Result<Exit> {
    let Check { path, rev, output } = args;
    let limits = Limits::default();
    let files = match rev {
        Some(rev) => {
            let repo = Some(path.to_string_lossy().into_owned());
            let flags = Flags { repo, ..Flags::default() };
            revision(&Settings::resolve(global, &flags)?.open_repo()?, &rev, &limits)?
        }
        None => folder(&path, &limits)?,
    };
    if files.files.is_empty() && files.refused.is_empty() {
        bail!("{} holds no manifests (.yaml, .yml)", path.display());
    }
    Ok(show(&files, &limits, output))
}

/// Judges files, prints the answer and says how the command ends.
pub fn show(files: &Files, limits: &Limits, output: Output) -> Exit {
    let findings = judge(files, limits);
    answer(&match output {
        Output::Text => {
            text(files, &findings, &Renderer::styled().decor_style(DecorStyle::Unicode))
        }
        Output::Json => json(files, &findings),
        Output::Github => github(&findings),
    });
    if findings.iter().any(Finding::blocks) { Exit::Failed } else { Exit::Done }
}

/// Returns everything that is wrong with the files, in their order.
pub fn judge(files: &Files, limits: &Limits) -> Vec<Finding> {
    let parsed: Vec<ParsedFile> =
        files.files.iter().map(|(path, bytes)| parse_file(path, bytes, limits)).collect();
    let versions: Vec<FileVersions<'_>> =
        parsed.iter().map(|now| FileVersions { now, last_good: None }).collect();
    let wanted = desired::load(&versions);
    let mut findings = policy::review(&wanted);
    findings.extend(wanted.findings);
    findings.extend(files.refused.iter().map(|(path, reason)| refused(path, reason)));
    findings.sort_by(|left, right| (&left.place, &left.code).cmp(&(&right.place, &right.code)));
    findings
}

/// Reads the manifests of a revision.
pub fn revision(repo: &dyn PlanRepo, revision: &str, limits: &Limits) -> Result<Files, PortError> {
    let tree = repo.tree(&repo.resolve(revision)?)?;
    let mut files = Files { refused: tree.refused, ..Files::default() };
    let limit = u64::try_from(limits.bytes).unwrap_or(u64::MAX);
    for file in tree.files {
        match repo.blob(&file.blob, limit) {
            Ok(bytes) => files.files.push((file.path, bytes)),
            Err(error) => files.refused.push((file.path, error.to_string())),
        }
    }
    Ok(files)
}

/// Reads the manifests of a folder, or one file. Hidden folders are passed over; symbolic links are not followed.
pub fn folder(path: &Path, limits: &Limits) -> anyhow::Result<Files> {
    let mut files = Files::default();
    let about =
        std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    if about.is_file() {
        let name = path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
        files.files.push((name.to_owned(), read(path, limits)?));
        return Ok(files);
    }
    let mut open = vec![(path.to_path_buf(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = open.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
            let manifest = [".yaml", ".yml"].iter().any(|end| name.ends_with(end));
            if kind.is_dir() && !name.starts_with('.') {
                if depth < FOLDERS_MAX {
                    open.push((entry.path(), format!("{path}/"), depth + 1));
                } else {
                    files.refused.push((path, "it lies too many folders deep".to_owned()));
                }
            } else if manifest && kind.is_symlink() {
                files.refused.push((path, "it is a symbolic link".to_owned()));
            } else if manifest && entry.file_name().to_str().is_none() {
                files.refused.push((path, "its name is not UTF-8".to_owned()));
            } else if manifest && kind.is_file() {
                files.files.push((path, read(&entry.path(), limits)?));
            }
        }
    }
    files.files.sort();
    files.refused.sort();
    Ok(files)
}

/// Reads a file as far as it can matter: one byte more than the limit is a finding.
fn read(path: &Path, limits: &Limits) -> anyhow::Result<Vec<u8>> {
    let limit = u64::try_from(limits.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// Renders findings for people.
fn text(files: &Files, findings: &[Finding], renderer: &Renderer) -> String {
    let sources: BTreeMap<&str, Vec<String>> =
        files.files.iter().map(|(path, bytes)| (path.as_str(), lines(bytes))).collect();
    let mut out = String::new();
    for finding in findings {
        out.push_str(&snippet(finding, &sources, renderer));
        out.push_str("\n\n");
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = writeln!(
        out,
        "{} checked: {} critical, {}, {} for information",
        counted(files.files.len(), "file"),
        count(Severity::Critical),
        counted(count(Severity::Warning), "warning"),
        count(Severity::Information),
    );
    out
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn snippet(
    finding: &Finding,
    sources: &BTreeMap<&str, Vec<String>>,
    renderer: &Renderer,
) -> String {
    let Finding { code, severity, place, text, hint } = finding;
    let level = match severity {
        Severity::Critical => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Information => Level::INFO,
    };
    let path = visible(&place.file);
    let title = level.primary_title(text.as_str()).id(code.as_str());
    let number = usize::try_from(place.line).unwrap_or(0);
    let line = sources.get(&*place.file).and_then(|lines| lines.get(number.checked_sub(1)?));
    let mut group = match line {
        Some(line) => {
            let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
            let mark = AnnotationKind::Primary.span(token(line, column));
            let source = Snippet::source(line.as_str()).line_start(number).path(path);
            title.element(source.annotation(mark))
        }
        None => title.element(Origin::path(path)),
    };
    if let Some(hint) = hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    renderer.render(&[group])
}

/// Returns the bytes of the word that starts at a column.
fn token(line: &str, column: usize) -> Range<usize> {
    let Some((start, first)) = line.char_indices().nth(column) else {
        return line.len()..line.len();
    };
    let rest = line.get(start..).unwrap_or_default();
    let length = if first == '"' || first == '\'' {
        rest.char_indices().skip(1).find(|(_, letter)| *letter == first).map(|(at, _)| at + 1)
    } else {
        rest.char_indices()
            .find(|(_, letter)| letter.is_whitespace() || matches!(letter, ':' | ',' | '}' | ']'))
            .map(|(at, _)| at.max(first.len_utf8()))
    };
    start..start + length.unwrap_or(rest.len())
}

/// Splits a file into lines that may be shown: no control characters, no secrets; columns stay what they are.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.trim_start_matches('\u{feff}').lines().map(|line| visible(&without_secret(line))).collect()
}

fn visible(text: &str) -> String {
    let show = |letter: char| match letter {
        '\t' => ' ',
        letter if letter.is_control() || is_invisible(letter) => '\u{fffd}',
        letter => letter,
    };
    text.chars().map(show).collect()
}

/// Blots out what follows a key that promises a secret, and passwords in URLs.
fn without_secret(line: &str) -> String {
    let mut blot = line.len();
    for (at, _) in line.match_indices(':') {
        let before = line.get(..at).unwrap_or_default().trim_end_matches([' ', '"', '\'']);
        let start = before.rfind([' ', '{', ',', '"', '\'', '-']).map_or(0, |at| at + 1);
        let whole = before.rfind([' ', '{', ',', '"', '\'']).map_or(0, |at| at + 1);
        let secret = |from: usize| before.get(from..).is_some_and(is_secret);
        let rest = line.get(at + 1..).unwrap_or_default();
        let in_url = rest.starts_with("//")
            && rest.split_whitespace().next().is_some_and(|word| word.contains('@'));
        if secret(start) || secret(whole) || in_url {
            blot = at + 1;
            break;
        }
    }
    let shown = line.get(..blot).unwrap_or(line);
    let rest = line.get(blot..).unwrap_or_default();
    let blotted = rest.chars().map(|letter| if letter.is_whitespace() { letter } else { '*' });
    shown.chars().chain(blotted).collect()
}

fn json(files: &Files, findings: &[Finding]) -> String {
    let blocks = findings.iter().filter(|finding| finding.blocks()).count();
    let value = json!({ "files": files.files.len(), "critical": blocks, "findings": findings });
    serde_json::to_string_pretty(&value).expect("plain fields always serialize") + "\n"
}

/// Renders workflow commands of GitHub: one line for each finding.
fn github(findings: &[Finding]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for Finding { code, severity, place, text, hint } in findings {
        let command = match severity {
            Severity::Critical => "error",
            Severity::Warning => "warning",
            Severity::Information => "notice",
        };
        let mut at = format!("file={}", property(&place.file));
        if place.line > 0 {
            let _ = write!(at, ",line={},col={}", place.line, place.column);
        }
        let hint = hint.as_deref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        let text = data(&format!("{text}{hint}"));
        let _ = writeln!(out, "::{command} {at},title={}::{text}", property(code));
    }
    out
}

#[cfg(test)]
mod tests;
