//! The settings, resolved once: flags, then `FERRY_*` environment variables, then `ferry.yaml`, then defaults.
//!
//! What a person who can only write to the git repository must not decide stands here and nowhere else (safety rule 23).
//! A key that is known and not honoured yet refuses to start (safety rule 7). Nothing else in Ferry reads the environment.

mod parse;
mod raw;
mod remote;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use crate::adapter::git::{Author, GitRepo, Place, RepoSettings};
use crate::adapter::vsphere::Means;
use crate::cli::Global;
use crate::copy::protocol::ConvertTools;
use crate::decide::CutoverLimits;
use crate::domain::id::Instance;
use crate::domain::unit::Bytes;

/// The code of a setting that is not honoured yet.
const UNSUPPORTED: &str = "FY9001";
/// A settings file is small; a larger one is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Flags that stand for settings, for the commands that take them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The repository of plans: a folder, or `file://…` [setting: repository.url]
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,
    /// The watched branch [setting: repository.branch]
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
    /// The folder within the repository that holds the manifests [setting: repository.path]
    #[arg(long, value_name = "SUB")]
    pub path: Option<String>,
    /// The folder of the journal [setting: stateDir]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// The name of this controller [setting: instance]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
}

/// Everything that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// The repository, absolute; `None` where none is named.
    pub repository: Option<Place>,
    /// The file of those who may sign commits; `None` where none need be signed.
    pub signers: Option<PathBuf>,
    /// The watched branch.
    pub branch: String,
    /// The folder within the repository that holds the manifests; empty for all of it.
    pub below: String,
    /// The branch of the reports.
    pub status_branch: String,
    /// Who the reports are by.
    pub status_author: Author,
    /// How long one commit of reports holds back the next, unless a phase changed.
    pub status_min_interval: SignedDuration,
    /// The name of this controller.
    pub instance: Instance,
    /// The folder of the journal, absolute.
    pub state_dir: PathBuf,
    /// The folders that manifests may name files below, absolute.
    pub allow_paths: Vec<PathBuf>,
    /// How many VMs move at once.
    pub vms_in_flight: u32,
    /// How much memory a copy uses.
    pub copy_memory: Bytes,
    /// How much of a disk is copied between two checkpoints: what a killed worker does again.
    pub checkpoint_every: Bytes,
    /// How large a manifest file may be.
    pub manifest_bytes: Bytes,
    /// How many documents one file may hold.
    pub documents_per_file: u32,
    /// When VMs may be taken down.
    pub cutover: CutoverLimits,
    /// What guests are converted with.
    pub convert: ConvertTools,
    /// How many guests are converted at once.
    pub convert_parallel: u32,
    /// The libvirt that starts the VMs of local targets; `None` where they are files only.
    pub libvirt_uri: Option<String>,
    /// What servers of vSphere are reached with.
    pub vsphere: Means,
    /// Each value and where it came from, for `ferry doctor`.
    pub origins: Vec<Shown>,
}

/// One setting as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its key in `ferry.yaml`, with dots.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Environment(String),
    /// The settings file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {text}{}", hint.as_ref().map(|hint| format!(" … hint: {hint}")).unwrap_or_default())]
pub struct SettingsError {
    /// The file and line, the variable or the flag.
    pub place: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What the settings are resolved in. The process's own in the program, made up in tests.
pub struct Surroundings<'a> {
    /// Reads an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The settings file of the machine.
    pub machine_file: &'a Path,
    /// The folder that relative paths of flags and variables start at.
    pub current: &'a Path,
    /// Whether the process is root.
    pub root: bool,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Settings {
    /// Resolves the settings of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn resolve(global: &Global, flags: &Flags) -> Result<Self, SettingsError> {
        let current = std::env::current_dir().map_err(|error| SettingsError {
            place: "the current folder".to_owned(),
            text: error.to_string(),
            hint: None,
        })?;
        let surroundings = Surroundings {
            variable: &|name| std::env::var_os(name),
            machine_file: Path::new("/etc/ferry/ferry.yaml"),
            current: &current,
            root: rustix::process::geteuid().is_root(),
        };
        Self::resolve_in(&surroundings, global.config.as_deref(), flags)
    }

