//! Reads manifests from commits: blobs by their ids, each parsed once, broken files by their last good version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::controller::accept::{Acceptance, Followed, objection, unadopted, untrusted};
use crate::desired::{FileVersions, Memo, Wanted, load_with};
use crate::domain::id::{CommitId, Instance};
use crate::domain::text::visible;
use crate::journal::progress::Progress;
use crate::journal::record::{Disposition, Mend, RepoFact};
use crate::manifest::parse::{Limits, ParsedFile, parse_file};
use crate::policy::review;
use crate::port::{PlanRepo, PortError};

/// How much all manifests of a commit hold together: forty times what 10,000 VMs need. A small push can name one blob under
/// a hundred thousand paths, and each is parsed.
const BYTES_MAX: usize = 256 << 20;

/// What a commit says.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The commit.
    pub commit: CommitId,
    /// What it asks for, and what is wrong with it.
    pub wanted: Arc<Wanted>,
    /// How many manifest files it has; what is refused by name is none.
    pub files: usize,
}

/// Reads commits, and remembers the files that it parsed.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    parsed: BTreeMap<(String, String), Arc<ParsedFile>>,
    memo: Memo,
}

impl Reader {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, parsed: BTreeMap::new(), memo: Memo::default() }
    }

    /// Decides whether the branch's head counts, and reads what counts.
    pub fn follow(
        &mut self,
        repo: &dyn PlanRepo,
        progress: &Progress,
        current: Option<&Reading>,
        instance: &Instance,
    ) -> Result<Acceptance, PortError> {
        let Some(head) = repo.head()? else {
            return Err(PortError::passing(
                format!("the watched branch `{}` does not exist", visible(repo.branch())),
                "push a first commit to it, or name another one in `repository.branch`",
            ));
        };
        if current.is_some_and(|current| current.commit == head) {
            return Ok(Acceptance::Same);
        }
        // What was accepted once, by itself or by a person, stays so.
        let distrusted =
            if progress.accepted() == Some(&head) { None } else { repo.distrust(&head)? };
        let Some(accepted) = progress.accepted() else {
            if progress.is_empty() && !repo.report(instance.as_str())?.is_empty() {
                return Ok(Acceptance::Hold {
                    instead: None,
                    reason: unadopted(instance.as_str(), &head),
                });
            }
            if let Some(why) = distrusted {
                return Ok(Acceptance::Hold { instead: None, reason: untrusted(&why, &head) });
            }
            return self.count(repo, &head, progress).map(Acceptance::Follow);
        };
        if *accepted == head {
            return self.count(repo, &head, progress).map(Acceptance::Follow);
        }
        let ancestry = repo.ancestry(accepted, &head)?;
        let instead = match current {
            Some(_) => None,
            None => Some(self.count(repo, accepted, progress)?),
        };
        if let Some(why) = distrusted {
            return Ok(Acceptance::Hold { instead, reason: untrusted(&why, &head) });
        }
        let after = self.count(repo, &head, progress)?;
        let before = current.or(instead.as_ref().map(|instead| &instead.reading));
        let objection =
            before.and_then(|before| objection(before, &after.reading, ancestry, progress));
        Ok(match objection {
            Some(reason) => Acceptance::Hold { instead, reason },
            None => Acceptance::Follow(after),
        })
    }

    /// Reads what counts while the branch cannot be asked: the last commit that was accepted, if it can be read.
    pub fn accepted(&mut self, repo: &dyn PlanRepo, progress: &Progress) -> Option<Followed> {
        self.count(repo, progress.accepted()?, progress).ok()
    }

    /// Reads a commit that is to count, or counts already.
    fn count(
        &mut self,
        repo: &dyn PlanRepo,
        commit: &CommitId,
        progress: &Progress,
    ) -> Result<Followed, PortError> {
        let (reading, mut facts) = self.read(repo, commit, progress)?;
        if progress.accepted() == Some(commit) {
            facts.retain(|fact| !matches!(fact, RepoFact::Accepted { .. }));
        }
        Ok(Followed { reading, facts })
    }

    /// Reads a commit as data, whether it counts or not.
    pub fn read(
        &mut self,
        repo: &dyn PlanRepo,
        commit: &CommitId,
        progress: &Progress,
    ) -> Result<(Reading, Vec<RepoFact>), PortError> {
        let tree = repo.tree(commit)?;
        let mut facts = Vec::new();
        let mut versions = Vec::new();
        let mut kept = BTreeMap::new();
        let mut bytes = 0;
        for file in &tree.files {
            let parsed = self.parse(repo, &file.path, &file.blob)?;
            bytes += parsed.bytes;
            if bytes > BYTES_MAX {
                return Err(PortError::lasting(
                    format!("the manifests of {commit} hold more than {} MiB", BYTES_MAX >> 20),
                    "keep plans in a repository of their own, or set `repository.path`",
                    Mend::Person,
                ));
            }
            let key = (file.path.clone(), file.blob.clone());
            if self.parsed.contains_key(&key) {
                kept.insert(key, parsed.clone());
            }
            let last_good = progress.files().get(&file.path);
            if parsed.whole() && last_good != Some(&file.blob) {
                let (file, blob) = (file.path.clone(), file.blob.clone());
                facts.push(RepoFact::LastGood { file, blob });
            }
            versions.push((file.path.clone(), parsed));
        }
        for (path, reason) in &tree.refused {
            versions.push((path.clone(), Arc::new(ParsedFile::refused(path, reason))));
        }
        let mut files = Vec::new();
        for (path, now) in versions {
            let last_good = match progress.files().get(&path) {
                Some(blob) if !now.whole() => Some(self.last_good(repo, &path, blob)?),
                Some(_) | None => None,
            };
            files.push((path, now, last_good));
        }
        let paths: BTreeSet<&String> = files.iter().map(|(path, ..)| path).collect();
        let gone = progress.files().keys().filter(|file| !paths.contains(file));
        facts.extend(gone.map(|file| RepoFact::FileGone { file: file.clone() }));
        facts.push(RepoFact::Accepted { commit: commit.clone() });
        self.parsed = kept;
        Ok((reading(commit, &files, tree.files.len(), &mut self.memo), facts))
    }

    /// Reads the last good version of a file that is broken now. Where that cannot be read either, nobody knows what the file
    /// asks for, and its absence must not be taken for a wish (safety rule 15): the commit as a whole is not read.
    fn last_good(
        &mut self,
        repo: &dyn PlanRepo,
        path: &str,
        blob: &str,
    ) -> Result<Arc<ParsedFile>, PortError> {
        let parsed = self.parse(repo, path, blob)?;
        if parsed.whole() {
            return Ok(parsed);
        }
        Err(PortError::passing(
            format!("the last good version of {path} ({blob}) cannot be read"),
            "check the repository with `git fsck`",
        ))
    }

    fn parse(
        &mut self,
        repo: &dyn PlanRepo,
        path: &str,
        blob: &str,
    ) -> Result<Arc<ParsedFile>, PortError> {
        let key = (path.to_owned(), blob.to_owned());
        if let Some(parsed) = self.parsed.get(&key) {
            return Ok(parsed.clone());
        }
        let limit = u64::try_from(self.limits.bytes).unwrap_or(u64::MAX);
        let parsed = match repo.blob(blob, limit) {
            Ok(bytes) => parse_file(path, &bytes, &self.limits),
            Err(error) if error.fault.disposition == Disposition::Retry => return Err(error),
            // One file that cannot be read never stops the others. It may be readable the next time.
            Err(error) => return Ok(Arc::new(ParsedFile::refused(path, &error.fault.text))),
        };
        let parsed = Arc::new(parsed);
        self.parsed.insert(key, parsed.clone());
        Ok(parsed)
    }
}

type Versions = (String, Arc<ParsedFile>, Option<Arc<ParsedFile>>);

fn reading(commit: &CommitId, files: &[Versions], manifests: usize, memo: &mut Memo) -> Reading {
    let versions: Vec<FileVersions<'_>> = files
        .iter()
        .map(|(_, now, last_good)| FileVersions { now, last_good: last_good.as_deref() })
        .collect();
    let mut wanted = load_with(&versions, memo);
    wanted.findings.extend(review(&wanted));
    Reading { commit: commit.clone(), wanted: Arc::new(wanted), files: manifests }
}
