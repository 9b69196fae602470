//! Exports: a lease holds a VM while its disks are downloaded, each as one stream.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::disk::{Content, Disk};
use super::fault::Fault;
use super::machine::Machine;
use super::methods::{Call, Reply};
use super::scenario::{Firmware, Power};
use super::server::{Body, Cut, built, refused};
use super::shared::Shared;
use super::soap::number;
use super::task::Work;
use super::value::{Data, Ref, Value, int, list, long, word};
use super::vmdk;
use super::world::{Due, World};

/// The bytes of a firmware's variables.
const NVRAM: usize = 8684;

/// The right to download the disks of a VM.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) me: Ref,
    vm: Ref,
    task: Ref,
    state: State,
    percent: u8,
    /// The time of the last progress.
    heard: Duration,
    /// Stands in its URLs.
    ticket: String,
    files: Vec<Export>,
    error: Option<Fault>,
    /// It never becomes ready, by script.
    fails: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Initializing,
    Ready,
    Done,
    Error,
}

/// One file of an export.
#[derive(Debug)]
struct Export {
    target: String,
    key: String,
    import_key: String,
    /// Of a disk; the firmware's variables have none.
    capacity: Option<u64>,
    /// Of a disk, while the lease holds it.
    content: Option<Arc<Content>>,
    sent: Option<Sent>,
}

/// What of a file was sent, all of it.
#[derive(Clone, Debug)]
struct Sent {
    bytes: u64,
    sha1: String,
    sha256: String,
    populated: u64,
}

/// All leases, by id.
pub(super) type Leases = BTreeMap<Arc<str>, Lease>;

impl Lease {
    /// Returns a property; `None` = it has no such one.
    pub(super) fn property(&self, world: &World, name: &str) -> Option<Value> {
        let state = match self.state {
            State::Initializing => "initializing",
            State::Ready => "ready",
            State::Done => "done",
            State::Error => "error",
        };
        Some(match name {
            "capabilities" => Data::new("HttpNfcLeaseCapabilities")
                .with("pullModeSupported", false)
                .with("corsSupported", false)
                .into(),
            "error" => self.error.as_ref().map(Fault::localized).into(),
            "info" if self.state == State::Initializing => Value::Unset,
            "info" => self.info(world).into(),
            "initializeProgress" => int(if self.state == State::Initializing { 0 } else { 100 }),
            "mode" => "pushOrGet".into(),
            "state" => word("HttpNfcLeaseState", state),
            "transferProgress" => int(self.percent),
            _ => return None,
        })
    }

    fn info(&self, world: &World) -> Data {
        let host = &world.scenario.lease.host;
        let total: u64 = self.files.iter().filter_map(|file| file.capacity).sum();
        let urls = self.files.iter().map(|file| {
            let is_disk = file.capacity.is_some();
            let nvram = u64::try_from(NVRAM).unwrap_or(0);
            Data::new("HttpNfcLeaseDeviceUrl")
                .with("key", &file.key)
                .with("importKey", &file.import_key)
                .with("url", format!("https://{host}/nfc/{}/{}", self.ticket, file.target))
                .with("sslThumbprint", &world.thumbprint)
                .with("disk", is_disk)
                .with("targetId", &file.target)
                .with("datastoreKey", "")
                .with("fileSize", (!is_disk).then(|| long(nvram)))
        });
        let timeout = world.scenario.lease.timeout.0.as_secs();
        Data::new("HttpNfcLeaseInfo")
            .with("lease", &self.me)
            .with("entity", &self.vm)
            .with("deviceUrl", list("HttpNfcLeaseDeviceUrl", urls))
            .with("totalDiskCapacityInKB", long(total >> 10))
            .with("leaseTimeout", int(i64::try_from(timeout).unwrap_or(i64::MAX)))
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Initializing | State::Ready)
    }
}