    /// Resolves settings in given surroundings.
    pub fn resolve_in(
        surroundings: &Surroundings<'_>,
        config: Option<&Path>,
        flags: &Flags,
    ) -> Result<Self, SettingsError> {
        let loaded = Loaded::find(surroundings, config)?;
        let file = &loaded.file;
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let flag = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let mut from = Sources { surroundings, loaded: &loaded, origins: Vec::new() };

        let value = flag("--branch", &flags.branch);
        let branch =
            from.take("repository.branch", value, text(&file.repository.branch), "main", plain)?;
        let value = flag("--path", &flags.path);
        let below = from.take(
            "repository.path",
            value,
            text(&file.repository.path),
            "",
            parse::folder_within,
        )?;
        let status_branch =
            from.take("status.branch", None, text(&file.status.branch), "ferry/status", plain)?;
        let author = text(&file.status.author);
        let default = "Ferry <ferry@localhost>";
        let status_author = from.take("status.author", None, author, default, parse::author)?;
        let value = text(&file.status.min_interval);
        let status_min_interval =
            from.take("status.minInterval", None, value, "60s", parse::duration)?;
        let value = flag("--instance", &flags.instance);
        let instance =
            from.take("instance", value, text(&file.instance), "ferry", parse::instance)?;
        let value = flag("--state-dir", &flags.state_dir);
        let default = default_state_dir(surroundings);
        let state_dir = from.state_dir(value, text(&file.state_dir), default)?;
        let repository = from.repository(flag("--repo", &flags.repo), file, &state_dir)?;
        let signers = from.signers(&file.repository.verify)?;
        let allow_paths = from.paths("allowPaths", file.allow_paths.clone())?;
        let (limits, value) = (&file.limits, text(&file.limits.vms_in_flight));
        let vms_in_flight = from.count("limits.vmsInFlight", value, "20", 1000)?;
        let (value, range) = (text(&limits.copy_memory), [Bytes::mib(16), Bytes::mib(1 << 20)]);
        let copy_memory = from.size("limits.copyMemory", value, "256MiB", range)?;
        let (value, range) = (text(&limits.checkpoint_every), [Bytes::mib(1), Bytes::mib(1 << 20)]);
        let checkpoint_every = from.size("limits.checkpointEvery", value, "128MiB", range)?;
        let (manifest_bytes, documents_per_file) = from.manifests(limits)?;
        let cutover = from.cutover(&file.cutover)?;
        let (convert, convert_parallel) = from.convert(&file.convert, &state_dir)?;
        let libvirt_uri = from.libvirt(&file.libvirt)?;
        let vsphere = from.vsphere(file)?;
        let origins = from.origins;
        Ok(Self {
            file: loaded.path,
            repository,
            signers,
            branch,
            below,
            status_branch,
            status_author,
            status_min_interval,
            instance,
            state_dir,
            allow_paths,
            vms_in_flight,
            copy_memory,
            checkpoint_every,
            manifest_bytes,
            documents_per_file,
            cutover,
            convert,
            convert_parallel,
            libvirt_uri,
            vsphere,
            origins,
        })
    }

    /// Returns where the repository is, or says how to name one.
    pub fn repository(&self) -> Result<&Place, SettingsError> {
        self.repository.as_ref().ok_or_else(|| SettingsError {
            place: self.file.as_ref().map_or("settings".to_owned(), |file| file.display().to_string()),
            text: "no repository of plans is named".to_owned(),
            hint: Some("give `--repo DIR`, or `repository: { url: DIR }` in ferry.yaml; `ferry init DIR` makes both".to_owned()),
        })
    }

    /// Opens the repository of plans.
    pub fn open_repo(&self) -> anyhow::Result<GitRepo> {
        GitRepo::open(&self.repo_settings(self.repository()?)).map_err(crate::cli::explained)
    }

