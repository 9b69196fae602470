//! A VM's disks as the server exports them (`HttpNfcLease`): stream-optimized, in one go, without a way to go on.
//!
//! # Guarantees
//!
//! While a disk is read its lease is kept alive, and the VM cannot be started or moved. The lease is given back at the end,
//! whatever happened; only a worker that was killed leaves it, until the server's own time-out.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::SignedDuration;

use crate::adapter::image::stream::Supply;
use crate::adapter::location::VsphereDisk;
use crate::adapter::vsphere::collector::{Watch, Wish};
use crate::adapter::vsphere::link::{Failure, Link};
use crate::adapter::vsphere::session::Session;
use crate::adapter::vsphere::soap::{Fault, Ref, Request};
use crate::domain::text::visible;
use crate::journal::record::Mend;
use crate::port::PortError;
use crate::xml::Element;

/// How long the server may take to prepare an export.
const READY_TIME: SignedDuration = SignedDuration::from_secs(150);

/// How often the server hears that the lease is still used; it ends one after five minutes.
const PROGRESS: Duration = Duration::from_secs(20);

/// How long the server may send one disk: the whole of it comes in one answer.
const DISK_TIME: Duration = Duration::from_hours(7 * 24);

/// What is read of a lease.
const WISH: Wish = Wish { kind: "HttpNfcLease", paths: &["state", "info", "error"] };

/// The leases of one worker: one for each VM, shared by its disks.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<String, Weak<Lease>>>);

/// An export that is under way.
#[derive(Debug)]
struct Lease {
    session: Arc<Session>,
    own: Ref,
    /// For each disk: where it is connected, its address, and the thumbprint of the host that it is at.
    disks: Vec<Exported>,
    /// Ends the thread that keeps it alive when it is dropped.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Clone, Debug)]
struct Exported {
    key: String,
    url: String,
    thumbprint: Option<String>,
}

impl Leases {
    /// Opens a disk of a VM's export.
    pub(super) fn open(
        &self,
        session: &Arc<Session>,
        disk: &VsphereDisk,
    ) -> Result<Box<dyn Supply>, PortError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = match all.get(&disk.vm).and_then(Weak::upgrade) {
            Some(lease) => lease,
            None => {
                let lease = Arc::new(Lease::take(session.clone(), &disk.vm)?);
                all.insert(disk.vm.clone(), Arc::downgrade(&lease));
                lease
            }
        };
        drop(all);
        Ok(Box::new(lease.download(disk)?))
    }
}

impl Lease {
    fn take(session: Arc<Session>, vm: &str) -> Result<Self, PortError> {
        let failed = |failure: Failure| session.failed("export the VM", &failure);
        let request = Request::new("ExportVm", &Ref::new("VirtualMachine", vm));
        let own = session.begin(&request, "which lease it made").map_err(failed)?;
        let mut lease = Self { session: session.clone(), own, disks: Vec::new(), keeper: None };
        lease.disks = lease.ready()?;
        lease.keeper = Some(lease.keep());
        Ok(lease)
    }

    /// Waits until it can be read from.
    fn ready(&self) -> Result<Vec<Exported>, PortError> {
        let session = &self.session;
        let ready = Watch::until(session, WISH, &self.own, READY_TIME, |known| {
            match known.get("state").map(Element::text) {
                Some("ready") => {
                    let urls = known.get("info").into_iter().flat_map(|info| info.all("deviceUrl"));
                    Some(Ok(urls.filter_map(Exported::of).collect()))
                }
                Some("error") => Some(Err(match known.get("error") {
                    Some(fault) => session.refused("export the VM", &Fault::of_method(fault)),
                    None => session.incomplete("why the export failed"),
                })),
                Some(_) | None => None,
            }
        });
        ready.map_err(|failure| session.failed("export the VM", &failure))?.unwrap_or_else(|| {
            Err(PortError::passing(
                format!("{} did not prepare the export of the VM", session.link.origin()),
                "look at the VM's tasks in vCenter",
            ))
        })
    }

