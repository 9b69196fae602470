//! Programs that are started, listened to, and ended with everything that they started.
//!
//! # Guarantees
//!
//! A program runs in a process group of its own, below a guard: a shell that ends the group when this process ends, however it
//! does. virt-v2v starts daemons that outlive it, and the kernel tells only its child that a parent is gone. The group is ended
//! as a whole as well when its program ends, is stopped or says nothing for too long. Every process of it holds the lock that
//! it was started with; where all of that fails, the lock keeps others out as long as one of them lives.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group,
    set_parent_process_death_signal, waitid,
};

/// What the guard does. It is asked to end when its parent is gone, and takes its group along; `3` is the lock, since a shell
/// gives what it starts in the background no standard input.
const GUARD: &str = r#"trap 'kill -KILL 0' TERM; exec 3<&0; "$@" <&3 3<&- & wait $!"#;

/// The longest line that is kept; what is longer is cut off.
const LINE_BYTES_MAX: usize = 4 << 10;

/// How many lines wait to be heard. A program that says more has to wait.
const LINES_WAITING_MAX: usize = 64;

/// How long a group may take to end after SIGKILL.
const END_WAIT: Duration = Duration::from_secs(10);

/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long a program may say nothing.
    pub(super) silence: Duration,
    /// How often whoever listens is asked whether to go on while it says nothing.
    pub(super) ask: Duration,
}

/// A program to be started.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// Its file.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) arguments: Vec<OsString>,
    /// Its environment, all of it.
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// What every process of it holds.
    pub(super) lock: &'a File,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Whoever listened did not want to go on.
    Stopped,
    /// It said nothing for too long.
    Silent,
}

/// Finds a program: a path as it is, a name in the folders.
pub(super) fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(runs);
    }
    folders.iter().map(|folder| folder.join(program)).find(|path| !program.is_empty() && runs(path))
}

/// Returns the search path for what programs start themselves: the folders, and those of an administrator.
pub(super) fn search_path(folders: &[PathBuf]) -> OsString {
    let mut path = OsString::new();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    for folder in folders.iter().map(PathBuf::as_path).chain(administrators.map(Path::new)) {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(folder);
    }
    path
}

/// Runs a program to its end. `heard` is given each line that it writes, and `None` from time to time while it writes nothing,
/// and answers whether to go on.
pub(super) fn run(
    order: &Order<'_>,
    patience: Patience,
    heard: &mut dyn FnMut(Option<&str>) -> bool,
) -> io::Result<Ending> {
    let (mut child, output) = start(order)?;
    let (say, lines) = sync_channel(LINES_WAITING_MAX);
    // It ends with the last process that could write; what left the group does not keep this one.
    thread::spawn(move || listen(output, &say));
    let early = follow(&child, &lines, patience, heard);
    // Not waited for yet, its number cannot mean another group.
    let ended = end(&mut child);
    while let Ok(line) = lines.recv_timeout(END_WAIT) {
        heard(Some(&line));
    }
    match (early?, ended?) {
        (Some(early), _) => Ok(early),
        (None, ended) => Ok(ended),
    }
}

#[expect(clippy::disallowed_methods, reason = "the converter is a program of its own")]
#[expect(unsafe_code, reason = "only a process itself can ask for a signal when its parent ends")]
fn start(order: &Order<'_>) -> io::Result<(Child, PipeReader)> {
    let Order { program, arguments, environment, lock } = order;
    let (output, said) = io::pipe()?;
    let parent = getpid();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", GUARD, "sh"])
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(lock.try_clone()?))
        .stdout(said.try_clone()?)
        .stderr(said)
        .process_group(0);
    let tied = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // A parent that was gone before is not told of.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(tied) };
    Ok((command.spawn()?, output))
}

/// Listens until the program ends, or why it has to.
fn follow(
    child: &Child,
    lines: &Receiver<String>,
    patience: Patience,
    heard: &mut dyn FnMut(Option<&str>) -> bool,
) -> io::Result<Option<Ending>> {
    let mut silent = Duration::ZERO;
    loop {
        let (line, waited) = match lines.recv_timeout(patience.ask) {
            Ok(line) => (Some(line), Duration::ZERO),
            Err(RecvTimeoutError::Timeout) => (None, patience.ask),
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(LOOK);
                (None, LOOK)
            }
        };
        silent = if line.is_some() { Duration::ZERO } else { silent + waited };
        if line.is_none() && over(child)? {
            return Ok(None);
        }
        if !heard(line.as_deref()) {
            return Ok(Some(Ending::Stopped));
        }
        if silent >= patience.silence {
            return Ok(Some(Ending::Silent));
        }
    }
}

/// Tells whether a process ended, and leaves it to be waited for.
fn over(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(id(child)), options)?.is_some())
}

fn id(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Ends a group and waits for the process that leads it.
fn end(child: &mut Child) -> io::Result<Ending> {
    // The guard ends when its program does, and what that left running is ended here.
    kill_process_group(id(child), Signal::KILL)?;
    let mut waited = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if waited >= END_WAIT {
            return Err(io::Error::other("it does not end, not even by SIGKILL"));
        }
        thread::sleep(LOOK);
        waited += LOOK;
    };
    Ok(match (status.signal(), status.code()) {
        (Some(signal), _) => Ending::Signal(signal),
        // A shell adds 128 to the signal that ended what it waited for.
        (None, Some(code)) if code > 128 => Ending::Signal(code - 128),
        (None, code) => Ending::Code(code.unwrap_or_default()),
    })
}

/// Hands on what is written, line by line; a carriage return ends a line as well.
fn listen(mut output: PipeReader, say: &SyncSender<String>) {
    let mut buffer = [0; 4 << 10];
    let mut line = Vec::new();
    let tell = |line: &mut Vec<u8>| {
        let told = say.send(String::from_utf8_lossy(line).into_owned()).is_ok();
        line.clear();
        told
    };
    loop {
        let count = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in &buffer[..count] {
            match byte {
                b'\n' | b'\r' if tell(&mut line) => {}
                b'\n' | b'\r' => return,
                _ if line.len() < LINE_BYTES_MAX => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        tell(&mut line);
    }
}