    /// Names the repository's parts for opening it.
    pub fn repo_settings(&self, place: &Place) -> RepoSettings {
        RepoSettings {
            place: place.clone(),
            branch: self.branch.clone(),
            below: self.below.clone(),
            status_branch: self.status_branch.clone(),
            author: self.status_author.clone(),
            signers: self.signers.clone(),
        }
    }
}

/// Returns the configuration files of git that tell who the person at the keyboard is, most personal first.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn personal_git_files() -> Vec<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = folder("HOME");
    let xdg = folder("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let files = [home.map(|home| home.join(".gitconfig")), xdg.map(|xdg| xdg.join("git/config"))];
    files.into_iter().flatten().collect()
}

/// Returns the folders in which programs are searched.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn program_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The settings file, read.
#[derive(Debug, Default)]
struct Loaded {
    path: Option<PathBuf>,
    file: raw::File,
    lines: std::collections::BTreeMap<String, usize>,
}

impl Loaded {
    fn find(surroundings: &Surroundings<'_>, config: Option<&Path>) -> Result<Self, SettingsError> {
        if let Some(path) = config {
            return Self::read(surroundings.current.join(path));
        }
        let personal = folder_variable(surroundings, "XDG_CONFIG_HOME", ".config");
        let personal = personal.map(|folder| folder.join("ferry/ferry.yaml"));
        for path in [Some(surroundings.machine_file.to_owned()), personal].into_iter().flatten() {
            // A file that is there and cannot be read is an error, not a missing one.
            if !matches!(path.try_exists(), Ok(false)) {
                return Self::read(path);
            }
        }
        Ok(Self::default())
    }

    fn read(path: PathBuf) -> Result<Self, SettingsError> {
        use std::io::Read;
        let refused = |text: String, hint: Option<&str>| SettingsError {
            place: path.display().to_string(),
            text,
            hint: hint.map(str::to_owned),
        };
        let mut text = String::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) => return Err(refused(format!("cannot read the settings: {error}"), None)),
            Ok(read) if u64::try_from(read).is_ok_and(|read| read > FILE_BYTES_MAX) => {
                return Err(refused(
                    "is no settings file: it is larger than 1 MiB".to_owned(),
                    None,
                ));
            }
            Ok(_) => {}
        }
        let file = serde_yaml::from_str::<Option<raw::File>>(&text).map_err(|error| {
            let full = error.to_string();
            let (text, place) = match error.location() {
                Some(at) => {
                    let suffix = format!(" at line {} column {}", at.line(), at.column());
                    (
                        full.replace(&suffix, ""),
                        format!("{}:{}:{}", path.display(), at.line(), at.column()),
                    )
                }
                None => (full, path.display().to_string()),
            };
            SettingsError { place, text, hint: None }
        })?;
        let file = file.unwrap_or_default();
        let lines = raw::lines(&text);
        if let Some(key) = file.unsupported().first() {
            let line = lines.get(*key).copied().unwrap_or(1);
            return Err(SettingsError {
                place: format!("{}:{line}", path.display()),
                text: format!("{UNSUPPORTED}: `{key}` is not supported yet"),
                hint: Some("take it out; nothing that is written is ignored".to_owned()),
            });
        }
        Ok(Self { path: Some(path), file, lines })
    }
}

/// Picks each value from where it counts most, and remembers where that was.
struct Sources<'a> {
    surroundings: &'a Surroundings<'a>,
    loaded: &'a Loaded,
    origins: Vec<Shown>,
}

