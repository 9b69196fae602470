//! `ferry init`: a repository of plans to start from, and the settings that run it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use git2::{IndexAddOption, Repository, RepositoryInitOptions, Signature};

use crate::cli::{Exit, answer, tell};

/// Makes a repository of plans and the settings that run it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry init vms                      make vms/plans (a git repository), vms/ferry.yaml and the folders for OVA files and VMs
  ferry init vms --sample ova-batch   the same from another sample

Exit codes: 0 done, 1 error, 64 wrong usage")]
pub struct Init {
    /// The folder; made where it is missing, and refused where it is not empty.
    pub dir: PathBuf,
    /// What the repository is filled with.
    #[arg(long, default_value = "single-ova", value_parser = SAMPLES.map(|sample| sample.name))]
    pub sample: String,
}

/// A folder of `sample-plans/`, carried in the binary.
#[derive(Debug)]
pub struct Sample {
    /// Its name.
    pub name: &'static str,
    /// Its files: names and texts.
    pub files: &'static [(&'static str, &'static str)],
}

/// Declares a sample by the names of its files.
macro_rules! sample {
    ($name:literal: $($file:literal),*) => {
        Sample {
            name: $name,
            files: &[$(($file, include_str!(concat!("../../sample-plans/", $name, "/", $file)))),*],
        }
    };
}

/// The samples.
pub const SAMPLES: [Sample; 7] = [
    sample!("single-ova": "README.md", "providers.yaml", "networks.yaml", "plan.yaml", "migration.yaml"),
    sample!(
        "vsphere": "README.md", "providers.yaml", "networks.yaml", "windows.yaml", "plan.yaml", "migration.yaml"
    ),
    sample!("ova-batch": "README.md", "providers.yaml", "networks.yaml", "databases.yaml", "web.yaml"),
    sample!("several-systems": "README.md", "providers.yaml", "networks.yaml", "plan.yaml"),
    sample!("windows-and-cutovers": "README.md", "providers.yaml", "networks.yaml", "windows.yaml", "plan.yaml"),
    sample!("policy-and-waiver": "README.md", "providers.yaml", "networks.yaml", "policy.yaml", "plan.yaml"),
    sample!(
        "multi-tenant": "README.md", "platform/providers.yaml", "platform/networks.yaml", "platform/windows.yaml",
        "teams/payments/ledger.yaml", "teams/shop/front.yaml"
    ),
];

/// Stand in the samples for the folders that `init` makes.
const PLACEHOLDERS: [(&str, &str); 2] =
    [("\"/srv/ferry/ova\"", "ova"), ("\"/srv/ferry/vms\"", "vms")];

/// Stands in a sample for a vCenter, and its certificate.
pub(super) const VCENTER: &str = "vcenter.example.org";
pub(super) const FINGERPRINT: &str = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";

/// The name that a sample's settings log in with.
pub(super) const USER: &str = "ferry@vsphere.local";

/// Makes everything, and says what to do next.
pub fn run(args: Init) -> anyhow::Result<Exit> {
    let Init { dir, sample } = args;
    must_be_empty(&dir)?;
    let settings = make_sample(&dir, &sample, &[])?;
    let shown = settings.display();
    tell(&format!("made {} from the sample {sample}", dir.display()));
    let first = if sample == "vsphere" {
        format!(
            "Name your vCenter and its login: {0}/plans/providers.yaml, {0}/ferry.yaml, {0}/vcenter.password.",
            dir.display()
        )
    } else {
        format!("Put OVA files into {}/ova.", dir.display())
    };
    answer(&format!(
        "ferry run --config {shown}\n\n\
         Next steps:\n\
         1. {first}\n\
         2. Edit {0}/plans, where README.md says what stands where, and check it: ferry check {0}/plans\n\
         3. Commit (git -C {0}/plans commit -am \"…\"): Ferry reads commits, not files.\n\
         4. Run the command above. VMs appear in {0}/vms, reports on the branch ferry/status.\n",
        dir.display()
    ));
    Ok(Exit::Done)
}

fn must_be_empty(dir: &Path) -> anyhow::Result<()> {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; name a folder that is empty or does not exist", dir.display());
    }
    Ok(())
}

/// Makes the folder of a sample by its name, with other texts in place of some of its own.
pub(super) fn make_sample(
    dir: &Path,
    name: &str,
    instead: &[(&str, &str)],
) -> anyhow::Result<PathBuf> {
    let sample = SAMPLES.iter().find(|known| known.name == name).context("no such sample")?;
    make(dir, sample, instead)
}

