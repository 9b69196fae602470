//! A libvirt, spoken to through `virsh`: which domains it has, and what is done with those that Ferry made.
//!
//! # Guarantees
//!
//! Every call ends within [`PATIENCE`]; a `virsh` that hangs is killed with all that it started, and for [`SILENCE`] nobody asks
//! again what is there. Domains are named by their UUID, and a domain's XML goes in through a file that is open already, so that
//! no name and no path ever becomes an argument.
//!
//! # Errors
//!
//! What `virsh` complains of is passed on in its own words and never understood: whether a domain is there is told by a list
//! that succeeded. A libvirt that does not answer is an error of every call, so that nothing follows from its silence.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::SignedDuration;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::adapter::clock::SystemClock;
use crate::domain::text::visible;
use crate::domain::vm::Power;
use crate::journal::record::Mend;
use crate::port::{Clock as _, PortError};

/// How long `virsh` may take. It answers within milliseconds, starting a guest included, unless libvirt or a storage hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a list may take: each pass waits for one, whatever else it has to do.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a libvirt that did not answer is left alone.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// How long a `virsh` that was killed may take to end.
const KILLED: Duration = Duration::from_secs(1);

/// How often a running `virsh` is looked at: it is through after some 15 ms.
const LOOK: Duration = Duration::from_millis(5);

/// How much of an answer is read: the list of a hundred thousand domains.
const ANSWER_MAX: u64 = 16 << 20;

/// How much of a complaint is passed on, in characters.
const COMPLAINT_MAX: usize = 500;

/// How long a UUID is, as `virsh` writes it.
const UUID_LENGTH: usize = 36;

/// A libvirt.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    folders: Vec<PathBuf>,
    patience: Duration,
    clock: SystemClock,
    /// When it did not answer, and what was said of that.
    unanswered: Mutex<Option<(SignedDuration, PortError)>>,
}

/// A domain as libvirt lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Domain {
    /// Its UUID, in lower case.
    pub(super) uuid: String,
    /// Its name.
    pub(super) name: String,
    /// Whether it has a process, paused or not.
    pub(super) power: Power,
}

/// All domains of a libvirt, as they were at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Domains(pub(super) Vec<Domain>);

impl Domains {
    /// Finds a domain by its UUID.
    pub(super) fn of(&self, uuid: &str) -> Option<&Domain> {
        self.0.iter().find(|domain| domain.uuid == uuid)
    }

    /// Finds a domain by its name.
    pub(super) fn named(&self, name: &str) -> Option<&Domain> {
        self.0.iter().find(|domain| domain.name == name)
    }

    /// Tells whether a domain runs; one that is not there does not.
    pub(super) fn power(&self, uuid: &str) -> Power {
        self.of(uuid).map_or(Power::Off, |domain| domain.power)
    }
}

impl Libvirt {
    /// Takes where libvirt is, and the folders in which `virsh` is searched.
    pub fn new(uri: String, folders: Vec<PathBuf>) -> Self {
        let (clock, unanswered) = (SystemClock::start(), Mutex::default());
        Self { uri, folders, patience: PATIENCE, clock, unanswered }
    }

    /// Returns where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Asks what it is: the versions of libvirt and of the hypervisor.
    pub fn version(&self) -> Result<String, PortError> {
        let said = self.ask(&["version"], None)?;
        let of = |label: &str| said.lines().find_map(|line| line.strip_prefix(label));
        let parts = [of("Using library: "), of("Running hypervisor: ")];
        let parts: Vec<_> = parts.into_iter().flatten().map(|part| visible(part.trim())).collect();
        Ok(parts.join(", "))
    }

    /// Lists all domains. What runs is asked last: of a domain that is started meanwhile nobody believes that it is off.
    pub(super) fn domains(&self) -> Result<Domains, PortError> {
        if let Some((at, error)) = &*self.unanswered()
            && self.clock.elapsed() - *at < SILENCE
        {
            return Err(error.clone());
        }
        let mut all = self.list(&["list", "--all", "--uuid", "--name"], Power::Off)?;
        for active in self.list(&["list", "--uuid", "--name"], Power::On)? {
            match all.iter_mut().find(|domain| domain.uuid == active.uuid) {
                Some(domain) => *domain = active,
                None => all.push(active),
            }
        }
        Ok(Domains(all))
    }

    /// Defines a domain.
    pub(super) fn define(&self, xml: &[u8]) -> Result<(), PortError> {
        self.ask(&["define", "/dev/stdin"], Some(xml)).map(drop)
    }

    /// Starts a defined domain.
    pub(super) fn start(&self, uuid: &str) -> Result<(), PortError> {
        self.ask(&["start", uuid], None).map(drop)
    }

    /// Undefines a domain, and deletes what libvirt keeps of it: the variables of its firmware, a saved state, the lists of
    /// snapshots.
    pub(super) fn undefine(&self, uuid: &str) -> Result<(), PortError> {
        let all = ["--nvram", "--managed-save", "--snapshots-metadata"];
        self.ask(&[&["undefine", uuid][..], &all].concat(), None).map(drop)
    }

