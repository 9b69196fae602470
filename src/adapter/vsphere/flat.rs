//! A flat disk as a file of its datastore, read in ranges over HTTPS (`/folder`). No library is needed, and nothing tells which
//! parts were never written: all of it is read.
//!
//! # Guarantees
//!
//! The file is as long as the disk, or nothing of it is read. A range that did not come whole is asked for again, a few times.

use std::io::Read as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ureq::http::{Response, header};

use crate::adapter::location::VsphereDisk;
use crate::adapter::vsphere::link::Failure;
use crate::adapter::vsphere::session::Session;
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::extent::{Content, Extent};
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// How long a range may take.
const TIMEOUT: Duration = Duration::from_mins(2);

/// How often a range is asked for.
const TRIES: u32 = 6;

/// How long the second try waits; each one after it twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// How many ranges are worth having on their way.
const IN_FLIGHT: usize = 16;

/// A file of a datastore.
pub(super) struct FlatFile {
    session: Arc<Session>,
    url: String,
    /// What a person calls it.
    shown: String,
    size: u64,
}

impl FlatFile {
    /// Finds the file of a disk.
    pub(super) fn open(
        session: Arc<Session>,
        disk: &VsphereDisk,
        capacity: Bytes,
    ) -> Result<Self, PortError> {
        let shown = flat_name(&disk.file).ok_or_else(|| {
            PortError::lasting(
                format!("`{}` names no file of a datastore", visible(&disk.file)),
                "let the Provider read this VM's disks by another `transport`",
                Mend::Person,
            )
        })?;
        let mut missing = None;
        for url in urls(session.link.origin(), &disk.datacenter, &shown) {
            let file =
                Self { session: session.clone(), url, shown: shown.clone(), size: capacity.0 };
            let head =
                file.answer(|file, cookie| file.session.link.head(&file.url, Some(cookie)))?;
            match head.status().as_u16() {
                200 => return file.measured(&head),
                404 => missing = Some(file.gone()),
                _ => return Err(file.session.link.status(&head, &file.shown)),
            }
        }
        Err(missing.expect("there is one address at least"))
    }

    fn measured(self, head: &Response<ureq::Body>) -> Result<Self, PortError> {
        let length = head.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match length {
            Some(length) if length == self.size => Ok(self),
            Some(length) => Err(PortError::lasting(
                format!(
                    "{} has {length} bytes, and its disk {}: it is no flat file of that disk",
                    self.shown, self.size
                ),
                "let the Provider read this VM's disks by another `transport`",
                Mend::Source,
            )),
            None => Err(self.session.incomplete(&format!("how long {} is", self.shown))),
        }
    }

    /// Asks with the session's cookie, and once more with a new one where that is not taken any more.
    fn answer(
        &self,
        ask: impl Fn(&Self, &str) -> Result<Response<ureq::Body>, Failure>,
    ) -> Result<Response<ureq::Body>, PortError> {
        let told = |failure: Failure| self.session.failed("read a datastore", &failure);
        let cookie = self.session.cookie(None)?;
        let answer = ask(self, &cookie).map_err(told)?;
        if answer.status().as_u16() != 401 {
            return Ok(answer);
        }
        let cookie = self.session.cookie(Some(&cookie))?;
        let answer = ask(self, &cookie).map_err(told)?;
        if answer.status().as_u16() != 401 {
            return Ok(answer);
        }
        Err(PortError::lasting(
            format!(
                "{} does not let ferry's account read {}",
                self.session.link.origin(),
                self.shown
            ),
            "give the account's role Datastore.Browse and Datastore.FileManagement on that datastore",
            Mend::Source,
        ))
    }

    fn gone(&self) -> PortError {
        PortError::lasting(
            format!("{} has no file {}", self.session.link.origin(), self.shown),
            "look whether the VM was moved to another datastore or got a snapshot; a new Migration reads it as it is now",
            Mend::Source,
        )
    }