    /// Starts what tells the server that the lease is used.
    fn keep(&self) -> (Sender<()>, JoinHandle<()>) {
        let (end, ended) = mpsc::channel::<()>();
        let (session, lease) = (self.session.clone(), self.own.clone());
        let keeper = thread::spawn(move || {
            while ended.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                let request = Request::new("HttpNfcLeaseProgress", &lease).text("percent", 50);
                if let Err(failure) = session.call(&request) {
                    let error = session.failed("keep the export alive", &failure);
                    tracing::warn!(%error, "the server did not hear that the export is used");
                }
            }
        });
        (end, keeper)
    }

    fn download(self: Arc<Self>, disk: &VsphereDisk) -> Result<Download, PortError> {
        let origin = self.session.link.origin();
        let same = |exported: &&Exported| exported.key.ends_with(&format!("/{}", disk.slot));
        let mut found = self.disks.iter().filter(same);
        let (Some(exported), None) = (found.next(), found.next()) else {
            let known: Vec<_> = self.disks.iter().map(|it| visible(&it.key)).collect();
            return Err(PortError::lasting(
                format!("{origin} exports no single disk for {}: {}", disk.slot, known.join(", ")),
                "let the Provider read this VM's disks by another `transport`",
                Mend::Source,
            ));
        };
        // A star stands for the server that was asked.
        let url = match exported.url.strip_prefix("https://*") {
            Some(path) => format!("{origin}{}", &path[path.find('/').unwrap_or(path.len())..]),
            None => exported.url.clone(),
        };
        let same_server = url.starts_with(&format!("{origin}/"));
        let link = match (&exported.thumbprint, same_server) {
            (_, true) => self.session.link.clone(),
            (Some(thumbprint), false) => Link::pinned(&url, thumbprint)?,
            (None, false) => {
                return Err(PortError::lasting(
                    format!("{origin} names {} for a disk and no thumbprint of it", visible(&url)),
                    "let the Provider read this VM's disks by another `transport`",
                    Mend::Source,
                ));
            }
        };
        let failed = |failure: Failure| self.session.failed("send a disk", &failure);
        // The address holds its own ticket: a session is nothing for a host that the server names.
        let answer = link.get(&url, None, None, DISK_TIME).map_err(failed)?;
        if answer.status().as_u16() != 200 {
            return Err(link.status(&answer, &disk.file));
        }
        let body = Box::new(answer.into_body().into_with_config().limit(u64::MAX).reader());
        Ok(Download { shown: disk.file.clone(), body, _lease: self })
    }
}

impl Exported {
    fn of(device: &Element) -> Option<Self> {
        if device.text_of("disk") == Some("false") {
            return None;
        }
        Some(Self {
            key: device.text_of("key")?.to_owned(),
            url: device.text_of("url")?.to_owned(),
            thumbprint: device.text_of("sslThumbprint").map(str::to_owned),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((end, keeper)) = self.keeper.take() {
            drop(end);
            let _ = keeper.join();
        }
        let request = Request::new("HttpNfcLeaseComplete", &self.own);
        if let Err(failure) = self.session.call(&request) {
            let error = self.session.failed("end the export", &failure);
            tracing::warn!(%error, "the VM stays blocked until the server's time-out");
        }
    }
}

/// A disk that is being sent.
struct Download {
    shown: String,
    body: Box<dyn Read + Send>,
    _lease: Arc<Lease>,
}

impl Supply for Download {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn length(&self) -> Option<u64> {
        None
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, PortError> {
        self.body.read(buffer).map_err(|error| {
            PortError::passing(
                format!("the export of {} broke off at byte {at}: {error}", visible(&self.shown)),
                "check the network; the export begins again",
            )
        })
    }

    fn look_back(&self, _at: u64, _buffer: &mut [u8]) -> Result<bool, PortError> {
        Ok(false)
    }

    fn unchanged(&self) -> Result<(), PortError> {
        Ok(())
    }
}