    fn list(&self, arguments: &[&str], power: Power) -> Result<Vec<Domain>, PortError> {
        let patience = self.patience.min(LIST_PATIENCE);
        let began = self.clock.elapsed();
        let asked = self.ask_within(patience, arguments, None);
        let now = self.clock.elapsed();
        if let Err(error) = &asked
            && (now - began).unsigned_abs() >= patience
        {
            *self.unanswered() = Some((now, error.clone()));
        }
        let said = asked?;
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        let domains = lines.map(|line| {
            let (uuid, name) = line.split_at_checked(UUID_LENGTH)?;
            let sound = uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
            let (uuid, name) = (uuid.to_ascii_lowercase(), name.trim().to_owned());
            (sound && !name.is_empty()).then_some(Domain { uuid, name, power })
        });
        domains.collect::<Option<_>>().ok_or_else(|| {
            let text = format!("`virsh {}` gave no list of domains", arguments.join(" "));
            self.passing(text)
        })
    }

    /// Runs `virsh` and returns its answer.
    fn ask(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<String, PortError> {
        self.ask_within(self.patience, arguments, input)
    }

    fn ask_within(
        &self,
        patience: Duration,
        arguments: &[&str],
        input: Option<&[u8]>,
    ) -> Result<String, PortError> {
        let what = format!("`virsh -c {} {}`", self.uri, arguments.join(" "));
        let program = self.program()?;
        let failed = |error: io::Error| self.passing(format!("cannot run {what}: {error}"));
        let (mut answer, mut complaint) = (memory().map_err(failed)?, memory().map_err(failed)?);
        let child = self.spawn(&program, arguments, input, [&answer, &complaint]);
        let ended = await_end(child.map_err(failed)?, patience).map_err(failed)?;
        let complaint = words(&read(&mut complaint).map_err(failed)?);
        match ended {
            Some(status) if status.success() => read(&mut answer).map_err(failed),
            Some(_) if complaint.is_empty() => {
                Err(self.passing(format!("{what} failed without a word")))
            }
            Some(_) => Err(self.passing(format!("{what} failed: {complaint}"))),
            None => {
                let seconds = patience.as_secs();
                let text = format!("{what} did not end within {seconds} s and was killed");
                let said = if complaint.is_empty() { "" } else { ": " };
                Err(self.passing(format!("{text}{said}{complaint}")))
            }
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, Option<(SignedDuration, PortError)>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn program(&self) -> Result<PathBuf, PortError> {
        let mut programs = self.folders.iter().map(|folder| folder.join("virsh"));
        programs.find(|path| path.is_file()).ok_or_else(|| {
            PortError::lasting(
                format!("`virsh` is not installed, and `libvirt.uri` is {}", self.uri),
                "install it (libvirt-clients), or take `libvirt.uri` out of ferry.yaml",
                Mend::Target,
            )
        })
    }

    #[expect(clippy::disallowed_methods, reason = "libvirt is spoken to by its own program")]
    fn spawn(
        &self,
        program: &PathBuf,
        arguments: &[&str],
        input: Option<&[u8]>,
        [answer, complaint]: [&File; 2],
    ) -> io::Result<Child> {
        let input = match input {
            Some(bytes) => {
                let mut file = memory()?;
                file.write_all(bytes)?;
                file.rewind()?;
                Stdio::from(file)
            }
            // Nobody is there to answer a question.
            None => Stdio::null(),
        };
        Command::new(program)
            .args(["-q", "-c", &self.uri])
            .args(arguments)
            .env("LC_ALL", "C")
            .env_remove("VIRSH_DEBUG")
            .env_remove("VIRSH_LOG_FILE")
            .stdin(input)
            .stdout(Stdio::from(answer.try_clone()?))
            .stderr(Stdio::from(complaint.try_clone()?))
            // What it starts, such as `ssh`, is killed with it, and Ctrl-C on a terminal is for Ferry alone.
            .process_group(0)
            .spawn()
    }

    fn passing(&self, text: String) -> PortError {
        let remedy = format!(
            "what libvirt complains of tells what to do; where it does not answer, `virsh -c {} list --all` has to work for ferry's user: start it, or correct `libvirt.uri`",
            self.uri
        );
        PortError::passing(text, remedy)
    }
}

/// Waits for the end, and brings it about after a while; `None` where it had to be brought about.
fn await_end(mut child: Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    for _ in 0..=patience.as_millis() / LOOK.as_millis() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(LOOK);
    }
    // It may have ended by itself just now.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    // One that the kernel does not let go is left to it.
    for _ in 0..=KILLED.as_millis() / LOOK.as_millis() {
        if child.try_wait()?.is_some() {
            break;
        }
        thread::sleep(LOOK);
    }
    Ok(None)
}

/// Makes a file that only lies in memory. Unlike a pipe it never makes its writer wait, and outlives it.
fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("ferry-virsh", MemfdFlags::CLOEXEC)?))
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(ANSWER_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes one sentence of the lines of a complaint.
fn words(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim().trim_start_matches("error: "));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    visible(&lines.join("; ")).chars().take(COMPLAINT_MAX).collect()
}

#[cfg(test)]
pub(super) mod tests;