    fn range(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let end = offset + u64::try_from(buffer.len()).expect("lengths fit 64 bits");
        let range = Some((offset, end));
        let answer = self.answer(|file, cookie| {
            file.session.link.get(&file.url, Some(cookie), range, TIMEOUT)
        })?;
        match answer.status().as_u16() {
            206 => {}
            200 => {
                return Err(PortError::lasting(
                    format!("{} gives no ranges of files", self.session.link.origin()),
                    "let the Provider read disks by another `transport`",
                    Mend::Person,
                ));
            }
            404 => return Err(self.gone()),
            _ => return Err(self.session.link.status(&answer, &self.shown)),
        }
        let said = answer.headers().get(header::CONTENT_RANGE).and_then(|it| it.to_str().ok());
        let expected = format!("bytes {offset}-{}/{}", end - 1, self.size);
        if said != Some(expected.as_str()) {
            return Err(PortError::passing(
                format!(
                    "{} gives `{}` of {} where `{expected}` was asked for",
                    self.session.link.origin(),
                    visible(said.unwrap_or_default()),
                    self.shown
                ),
                "look what stands between this machine and the server",
            ));
        }
        answer.into_body().into_reader().read_exact(buffer).map_err(|error| {
            PortError::passing(
                format!(
                    "{} broke off within bytes {offset} to {end} of {}: {error}",
                    self.session.link.origin(),
                    self.shown
                ),
                "check the network between this machine and the server",
            )
        })
    }
}

impl Blocks for FlatFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        Ok(vec![Extent { offset, length, content: Content::Data }])
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.range(offset, buffer) {
                Err(error)
                    if error.fault.disposition == crate::journal::record::Disposition::Retry =>
                {
                    tracing::warn!(%error, "a range is asked for again");
                    thread::sleep(pause);
                    pause *= 2;
                }
                read => return read,
            }
        }
        self.range(offset, buffer)
    }
}

/// Names the file that holds the bytes of a disk: `[DATASTORE] FOLDER/NAME-flat.vmdk`.
fn flat_name(file: &str) -> Option<String> {
    let stem = file.strip_suffix(".vmdk")?;
    (file.starts_with('[') && file.contains("] ")).then(|| format!("{stem}-flat.vmdk"))
}

/// Returns the addresses that a file may have. Names in the query are encoded twice by servers of vSphere; where that makes a
/// difference, the plain way is tried as well.
fn urls(origin: &str, datacenter: &str, file: &str) -> Vec<String> {
    let (datastore, path) = file[1..].split_once("] ").unwrap_or((file, ""));
    let path: Vec<String> = path.split('/').map(encoded).collect();
    let (path, center, store) = (path.join("/"), encoded(datacenter), encoded(datastore));
    let url = |center: &str, store: &str| {
        format!("{origin}/folder/{path}?dcPath={center}&dsName={store}")
    };
    let mut urls = vec![url(&encoded(&center), &encoded(&store)), url(&center, &store)];
    urls.dedup();
    urls
}

/// Writes a text so that it is one part of a URL.
fn encoded(text: &str) -> String {
    let mut url = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_beside_its_descriptor_and_names_are_encoded() {
        assert_eq!(flat_name("[ds 1] web/a.vmdk").as_deref(), Some("[ds 1] web/a-flat.vmdk"));
        assert_eq!(flat_name("web/a.vmdk"), None);
        assert_eq!(flat_name("[ds] web/a.vswp"), None);
        assert_eq!(
            urls("https://vc", "DC", "[ds] web/a-flat.vmdk"),
            ["https://vc/folder/web/a-flat.vmdk?dcPath=DC&dsName=ds"]
        );
        assert_eq!(
            urls("https://vc", "Büro/DC", "[ds 1] w b/a.vmdk"),
            [
                "https://vc/folder/w%20b/a.vmdk?dcPath=B%25C3%25BCro%252FDC&dsName=ds%25201",
                "https://vc/folder/w%20b/a.vmdk?dcPath=B%C3%BCro%2FDC&dsName=ds%201"
            ]
        );
    }
}
