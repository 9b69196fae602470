//! Finds out what can run guests on this machine, by trying it: that `/dev/kvm` opens proves nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::domain::Accelerator;

/// How long a machine of one boot sector may take. It is through or refused within half a second.
const PROBE: Duration = Duration::from_secs(1);

/// How QEMU ends when the boot sector wrote 0x10 to its debug exit: twice that, and one.
const BOOTED: i32 = 0x21;

/// How often the probe is looked at.
const LOOK: Duration = Duration::from_millis(20);

impl Accelerator {
    /// Tries to boot a machine on KVM with the QEMU that is found in these folders. Without a QEMU the device counts.
    pub fn probe(folders: &[PathBuf]) -> Self {
        if !Path::new("/dev/kvm").exists() {
            return Self::Tcg;
        }
        let qemu = folders.iter().map(|folder| folder.join("qemu-system-x86_64"));
        match qemu.into_iter().find(|path| path.is_file()) {
            Some(qemu) if !boots(&qemu, "kvm", "host") => Self::Tcg,
            Some(_) | None => Self::Kvm,
        }
    }
}

/// Boots a machine from a disk whose boot sector ends it, and waits for that end. A machine that is only set up proves
/// nothing: where the processor's virtualization is itself emulated, KVM takes the machine and its firmware never gets
/// anywhere.
#[expect(clippy::disallowed_methods, reason = "whether KVM works shows only when it is used")]
fn boots(qemu: &Path, accelerator: &str, processor: &str) -> bool {
    let Ok(disk) = boot_disk() else { return false };
    let child = Command::new(qemu)
        .args([
            "-accel",
            accelerator,
            "-cpu",
            processor,
            "-machine",
            "q35",
            "-m",
            "16",
            "-nodefaults",
        ])
        .args(["-no-user-config", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4"])
        .args(["-drive", "file=/proc/self/fd/0,format=raw,if=virtio,readonly=on"])
        .stdin(Stdio::from(disk))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    for _ in 0..PROBE.as_millis() / LOOK.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) => return status.code() == Some(BOOTED),
            Ok(None) => thread::sleep(LOOK),
            Err(_) => break,
        }
    }
    drop(child.kill());
    drop(child.wait());
    false
}

/// Makes a disk in memory that boots by BIOS: `mov al, 0x10; out 0xf4, al`, and a halt if that did nothing.
fn boot_disk() -> io::Result<File> {
    let mut sector = [0; 512];
    sector[..7].copy_from_slice(&[0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = File::from(memfd_create("ferry-boots", MemfdFlags::CLOEXEC)?);
    disk.write_all(&sector)?;
    disk.set_len(1 << 20)?;
    Ok(disk)
}

#[cfg(all(test, feature = "peers"))]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_works_says_so_and_one_that_does_not_exist_does_not() {
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        assert!(boots(qemu, "tcg", "max"));
        assert!(!boots(qemu, "tcg", "none-such"));
        assert!(!boots(Path::new("/usr/bin/false"), "tcg", "max"));
    }
}