type Flag = Option<(&'static str, String)>;

impl Sources<'_> {
    /// Takes a value that may be missing. The parser gets the folder that relative paths start at.
    fn maybe<T>(
        &mut self,
        key: &'static str,
        flag: Flag,
        file: Option<String>,
        parse: impl Fn(&str, &Path) -> Result<T, Refused>,
    ) -> Result<Option<T>, SettingsError> {
        let Some((value, origin)) = self.pick(key, flag, file)? else { return Ok(None) };
        self.parsed(key, value, origin, parse).map(Some)
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        flag: Flag,
        file: Option<String>,
        default: &str,
        parse: impl Fn(&str, &Path) -> Result<T, Refused>,
    ) -> Result<T, SettingsError> {
        let picked = self.pick(key, flag, file)?;
        let (value, origin) = picked.unwrap_or_else(|| (default.to_owned(), Origin::Default));
        self.parsed(key, value, origin, parse)
    }

    /// How large a manifest file may be, and how many documents it may hold.
    fn manifests(&mut self, limits: &raw::Limits) -> Result<(Bytes, u32), SettingsError> {
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let (value, range) = (text(&limits.manifest_bytes), [Bytes(1024), Bytes::mib(64)]);
        let bytes = self.size("limits.manifestBytes", value, "1MiB", range)?;
        let value = text(&limits.documents_per_file);
        Ok((bytes, self.count("limits.documentsPerFile", value, "1000", 100_000)?))
    }

    fn cutover(&mut self, file: &raw::Cutover) -> Result<CutoverLimits, SettingsError> {
        let raw::Cutover { require_window, lateness, rollback_reserve } = file;
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let value = text(require_window);
        let require_window =
            self.take("cutover.requireWindow", None, value, "true", parse::truth)?;
        let value = text(lateness);
        let lateness = self.take("cutover.lateness", None, value, "15m", parse::duration)?;
        let value = text(rollback_reserve);
        let rollback_reserve =
            self.take("cutover.rollbackReserve", None, value, "15m", parse::duration)?;
        Ok(CutoverLimits { lateness, rollback_reserve, require_window })
    }

    fn convert(
        &mut self,
        file: &raw::Convert,
        state_dir: &Path,
    ) -> Result<(ConvertTools, u32), SettingsError> {
        let raw::Convert { path, tmp_dir, virtio_win, parallel } = file;
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let shown = |text: &str, base: &Path| {
            parse::path(text, base).map(|path| path.to_string_lossy().into_owned())
        };
        // A name without a folder is searched where programs are.
        let program = |text: &str, base: &Path| {
            if text.contains('/') || text.is_empty() {
                shown(text, base)
            } else {
                Ok(text.to_owned())
            }
        };
        let value = text(path);
        let program = self.take("convert.path", None, value, "virt-v2v-in-place", program)?;
        let tmp_dir = self.take("convert.tmpDir", None, text(tmp_dir), "/var/tmp", shown)?;
        let (value, default) = (text(virtio_win), "/usr/share/virtio-win");
        let virtio_win = self.take("convert.virtioWin", None, value, default, shown)?;
        let parallel = self.count("convert.parallel", text(parallel), "1", 100)?;
        let log_dir = state_dir.join("conversions").to_string_lossy().into_owned();
        Ok((ConvertTools { program, tmp_dir, virtio_win, log_dir }, parallel))
    }

    fn libvirt(&mut self, file: &raw::Libvirt) -> Result<Option<String>, SettingsError> {
        let raw::Libvirt { uri } = file;
        let value = uri.as_ref().map(|text| text.0.clone());
        self.maybe("libvirt.uri", None, value, parse::libvirt_uri)
    }

    fn count(
        &mut self,
        key: &'static str,
        file: Option<String>,
        default: &str,
        max: u32,
    ) -> Result<u32, SettingsError> {
        self.take(key, None, file, default, |text, _| parse::count(text, max))
    }

    fn size(
        &mut self,
        key: &'static str,
        file: Option<String>,
        default: &str,
        [min, max]: [Bytes; 2],
    ) -> Result<Bytes, SettingsError> {
        self.take(key, None, file, default, |text, _| parse::size(text, min, max))
    }

    fn state_dir(
        &mut self,
        flag: Flag,
        file: Option<String>,
        default: Option<PathBuf>,
    ) -> Result<PathBuf, SettingsError> {
        let Some((value, origin)) = self.pick("stateDir", flag, file)? else {
            let default = default.ok_or_else(|| SettingsError {
                place: "settings".to_owned(),
                text: "there is no place for the journal: neither XDG_STATE_HOME nor HOME is set"
                    .to_owned(),
                hint: Some("give `--state-dir DIR`, or `stateDir` in ferry.yaml".to_owned()),
            })?;
            let value = default.display().to_string();
            self.origins.push(Shown { key: "stateDir", value, origin: Origin::Default });
            return Ok(default);
        };
        self.parsed("stateDir", value, origin, parse::path)
    }

    /// Takes a list of folders; the variable separates them with colons.
    fn paths(
        &mut self,
        key: &'static str,
        file: Option<Vec<String>>,
    ) -> Result<Vec<PathBuf>, SettingsError> {
        let written = file.map(|paths| paths.join("\n"));
        let picked = self.pick(key, None, written)?;
        let (value, origin) = picked.unwrap_or_else(|| (String::new(), Origin::Default));
        let separator = if matches!(origin, Origin::Environment(_)) { ':' } else { '\n' };
        self.parsed(key, value, origin, |value, base| {
            let parts = value.split(separator).filter(|_| !value.is_empty());
            parts.map(|part| parse::path(part, base)).collect()
        })
    }

    fn pick(
        &self,
        key: &'static str,
        flag: Flag,
        file: Option<String>,
    ) -> Result<Option<(String, Origin)>, SettingsError> {
        if let Some((flag, value)) = flag {
            return Ok(Some((value, Origin::Flag(flag))));
        }
        let name = variable_name(key);
        if let Some(value) = (self.surroundings.variable)(&name) {
            let value = value.into_string().map_err(|_| SettingsError {
                place: name.clone(),
                text: "its value is not UTF-8".to_owned(),
                hint: None,
            })?;
            return Ok(Some((value, Origin::Environment(name))));
        }
        let path = self.loaded.path.clone().unwrap_or_default();
        let line = self.loaded.lines.get(key).copied().unwrap_or(1);
        Ok(file.map(|value| (value, Origin::File { path, line })))
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        value: String,
        origin: Origin,
        parse: impl Fn(&str, &Path) -> Result<T, Refused>,
    ) -> Result<T, SettingsError> {
        let base = match &origin {
            Origin::File { path, .. } => path.parent().unwrap_or(self.surroundings.current),
            Origin::Flag(_) | Origin::Environment(_) | Origin::Default => self.surroundings.current,
        };
        let parsed = parse(&value, base).map_err(|Refused { text, hint }| SettingsError {
            place: origin.to_string(),
            text: format!("`{key}`: {text}"),
            hint,
        })?;
        self.origins.push(Shown { key, value: value.replace('\n', ", "), origin });
        Ok(parsed)
    }
}

/// Why a value cannot be used.
#[derive(Debug)]
struct Refused {
    text: String,
    hint: Option<String>,
}

#[expect(clippy::unnecessary_wraps, reason = "it stands among parsers that fail")]
fn plain(text: &str, _base: &Path) -> Result<String, Refused> {
    Ok(text.to_owned())
}

/// `limits.vmsInFlight` is set by `FERRY_LIMITS_VMS_IN_FLIGHT`.
fn variable_name(key: &str) -> String {
    let mut name = "FERRY_".to_owned();
    for character in key.chars() {
        if character.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(if character == '.' { '_' } else { character.to_ascii_uppercase() });
    }
    name
}

fn default_state_dir(surroundings: &Surroundings<'_>) -> Option<PathBuf> {
    if surroundings.root {
        return Some(PathBuf::from("/var/lib/ferry"));
    }
    let folder = folder_variable(surroundings, "XDG_STATE_HOME", ".local/state")?;
    Some(folder.join("ferry"))
}

/// Reads a variable of the XDG specification, which counts only where it is absolute, else takes its default below HOME.
fn folder_variable(
    surroundings: &Surroundings<'_>,
    name: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let absolute = |name: &str| {
        (surroundings.variable)(name).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    absolute(name).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
