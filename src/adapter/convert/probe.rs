//! What keeps guests from being converted here, found without converting one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use rustix::fs::{Access, MemfdFlags, access, memfd_create, statvfs};

use super::QEMU_IMG;
use super::process::{Ending, Order, Patience, find, run, search_path};
use crate::adapter::clock::SystemClock;
use crate::copy::protocol::ConvertTools;
use crate::domain::unit::Bytes;
use crate::observed::{ConverterState, Gap};
use crate::port::Clock as _;

/// How long the converter may take to list what it can do. It starts nothing for that.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// How long one that did not answer is left alone.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// virt-v2v refuses to start with less.
const TMP_BYTES_MIN: Bytes = Bytes::mib(1024);

/// What the converter must list.
const NEEDED: [&str; 2] = ["input:libvirtxml", "convert:linux"];
/// What it must list for Windows.
const NEEDED_FOR_WINDOWS: &str = "convert:windows";

/// The programs that start services in Windows; one of them is needed.
const SERVICE_STARTERS: [&str; 2] = ["rhsrvany.exe", "pvvxsvc.exe"];

/// What else a guest can be moved by.
const OTHERWISE: &str = "; guests that have their drivers move with `skipGuestConversion: true`";

/// Looks at the converter, as often as it is asked. Files are looked at each time; the converter is asked again what it can do
/// when its file is another one.
#[derive(Debug)]
pub struct Probe {
    tools: ConvertTools,
    folders: Vec<PathBuf>,
    places: Places,
    clock: SystemClock,
    listed: Mutex<Option<Known>>,
}

/// What is known of the converter.
#[derive(Debug)]
struct Known {
    of: Stamp,
    listed: Listed,
    /// When it is asked again although its file is the same.
    until: Option<SignedDuration>,
}

/// What the converter lists, or why it does not.
type Listed = Result<Vec<String>, String>;

/// Where libguestfs and virt-v2v look.
#[derive(Debug)]
struct Places {
    boot: PathBuf,
    modules: PathBuf,
    /// Folders of a finished appliance, which needs no kernel of this machine.
    appliances: Vec<PathBuf>,
    windows_tools: PathBuf,
}

/// Which file it is, and in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

impl Default for Places {
    fn default() -> Self {
        let libraries = ["lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib"];
        Self {
            boot: "/boot".into(),
            modules: "/lib/modules".into(),
            appliances: libraries.map(|lib| Path::new("/usr").join(lib).join("guestfs")).into(),
            windows_tools: "/usr/share/virt-tools".into(),
        }
    }
}

/// Finds out what keeps guests from being converted here, without converting one.
pub fn probe(tools: &ConvertTools, folders: &[PathBuf]) -> ConverterState {
    Probe::new(tools.clone(), folders.to_vec()).look()
}

impl Probe {
    /// Takes the settings, and the folders in which programs are searched.
    pub fn new(tools: ConvertTools, folders: Vec<PathBuf>) -> Self {
        Self {
            tools,
            folders,
            places: Places::default(),
            listed: Mutex::default(),
            clock: SystemClock::start(),
        }
    }

    /// Looks.
    pub fn look(&self) -> ConverterState {
        let program = find(&self.tools.program, &self.folders);
        let listed = program.as_deref().map(|program| self.list(program));
        let missing = match &listed {
            None => Some(not_installed(&self.tools.program)),
            Some(Err(why)) => Some(unfit(&self.tools.program, why)),
            Some(Ok(features)) => NEEDED
                .iter()
                .find(|needed| !features.iter().any(|feature| feature == *needed))
                .map(|needed| unfit(&self.tools.program, &format!("it does not list `{needed}`"))),
        };
        let missing =
            missing.or_else(|| self.tool()).or_else(|| self.kernel()).or_else(|| self.tmp_dir());
        let features = listed.and_then(Result::ok).unwrap_or_default();
        ConverterState { missing, missing_for_windows: self.windows(&features) }
    }

