//! One disk of an archive, by the name of its file.

use std::path::Path;

use jiff::Timestamp;

use super::archive::{ArchiveError, read_package};
use super::package::Package;
use crate::adapter::confine::Confine;
use crate::adapter::location::stored;
use crate::domain::vm::{Disk, Vm};
use crate::journal::record::Mend;
use crate::port::PortError;

/// Finds the disk that a VM of an archive has in a member, with what the archive's manifest says of it.
pub(crate) fn disk(confine: &Confine, archive: &Path, member: &str) -> Result<Disk, PortError> {
    let refused = |why: String, remedy: String| {
        PortError::lasting(format!("{}: {why}", archive.display()), remedy, Mend::Source)
    };
    let file = confine.read(archive)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let read = || -> Result<_, ArchiveError> {
        let package = Package::new(confine, file, archive)?;
        // Who the VM is does not matter here: its hash, which would cost a whole read, is not asked for.
        let (vms, _) =
            read_package(&package, &name, Timestamp::UNIX_EPOCH, &mut |_| Ok(String::new()))?;
        let place = package.part(member)?.map(|part| part.stored());
        let Package::Archive { members, .. } = package else { return Ok((vms, place, Vec::new())) };
        Ok((vms, place, members.into_keys().collect()))
    };
    let (vms, place, names) = read().map_err(|error| {
        let chain = anyhow::Error::new(error);
        refused(format!("{chain:#}"), "transfer the archive again, or export it again".to_owned())
    })?;
    let disks = vms.into_iter().flat_map(|Vm { disks, .. }| disks);
    let found = disks.into_iter().find(|disk| place.is_some() && stored(&disk.source) == place);
    found.ok_or_else(|| {
        let why = format!("no disk of a VM in it is `{}`", member.escape_debug());
        refused(why, format!("it holds {}", names.join(", ")))
    })
}
