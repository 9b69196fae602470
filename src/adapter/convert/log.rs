//! The log of one attempt's conversions: everything that the converter wrote, with the time of each line.

use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use jiff::Timestamp;

use crate::copy::protocol::ConvertJob;
use crate::domain::text::{file_name, visible};
use crate::journal::record::Mend;
use crate::port::PortError;

/// How much of one conversion is kept. virt-v2v writes a few kilobytes.
const LOG_BYTES_MAX: usize = 4 << 20;

/// A log, open at its end.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    left: usize,
}

impl Log {
    /// Opens the log of an attempt, and makes it and its folder where they are not there.
    pub(super) fn open(job: &ConvertJob) -> Result<Self, PortError> {
        let folder = PathBuf::from(&job.tools.log_dir);
        let migration = file_name(job.run.migration.as_str());
        let name = format!("{migration}-{}-{}.log", file_name(&job.name), job.run.attempt);
        let path = folder.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let opened =
            made.and_then(|()| File::options().create(true).append(true).mode(0o600).open(&path));
        let file = opened.map_err(|error| {
            PortError::lasting(
                format!("cannot write the converter's log {}: {error}", path.display()),
                "let ferry's user write its state folder, and make room there",
                Mend::Target,
            )
        })?;
        Ok(Self { file, path, left: LOG_BYTES_MAX })
    }

    /// Names it.
    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Adds a line.
    #[expect(clippy::disallowed_methods, reason = "a log tells when things were said")]
    pub(super) fn line(&mut self, text: &str) {
        let line = format!("{:.0} {}\n", Timestamp::now(), visible(text));
        self.left = self.left.saturating_sub(line.len());
        if self.left > 0 {
            // A log that cannot be written keeps no guest from being converted.
            let _ = self.file.write_all(line.as_bytes());
        }
    }
}