impl World {
    fn lease(
        &mut self,
        call: &Call<'_>,
        vm: &Ref,
        disks: Vec<Disk>,
        name: (&'static str, &'static str),
    ) -> Result<Reply, Fault> {
        let task = self.start_task(call, vm, name, Work::Export)?;
        let object = self.inventory.get(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        let vm_name = object.name.clone();
        let machine = self.inventory.vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        let mut files: Vec<Export> = disks
            .iter()
            .enumerate()
            .map(|(at, disk)| {
                let place = place(machine, disk);
                Export {
                    target: format!("disk-{at}.vmdk"),
                    key: format!("/{}/{place}", vm.id),
                    import_key: format!("/{vm_name}/{place}"),
                    capacity: Some(disk.capacity),
                    content: Some(disk.content.clone()),
                    sent: None,
                }
            })
            .collect();
        if machine.spec.firmware == Firmware::Efi {
            files.push(Export {
                target: format!("{vm_name}.nvram"),
                key: format!("/{}/nvram", vm.id),
                import_key: format!("/{vm_name}/nvram"),
                capacity: None,
                content: None,
                sent: None,
            });
        }
        let (ticket, id) = (self.new_uuid(), self.new_uuid());
        let session = call.cookie.and_then(|cookie| self.sessions.open.get(cookie));
        let key = session.map(|session| session.key.clone()).unwrap_or_default();
        let me = Ref::new("HttpNfcLease", &format!("session[{key}]{id}"));
        let lease = Lease {
            me: me.clone(),
            vm: vm.clone(),
            task,
            state: State::Initializing,
            percent: 0,
            heard: self.elapsed,
            ticket,
            files,
            error: None,
            fails: call.task.clone(),
        };
        self.leases.insert(me.id.clone(), lease);
        self.plan(self.scenario.lease.initializing.0, Due::LeaseIsReady(me.clone()));
        Ok(Reply::Value(me.into()))
    }

    pub(super) fn lease_is_ready(&mut self, me: &Ref) {
        let elapsed = self.elapsed;
        let Some(lease) = self.leases.get_mut(&me.id) else { return };
        if lease.state != State::Initializing {
            return;
        }
        if let Some(fault) = lease.fails.clone() {
            self.end_lease(me, Err(fault));
            return;
        }
        lease.state = State::Ready;
        lease.heard = elapsed;
        let task = lease.task.clone();
        self.task_runs(&task, 0);
        self.note();
        self.plan(self.scenario.lease.timeout.0, Due::LeaseExpires(me.clone()));
    }

    /// Ends a lease that nobody kept alive, or looks again when it may be so.
    pub(super) fn lease_expires(&mut self, me: &Ref) {
        let (elapsed, timeout) = (self.elapsed, self.scenario.lease.timeout.0);
        let Some(lease) = self.leases.get(&me.id).filter(|lease| lease.is_open()) else { return };
        let end = lease.heard + timeout;
        if end > elapsed {
            self.plan(end.saturating_sub(elapsed), Due::LeaseExpires(me.clone()));
            return;
        }
        self.end_lease(me, Err(Fault::new("Timedout", "Operation timed out.")));
    }

    fn end_lease(&mut self, me: &Ref, end: Result<(), Fault>) {
        let Some(lease) = self.leases.get_mut(&me.id) else { return };
        let task = lease.task.clone();
        match &end {
            Ok(()) => lease.state = State::Done,
            Err(fault) => {
                lease.state = State::Error;
                lease.error = Some(fault.clone());
            }
        }
        // What it held may be written without a copy again.
        for file in &mut lease.files {
            file.content = None;
        }
        self.end_task(&task, end.map(|()| Value::Unset));
        self.note();
    }

    /// Finds what a URL of a lease names.
    fn exported(&self, ticket: &str, target: &str) -> Option<(Ref, Option<Arc<Content>>)> {
        let lease = self.leases.values().find(|lease| lease.ticket == ticket)?;
        let file = lease.files.iter().find(|file| file.target == target)?;
        (lease.state == State::Ready).then(|| (lease.me.clone(), file.content.clone()))
    }

    fn is_ready(&self, lease: &Ref) -> bool {
        self.leases.get(&lease.id).is_some_and(|lease| lease.state == State::Ready)
    }

    fn note_sent(&mut self, lease: &Ref, target: &str, sent: Sent) {
        if let Some(lease) = self.leases.get_mut(&lease.id) {
            for file in lease.files.iter_mut().filter(|file| file.target == target) {
                file.sent = Some(sent.clone());
            }
        }
    }
}

/// Names a disk as leases do, by its controller: `ParaVirtualSCSIController0:1`.
fn place(machine: &Machine, disk: &Disk) -> String {
    let on = |spec: &&super::scenario::DiskSpec| {
        super::device::controller_key(spec.controller, spec.bus) == disk.controller_key
    };
    let spec = machine.spec.disks.iter().find(on);
    let (kind, bus) = spec.map_or(("Controller", 0), |spec| (spec.controller.wire(), spec.bus));
    format!("{kind}{bus}:{}", disk.unit)
}

/// Answers `ExportVm`.
pub(super) fn export_vm(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    if machine.power != Power::Off {
        let text = "The attempted operation cannot be performed in the current state";
        return Err(Fault::new("InvalidPowerState", text)
            .with("requestedState", super::machine::power_state(Power::Off))
            .with("existingState", super::machine::power_state(machine.power)));
    }
    let disks = machine.disks.clone();
    world.lease(call, &call.this.clone(), disks, ("ExportVm", "VirtualMachine.exportVm"))
}

/// Answers `ExportSnapshot`.
pub(super) fn export_snapshot(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let found = world.inventory.vm_of_snapshot(&call.this.id);
    let (object, machine) = found.ok_or_else(|| Fault::not_found(&call.this))?;
    let vm = object.me.clone();
    let snapshot = machine.visible().find(|snapshot| snapshot.me == call.this);
    let disks = snapshot.map(|snapshot| snapshot.disks.clone()).unwrap_or_default();
    world.lease(call, &vm, disks, ("ExportSnapshot", "vm.Snapshot.exportSnapshot"))
}

fn called<'a>(world: &'a mut World, call: &Call<'_>) -> Result<&'a mut Lease, Fault> {
    world.leases.get_mut(&call.this.id).ok_or_else(|| Fault::not_found(&call.this))
}

/// Refuses what comes after the end.
fn open<'a>(world: &'a mut World, call: &Call<'_>) -> Result<&'a mut Lease, Fault> {
    let lease = called(world, call)?;
    match lease.state {
        State::Initializing | State::Ready => Ok(lease),
        State::Error if lease.error.as_ref().is_some_and(|fault| fault.data.kind == "Timedout") => {
            Err(Fault::new("Timedout", "The lease timed out."))
        }
        State::Done | State::Error => Err(Fault::invalid_state("The lease ended already.")),
    }
}

/// Answers `HttpNfcLeaseProgress`, which keeps the lease alive.
pub(super) fn progress(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let percent: u8 = number(call.arguments, "percent")?.unwrap_or(0);
    if percent > 100 {
        return Err(Fault::invalid_argument("percent"));
    }
    let elapsed = world.elapsed;
    let lease = open(world, call)?;
    lease.percent = percent;
    lease.heard = elapsed;
    let task = lease.task.clone();
    world.task_runs(&task, percent);
    Ok(Reply::nothing())
}

/// Answers `HttpNfcLeaseComplete`.
pub(super) fn complete(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if open(world, call)?.state != State::Ready {
        return Err(Fault::invalid_state("The lease is not ready."));
    }
    world.end_lease(&call.this, Ok(()));
    Ok(Reply::nothing())
}

/// Answers `HttpNfcLeaseAbort`.
pub(super) fn abort(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    open(world, call)?;
    let message = "The export was aborted by its client.";
    world.end_lease(&call.this, Err(Fault::new("RequestCanceled", message)));
    Ok(Reply::nothing())
}

/// Answers `HttpNfcLeaseGetManifest`: what was sent so far.
pub(super) fn manifest(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let lease = open(world, call)?;
    let sent = lease.files.iter().filter_map(|file| Some((file, file.sent.as_ref()?)));
    let entries = sent.map(|(file, sent)| {
        Data::new("HttpNfcLeaseManifestEntry")
            .with("key", &file.key)
            .with("sha1", &sent.sha1)
            .with("checksum", &sent.sha256)
            .with("checksumType", "sha256")
            .with("size", long(sent.bytes))
            .with("disk", file.capacity.is_some())
            .with("capacity", file.capacity.map(long))
            .with("populatedSize", file.capacity.map(|_| long(sent.populated)))
    });
    Ok(Reply::Value(list("HttpNfcLeaseManifestEntry", entries)))
}

/// Prepares the answer to a request below `/nfc/`; its argument says after how many bytes the connection is cut.
pub(super) fn download(
    shared: Arc<Shared>,
    request: &Request<Incoming>,
) -> impl FnOnce(Option<u64>) -> Response<Body> + use<> {
    let path = super::files::decoded(request.uri().path());
    let is_head = request.method() == Method::HEAD;
    move |cut| {
        let mut parts = path.trim_start_matches("/nfc/").splitn(2, '/');
        let (ticket, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let Some((lease, content)) = shared.enter(|world| world.exported(ticket, target)) else {
            return refused(404);
        };
        let kind = "application/x-vnd.vmware-streamVmdk";
        let response = Response::builder();
        let Some(content) = content else {
            let variables = nvram();
            let sent = sent(&variables, Sha1::digest(&variables), Sha256::digest(&variables));
            shared.enter(|world| world.note_sent(&lease, target, sent));
            return built(response, Either::Left(Full::new(variables.into())));
        };
        let response = response.header(CONTENT_TYPE, kind);
        if is_head {
            return built(response, Either::Left(Full::default()));
        }
        let (sender, channel) = Channel::new(4);
        let target = target.to_owned();
        let job = Job { shared, lease, target, content, cut };
        tokio::task::spawn_blocking(move || job.run(sender));
        built(response, Either::Right(channel))
    }
}

fn nvram() -> Vec<u8> {
    let mut variables = b"MRVN".to_vec();
    variables.resize(NVRAM, 0);
    variables
}

fn sent(bytes: &[u8], sha1: impl AsRef<[u8]>, sha256: impl AsRef<[u8]>) -> Sent {
    let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Sent { bytes, sha1: hex::encode(sha1), sha256: hex::encode(sha256), populated: bytes }
}

/// One download.
struct Job {
    shared: Arc<Shared>,
    lease: Ref,
    target: String,
    content: Arc<Content>,
    cut: Option<u64>,
}

impl Job {
    fn run(self, mut sender: http_body_util::channel::Sender<Bytes, Cut>) {
        let runtime = tokio::runtime::Handle::current();
        let (mut sha1, mut sha256, mut bytes) = (Sha1::new(), Sha256::new(), 0);
        let Self { shared, lease, target, content, cut } = self;
        let mut send = |mut piece: Vec<u8>| {
            if !shared.enter(|world| world.is_ready(&lease)) {
                return Err(io::Error::other("the lease ended"));
            }
            sha1.update(&piece);
            sha256.update(&piece);
            let end = bytes + u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let over = cut.filter(|cut| *cut < end);
            if let Some(cut) = over {
                piece.truncate(usize::try_from(cut - bytes).unwrap_or(0));
            }
            bytes = end;
            runtime.block_on(sender.send_data(piece.into())).map_err(io::Error::other)?;
            if over.is_some() { Err(io::Error::other(Cut)) } else { Ok(()) }
        };
        match vmdk::export(&content, &target, &mut send) {
            Ok(populated) => {
                let (sha1, sha256) = (hex::encode(sha1.finalize()), hex::encode(sha256.finalize()));
                let sent = Sent { bytes, sha1, sha256, populated };
                shared.enter(|world| world.note_sent(&lease, &target, sent));
            }
            Err(_) => sender.abort(Cut),
        }
    }
}
