//! Finds out what can run guests on this machine, by trying it: that `/dev/kvm` opens proves nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::domain::Accelerator;

/// How long a machine without disks may take to be set up. It is set up or refused within half a second.
const PROBE: Duration = Duration::from_secs(5);

/// How often the probe is looked at.
const LOOK: Duration = Duration::from_millis(20);

impl Accelerator {
    /// Tries to set up a machine on KVM with the QEMU that is found in these folders. Without a QEMU the device counts.
    pub fn probe(folders: &[PathBuf]) -> Self {
        if !Path::new("/dev/kvm").exists() {
            return Self::Tcg;
        }
        let qemu = folders.iter().map(|folder| folder.join("qemu-system-x86_64"));
        match qemu.into_iter().find(|path| path.is_file()) {
            Some(qemu) if !sets_up(&qemu) => Self::Tcg,
            Some(_) | None => Self::Kvm,
        }
    }
}

/// Starts a stopped machine on KVM that is told to quit as soon as it stands.
#[expect(clippy::disallowed_methods, reason = "whether KVM works shows only when it is used")]
fn sets_up(qemu: &Path) -> bool {
    let child = Command::new(qemu)
        .args(["-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "16", "-S"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut monitor) = child.stdin.take() {
        // One that refuses KVM has ended by now, and its end says so.
        drop(std::io::Write::write_all(&mut monitor, b"quit\n"));
    }
    for _ in 0..PROBE.as_millis() / LOOK.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(LOOK),
            Err(_) => break,
        }
    }
    drop(child.kill());
    drop(child.wait());
    false
}
