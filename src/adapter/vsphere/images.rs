//! The disks of VMs at a server, for the worker that copies them.

use std::sync::{Arc, Mutex, PoisonError};

use crate::adapter::image::LocalImages;
use crate::adapter::image::files::planned;
use crate::adapter::image::stream::Stream;
use crate::adapter::location::{BlocksDisk, VsphereDisk};
use crate::adapter::secret::Secret;
use crate::adapter::vddk::{Place, Vddk};
use crate::adapter::vsphere::flat::FlatFile;
use crate::adapter::vsphere::lease::Leases;
use crate::adapter::vsphere::session::Session;
use crate::copy::plan::Planned;
use crate::copy::protocol::Access;
use crate::domain::vm::{Disk, DiskFormat, TargetDisk};
use crate::journal::record::Mend;
use crate::manifest::document::Transport;
use crate::port::{BlockReader, BlockWriter, Blocks, Images, PortError};

/// Reads disks from a server and writes them to this machine.
#[derive(Debug)]
pub struct ServerImages {
    local: LocalImages,
    access: Access,
    session: Mutex<Option<Arc<Session>>>,
    leases: Leases,
    library: Mutex<Option<Vddk>>,
}

impl ServerImages {
    /// Logs in when the first disk is opened.
    pub fn new(local: LocalImages, access: Access) -> Self {
        Self {
            local,
            access,
            session: Mutex::default(),
            leases: Leases::default(),
            library: Mutex::default(),
        }
    }

    /// Opens a disk by VMware's library, which this process was started for.
    fn by_library(
        &self,
        session: &Session,
        disk: &VsphereDisk,
    ) -> Result<Arc<dyn Blocks>, PortError> {
        let Some(folder) = &self.access.library else { return Err(unread(disk)) };
        // Logged in, so that the certificate of the server was checked: the library knows it by its thumbprint only.
        session.service()?;
        let seen = session.link.fingerprints();
        let thumbprint = seen.ok_or_else(|| session.incomplete("its certificate"))?.sha1;
        let (server, port) = session.link.host();
        let place = Place {
            server,
            port,
            user: self.access.username.clone(),
            password: Secret::read(self.access.password_file.as_ref())?,
            session: None,
            thumbprint,
            vm: disk.vm.clone(),
            snapshot: None,
            disk: disk.file.clone(),
            transports: None,
        };
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let library = match &mut *library {
            Some(library) => library,
            none => none.insert(Vddk::start(folder.as_ref())?),
        };
        library.open(place)
    }

    fn session(&self) -> Result<Arc<Session>, PortError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match &*session {
            Some(session) => Ok(session.clone()),
            None => Ok(session.insert(Arc::new(Session::new(&self.access)?)).clone()),
        }
    }
}

impl Images for ServerImages {
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        let (Ok(BlocksDisk::Vsphere(place)), DiskFormat::Blocks | DiskFormat::StreamOptimized) =
            (BlocksDisk::parse(&disk.source), &disk.format)
        else {
            return self.local.reader(disk, resume);
        };
        let session = self.session()?;
        match place.transport {
            Transport::Https => {
                let file = FlatFile::open(session, &place, disk.capacity)?;
                Ok(Box::new(planned(Arc::new(file), resume)?))
            }
            Transport::Nfc => {
                Ok(Box::new(Stream::open(self.leases.open(&session, &place)?, disk, None)?))
            }
            Transport::Vddk => {
                let blocks = self.by_library(&session, &place)?;
                Ok(Box::new(Planned::new(blocks, resume)?))
            }
            Transport::Auto => Err(unread(&place)),
        }
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        self.local.writer(disk)
    }
}

fn unread(place: &VsphereDisk) -> PortError {
    PortError::lasting(
        format!("no library of VMware is there to read {}", place.file),
        "let `vddk.libDir` in ferry.yaml name its folder, or let the Provider say `transport: https` or `nfc`",
        Mend::Person,
    )
}