    /// Asks the converter what it can do.
    fn list(&self, program: &Path) -> Listed {
        let stamp = stamp(program).map_err(|error| error.to_string())?;
        let mut known = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Known { of, listed, until }) = known.as_ref()
            && *of == stamp
            && until.is_none_or(|until| self.clock.elapsed() < until)
        {
            return listed.clone();
        }
        let mut lines = Vec::new();
        let ending = ask(program, search_path(&self.folders), &mut lines);
        let mut until = None;
        let listed = match ending.map_err(|error| error.to_string())? {
            Ending::Code(0) => Ok(lines),
            Ending::Code(code) => Err(format!("it ended with {code}: {}", lines.join(" "))),
            Ending::Signal(signal) => Err(format!("signal {signal} ended it")),
            // A busy machine is another one later; every pass would wait for it, whatever else it has to do.
            Ending::Silent | Ending::Stopped => {
                until = Some(self.clock.elapsed() + SILENCE);
                Err("it does not answer".to_owned())
            }
        };
        *known = Some(Known { of: stamp, listed: listed.clone(), until });
        listed
    }

    fn tool(&self) -> Option<Gap> {
        find(QEMU_IMG, &self.folders).is_none().then(|| not_installed(QEMU_IMG))
    }

    /// libguestfs boots a kernel of this machine, with its modules, unless it has an appliance that is finished.
    fn kernel(&self) -> Option<Gap> {
        let Places { boot, modules, appliances, windows_tools: _ } = &self.places;
        let finished = |folder: &PathBuf| {
            ["kernel", "initrd", "root"].iter().all(|file| folder.join(file).is_file())
        };
        if appliances.iter().any(finished) {
            return None;
        }
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let readable = |path: &Path| access(path, Access::READ_OK).is_ok();
        let installed = names(boot);
        let booted = installed.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
        let with_modules: Vec<&str> =
            booted.filter(|version| modules.join(version).is_dir()).collect();
        let usable =
            with_modules.iter().any(|version| readable(&boot.join(format!("vmlinuz-{version}"))))
                || names(modules).iter().any(|name| readable(&modules.join(name).join("vmlinuz")));
        if usable {
            return None;
        }
        Some(match with_modules.first() {
            Some(version) => Gap {
                reason: format!(
                    "{}/vmlinuz-{version}, which libguestfs boots to look into guests, cannot be read by ferry's user",
                    boot.display()
                ),
                remedy: format!("`chmod a+r {}/vmlinuz-*`", boot.display()),
            },
            None => Gap {
                reason: format!(
                    "libguestfs boots a kernel to look into guests, and there is none in {} with its modules in {}",
                    boot.display(),
                    modules.display()
                ),
                remedy: "install one (Debian: `apt-get install linux-image-cloud-amd64`)"
                    .to_owned(),
            },
        })
    }

    fn tmp_dir(&self) -> Option<Gap> {
        let tmp_dir = &self.tools.tmp_dir;
        let remedy = "let `convert.tmpDir` in ferry.yaml name a folder that ferry's user may write";
        let gap = |reason| Some(Gap { reason, remedy: remedy.to_owned() });
        if !Path::new(tmp_dir).is_dir() {
            return gap(format!("the converter's temporary folder {tmp_dir} is not there"));
        }
        if let Err(error) = access(tmp_dir, Access::WRITE_OK | Access::EXEC_OK) {
            return gap(format!("the converter's temporary folder {tmp_dir}: {error}"));
        }
        let room = statvfs(tmp_dir).ok()?;
        let free = Bytes(room.f_bavail.saturating_mul(room.f_frsize));
        (free < TMP_BYTES_MIN).then(|| Gap {
            reason: format!(
                "the converter's temporary folder {tmp_dir} has {free} free, less than {TMP_BYTES_MIN}"
            ),
            remedy: "make room there, or let `convert.tmpDir` in ferry.yaml name another folder"
                .to_owned(),
        })
    }

    fn windows(&self, features: &[String]) -> Option<Gap> {
        let Self { tools: ConvertTools { program, virtio_win, .. }, places, .. } = self;
        if !features.iter().any(|feature| feature == NEEDED_FOR_WINDOWS) {
            return Some(unfit(program, &format!("it does not list `{NEEDED_FOR_WINDOWS}`")));
        }
        if !Path::new(virtio_win).exists() {
            return Some(Gap {
                reason: format!("the drivers for Windows are not there: {virtio_win}"),
                remedy: "get virtio-win.iso (https://fedorapeople.org/groups/virt/virtio-win/) and let `convert.virtioWin` in ferry.yaml name it".to_owned(),
            });
        }
        let folder = &places.windows_tools;
        let found = SERVICE_STARTERS.iter().any(|name| folder.join(name).is_file());
        (!found).then(|| Gap {
            reason: format!(
                "{} is not there, which installs the drivers when Windows first starts",
                folder.join(SERVICE_STARTERS[0]).display()
            ),
            remedy: format!(
                "put it there (Fedora's package `mingw32-srvany`, or virt-v2v's sources) as {}",
                folder.join(SERVICE_STARTERS[0]).display()
            ),
        })
    }
}

/// Says that a program is not there.
pub(super) fn not_installed(program: &str) -> Gap {
    let package = if program == QEMU_IMG { "qemu-utils" } else { "virt-v2v" };
    let named = if program == QEMU_IMG {
        String::new()
    } else {
        format!(", or let `convert.path` in ferry.yaml name it{OTHERWISE}")
    };
    Gap {
        reason: format!("guests cannot be converted here: `{program}` is not installed"),
        remedy: format!("install it (Debian: `apt-get install {package}`){named}"),
    }
}

fn unfit(program: &str, why: &str) -> Gap {
    Gap {
        reason: format!("`{program} --machine-readable` is of no use here: {why}"),
        remedy: format!(
            "install virt-v2v 2.0 or later (Debian: `apt-get install virt-v2v`), or let `convert.path` in ferry.yaml name another{OTHERWISE}"
        ),
    }
}

fn stamp(program: &Path) -> io::Result<Stamp> {
    let found = fs::metadata(program)?;
    let changed = (found.mtime(), found.mtime_nsec());
    Ok(Stamp { path: program.to_owned(), inode: found.ino(), changed })
}

fn ask(program: &Path, path: OsString, lines: &mut Vec<String>) -> io::Result<Ending> {
    let nothing = File::from(memfd_create("ferry-nothing", MemfdFlags::CLOEXEC)?);
    let order = Order {
        program,
        arguments: vec!["--machine-readable".into()],
        environment: vec![("PATH", path), ("LC_ALL", "C.UTF-8".into())],
        lock: &nothing,
    };
    let patience = Patience { silence: LIST_WAIT, ask: Duration::from_millis(200) };
    run(&order, patience, &mut |line| {
        lines.extend(line.map(str::to_owned));
        // It lists some twenty features.
        lines.truncate(1000);
        true
    })
}

#[cfg(test)]
mod tests;
