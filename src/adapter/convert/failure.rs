//! Why a conversion failed, and what can be done about it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{OFlags, fstatvfs, statvfs};

use super::process::{Ending, Patience};
use super::words::Words;
use crate::adapter::local::folder::Folder;
use crate::copy::protocol::ConvertJob;
use crate::domain::unit::Bytes;
use crate::domain::vm::CONVERSION_ROOM;
use crate::journal::record::Mend;
use crate::port::PortError;

/// With less room than this left on the host, a failure is taken for one of room: inside the guest a full host shows as an
/// error of its disk, or not at all.
const ROOM_MIN: Bytes = Bytes::mib(64);

/// With less than this nothing can be written: QEMU gives an overlay 64 KiB at a time.
const ROOM_NONE: Bytes = Bytes::mib(1);

/// How a shell says that it cannot start a program: it may not, or there is none.
const NOT_STARTED: [i32; 2] = [126, 127];

/// A conversion that did not come to its end.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) job: &'a ConvertJob,
    pub(super) area: &'a Folder,
    pub(super) program: &'a Path,
    pub(super) log: String,
    /// The overlays, which are still there.
    pub(super) overlays: Vec<String>,
}

impl Attempt<'_> {
    /// Tells whether there is no room for what the converter writes.
    pub(super) fn is_full(&self) -> bool {
        room(fstatvfs(self.area.fd())).min(room(statvfs(&self.job.tools.tmp_dir))) < ROOM_NONE
    }

    /// Says why.
    pub(super) fn failed(&self, ending: Ending, words: &Words, patience: Patience) -> PortError {
        let Self { job, area, program, log, overlays } = self;
        let program = program.display();
        let said = words.failure();
        let step = &words.step;
        let passing = |why: String| {
            let remedy = format!("the disks are as they were copied; see {log}");
            PortError::passing(format!("{program} {why} while it was at `{step}`"), remedy)
        };
        match ending {
            Ending::Signal(signal) => return passing(format!("was ended by signal {signal}")),
            Ending::Silent => {
                let minutes = patience.silence.as_secs() / 60;
                return passing(format!("said nothing for {minutes} minutes and was ended"));
            }
            Ending::Code(code) if NOT_STARTED.contains(&code) => {
                let text = format!("cannot start {program}: {said}");
                let remedy = "check `convert.path` in ferry.yaml and the program's permissions";
                return PortError::lasting(text, remedy, Mend::Target);
            }
            Ending::Code(0) => return self.slow(words),
            Ending::Code(_) | Ending::Stopped => {}
        }
        let why = match ending {
            Ending::Stopped => format!("{program} stood still at `{step}`: no room was left"),
            _ => said,
        };
        let text = format!("the guest {} cannot be converted: {why}", job.name);
        if room(fstatvfs(area.fd())) < ROOM_MIN {
            let remedy = format!("free space below {}; see {log}", area.at("").display());
            // What the overlays took comes back with them, and was not enough.
            let taken: u64 = overlays.iter().filter_map(|name| allocated(area, name)).sum();
            let wanted = Bytes(taken.saturating_add(CONVERSION_ROOM.0));
            return PortError::lasting(text, remedy, Mend::Space(wanted));
        }
        if room(statvfs(&job.tools.tmp_dir)) < ROOM_MIN {
            let remedy = format!("free space below {}; see {log}", job.tools.tmp_dir);
            return PortError::lasting(text, remedy, Mend::Person);
        }
        let cause = if why.contains("multi-boot") { "; leave one system on its disks" } else { "" };
        let remedy = format!(
            "the disks are as they were copied; see {log}{cause}; for a guest that has its drivers, set `skipGuestConversion: true` in its plan"
        );
        PortError::lasting(text, remedy, Mend::Person)
    }

    /// A guest that would be started on devices which it cannot use.
    fn slow(&self, words: &Words) -> PortError {
        let Self { job, log, .. } = self;
        let said = words.slow.as_deref().unwrap_or_default();
        PortError::lasting(
            format!(
                "the guest {} has no drivers for virtio after its conversion: {said}",
                job.name
            ),
            format!(
                "its disks are as they were copied; install virtio drivers that fit it (for Windows `convert.virtioWin`, for Linux a kernel with virtio), see {log}"
            ),
            Mend::Person,
        )
    }
}

/// Returns how much a file takes on its disk.
fn allocated(area: &Folder, name: &str) -> Option<u64> {
    let file = area.file(name, OFlags::empty()).ok()??;
    Some(file.metadata().ok()?.blocks().saturating_mul(512))
}

/// Where that cannot be told, there is room.
fn room(found: rustix::io::Result<rustix::fs::StatVfs>) -> Bytes {
    found.map_or(Bytes(u64::MAX), |found| Bytes(found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Says what qemu-img could not do. A disk that an overlay is committed to in part is made whole by the next try.
pub(super) fn failed_tool(what: &str, path: &Path, said: &[String], ending: Ending) -> PortError {
    let words = if said.is_empty() { format!("{ending:?}") } else { said.join(" ") };
    let text = format!("cannot {what} {}: {words}", path.display());
    if words.contains("No space left on device") || words.contains("Disk quota exceeded") {
        let remedy = "make room on the target's file system";
        return PortError::lasting(text, remedy, Mend::Space(CONVERSION_ROOM));
    }
    PortError::passing(text, "look at the machine's log and its disks")
}

/// Says why a program could not be started or waited for.
pub(super) fn not_started(program: &Path, error: &io::Error) -> PortError {
    PortError::passing(
        format!("cannot run {}: {error}", program.display()),
        "look at the machine's log, and whether it has room for another process",
    )
}