/// Makes the folder and returns the path of its settings.
fn make(dir: &Path, sample: &Sample, instead: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let cannot_make = || format!("cannot make the folder {}", dir.display());
    std::fs::create_dir_all(dir).with_context(cannot_make)?;
    let root = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
    let root_text = root.to_str().with_context(|| {
        format!(
            "the path {} is not UTF-8, which manifests must be; choose another folder",
            root.display()
        )
    })?;
    for folder in ["plans", "ova", "vms", "state"] {
        let path = root.join(folder);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let write = |path: &Path, text: &str| {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    for (name, text) in sample.files {
        let mut text = (*text).to_owned();
        for (placeholder, folder) in PLACEHOLDERS {
            text = text.replace(placeholder, &quoted(&format!("{root_text}/{folder}")));
        }
        write(&root.join("plans").join(name), &replaced(text, instead))?;
    }
    commit(&root.join("plans"), sample).with_context(|| {
        format!("cannot make the git repository {}", root.join("plans").display())
    })?;
    let names_vcenter = sample.files.iter().any(|(_, text)| text.contains(VCENTER));
    let text = settings(root_text, names_vcenter);
    write(&root.join("ferry.yaml"), &replaced(text, instead))?;
    if names_vcenter {
        write(&root.join("vcenter.password"), "")?;
    }
    Ok(dir.join("ferry.yaml"))
}

fn replaced(text: String, instead: &[(&str, &str)]) -> String {
    instead.iter().fold(text, |text, (old, new)| text.replace(old, new))
}

/// Writes text so that every YAML reader takes it as that text: a JSON string is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn settings(root: &str, names_vcenter: bool) -> String {
    let at = |folder: &str| quoted(&format!("{root}/{folder}"));
    let mut out = String::from(
        "# The controller's settings: what somebody who can only write to the repository must not decide.\n",
    );
    let _ = writeln!(out, "repository:\n  url: {}\n  branch: main", at("plans"));
    out.push_str("status:\n  branch: ferry/status\n");
    out.push_str("# Names this controller in its marks and reports.\ninstance: main\n");
    let _ = writeln!(out, "stateDir: {}", at("state"));
    out.push_str("# Files that manifests may name lie below these.\nallowPaths:\n");
    let _ = writeln!(out, "  - {}\n  - {}", at("ova"), at("vms"));
    if names_vcenter {
        out.push_str("# A secret goes to the hosts that it is bound to and nowhere else. `providerTls` lists what manifests may say about trust.\n");
        let _ = writeln!(
            out,
            "credentials:\n  vcenter:\n    hosts: [\"{VCENTER}\"]\n    username: \"{USER}\"\n    passwordFile: {}\n    providerTls: [ca, sha256Fingerprint]",
            at("vcenter.password")
        );
    }
    out
}

/// Makes the repository with one commit on `main`.
fn commit(path: &Path, sample: &Sample) -> Result<(), git2::Error> {
    let mut options = RepositoryInitOptions::new();
    options.initial_head("main").no_reinit(true).external_template(false);
    let repository = Repository::init_opts(path, &options)?;
    let mut index = repository.index()?;
    index.add_all(["*"], IndexAddOption::DEFAULT, None)?;
    index.write()?;
    let tree = repository.find_tree(index.write_tree()?)?;
    let author = repository.signature().or_else(|_| Signature::now("Ferry", "ferry@localhost"))?;
    let message = format!("plans: start from the sample {}\n", sample.name);
    repository.commit(Some("HEAD"), &author, &author, &message, &tree, &[])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check;
    use crate::desired::{FileVersions, Site, load};
    use crate::manifest::parse::{Limits, parse_file};

    #[test]
    fn every_sample_makes_a_repository_without_findings_whose_paths_are_allowed() {
        for sample in &SAMPLES {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("with 'quotes' and: #signs");
            let path = make(&dir, sample, &[]).unwrap();
            let settings: serde_json::Value =
                serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let url = settings["repository"]["url"].as_str().unwrap();
            let repository = Repository::open(url).unwrap();
            let head = repository.head().unwrap();
            assert_eq!(head.shorthand().unwrap(), "main");
            assert_eq!(head.peel_to_commit().unwrap().parent_count(), 0);
            assert!(repository.statuses(None).unwrap().is_empty());
            let files = check::folder(Path::new(url), &Limits::default()).unwrap();
            assert_eq!(check::judge(&files, &Limits::default()), []);
            let allowed: Vec<&str> = settings["allowPaths"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p.as_str().unwrap())
                .collect();
            let parsed: Vec<_> = files
                .files
                .iter()
                .map(|(path, bytes)| parse_file(path, bytes, &Limits::default()))
                .collect();
            let versions: Vec<_> =
                parsed.iter().map(|now| FileVersions { now, last_good: None }).collect();
            let wanted = load(&versions);
            assert_eq!(wanted.providers.len(), 2);
            for site in wanted.providers.values() {
                let (Site::Ova { path } | Site::Local { path, disk_format: _ }) = site else {
                    continue;
                };
                assert!(allowed.contains(&&**path) && Path::new(&**path).is_dir(), "{path}");
            }
            assert!(!wanted.requests.is_empty());
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        let error = must_be_empty(folder.path()).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_samples_are_those_of_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample-plans");
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let files_of = |sample: &str| -> Vec<String> {
            let root = folder.join(sample);
            let (mut open, mut files) = (vec![root.clone()], Vec::new());
            while let Some(path) = open.pop() {
                for name in names(&path) {
                    let path = path.join(name);
                    if path.is_dir() {
                        open.push(path);
                    } else {
                        let path = path.strip_prefix(&root).unwrap();
                        files.push(path.to_str().unwrap().to_owned());
                    }
                }
            }
            files.sort();
            files
        };
        let mut samples = SAMPLES.map(|sample| sample.name);
        samples.sort_unstable();
        assert_eq!(names(&folder), samples);
        for sample in &SAMPLES {
            let mut files: Vec<&str> = sample.files.iter().map(|(name, _)| *name).collect();
            files.sort_unstable();
            assert_eq!(files_of(sample.name), files);
        }
    }
}
