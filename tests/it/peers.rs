//! Real peers: what QEMU, qemu-img and libvirt make of the results. Only with the feature `peers`, which `tests/run` turns
//! on after it has installed them; then a peer that is missing fails the test and says how to get it.
//!
//! Guests always run under software emulation (TCG): a `/dev/kvm` that opens may still not work.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regex::Regex;

use crate::sandbox::Sandbox;

/// How long a guest may take to its marker under TCG on a busy machine: a tiny one needs 6 s on a quiet one, a Debian whose
/// firmware verifies it 50 s.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_mins(5);

/// How long a daemon may take until it answers.
const DAEMON_LIMIT: Duration = Duration::from_secs(30);

/// The line that the tiny guest prints when it is up.
pub(crate) const GUEST_MARKER: &str = "FERRY-GUEST-UP";

/// Runs a program to its end; a failure of it fails the test with all that it said. Returns its answer.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> String {
    let output = peer(program, arguments).output().unwrap_or_else(|error| missing(program, &error));
    let said = said(&output);
    assert!(output.status.success(), "`{program}` ended with {}:\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn peer<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    // Debian keeps daemons and mke2fs in folders that an ordinary user's PATH leaves out.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

#[track_caller]
#[expect(clippy::panic, reason = "a missing peer fails the test")]
fn missing(program: &str, error: &std::io::Error) -> ! {
    assert_ne!(
        error.kind(),
        ErrorKind::NotFound,
        "`{program}` is not installed: run `tests/run` as root on Debian 12 or 13, or install what `tests/run --no-install` lists"
    );
    panic!("cannot run `{program}`: {error}");
}

/// Runs one of the scripts in `tests/tools`.
#[track_caller]
pub(crate) fn tool<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> String {
    run(&format!("{}/tests/tools/{name}", env!("CARGO_MANIFEST_DIR")), arguments)
}

/// Fails unless a guest sees the same in a raw image and in a disk, and a disk that is a qcow2 is whole.
#[track_caller]
pub(crate) fn same(raw: &Path, disk: &Path) {
    let format = format_of(disk);
    let [raw, disk] = [raw, disk].map(|path| path.to_str().unwrap());
    if format == "raw" {
        run("cmp", [raw, disk]);
        return;
    }
    let said = run("qemu-img", ["compare", "-f", "raw", "-F", format, raw, disk]);
    assert_eq!(said, "Images are identical.\n", "as large, too");
    run("qemu-img", ["check", "-q", "-f", format, disk]);
}

/// Tells how a disk is stored by the end of its name.
pub(crate) fn format_of(disk: &Path) -> &'static str {
    if disk.extension().is_some_and(|end| end == "qcow2") { "qcow2" } else { "raw" }
}

/// Boots an image in QEMU until a line with the marker appears on its serial console, and returns that line. What the
/// guest wrote until then stays in the image.
#[track_caller]
pub(crate) fn boot(image: &Path, marker: &str) -> String {
    let limit = BOOT_LIMIT.as_secs().to_string();
    let (format, image) = (format_of(image), image.to_str().unwrap());
    let limits = ["--marker", marker, "--timeout", limit.as_str()];
    tool("tiny-guest.sh", ["boot", image, "--format", format].into_iter().chain(limits))
}

/// Starts a daemon that stays in the foreground; who asked for it ends it.
#[track_caller]
pub(crate) fn start<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Child {
    let daemon = peer(program, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    daemon.unwrap_or_else(|error| missing(program, &error))
}

/// Finds the line with a marker in what a console said, once it is whole.
pub(crate) fn marked(heard: &str, marker: &str) -> Option<String> {
    let line = heard.lines().find(|line| line.contains(marker))?;
    heard.contains(&format!("{line}\r\n")).then(|| line.to_owned())
}

/// No arguments.
const NOTHING: [&str; 0] = [];

/// libvirt's daemons, started for one test and stopped with it; those of the machine where it runs them already.
#[derive(Debug)]
pub(crate) struct Libvirt {
    daemons: Vec<Child>,
    /// The daemons lock files of the machine: one test at a time.
    _alone: MutexGuard<'static, ()>,
}

impl Libvirt {
    pub(crate) const URI: &str = "qemu:///system";

    /// Returns when libvirt answers.
    pub(crate) fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut libvirt = Self { daemons: Vec::new(), _alone: alone };
        if Self::answers() {
            return libvirt;
        }
        for daemon in ["virtlogd", "libvirtd"] {
            let child = peer(daemon, NOTHING).stderr(Stdio::null()).spawn();
            libvirt.daemons.push(child.unwrap_or_else(|error| missing(daemon, &error)));
        }
        let end = Instant::now() + DAEMON_LIMIT;
        while !Self::answers() {
            let ended = libvirt.daemons.iter_mut().find_map(|daemon| daemon.try_wait().unwrap());
            assert_eq!(ended, None, "libvirtd or virtlogd ended at once: they need root");
            assert!(Instant::now() < end, "libvirtd does not answer within {DAEMON_LIMIT:?}");
        }
        libvirt
    }

    /// Takes a domain away, whether it runs, is defined, both or neither.
    #[expect(clippy::unused_self, reason = "who holds libvirt may change it")]
    pub(crate) fn forget(&self, domain: &str) {
        for command in ["destroy", "undefine"] {
            let _ = peer("virsh", ["-c", Self::URI, command, domain]).output();
        }
    }

    fn answers() -> bool {
        let output = peer("virsh", ["-c", Self::URI, "uri"]).output();
        output.unwrap_or_else(|error| missing("virsh", &error)).status.success()
    }

    /// Creates the domain of a file, which boots, waits for the marker on its serial console, destroys it, and returns the
    /// line. Only the console is not the file's own: it is led to this test. The disks, and the folders above them, must be
    /// such that another user may open them.
    #[expect(clippy::unused_self, reason = "who holds libvirt may boot: its daemons live as long")]
    pub(crate) fn boot(&self, domain: &Path, marker: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = fs::read_to_string(domain).unwrap();
        let name = Regex::new("<name>(.*?)</name>").unwrap().captures(&text).unwrap()[1].to_owned();
        let redirected = domain.with_extension("test.xml");
        fs::write(&redirected, with_console(&text, port)).unwrap();
        run(
            "virsh",
            [OsStr::new("-c"), OsStr::new(Self::URI), OsStr::new("create"), redirected.as_ref()],
        );
        let _destroyed = Destroyed(&name);
        // QEMU connects before `virsh create` returns.
        let (mut console, _) = listener.accept().unwrap();
        let end = Instant::now() + BOOT_LIMIT;
        let mut heard = String::new();
        loop {
            if let Some(line) = marked(&heard, marker) {
                return line;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no `{marker}` within {BOOT_LIMIT:?}:\n{heard}");
            console.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            let count = console.read(&mut buffer).unwrap_or_default();
            assert_ne!(count, 0, "the console ended without `{marker}`:\n{heard}");
            heard += &String::from_utf8_lossy(&buffer[..count]);
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            // SIGTERM, so that it takes its sockets and pid files along.
            let _ = peer("kill", [daemon.id().to_string()]).status();
            let _ = daemon.wait();
        }
    }
}

/// A domain that is destroyed when the test is done with it, however it ends.
struct Destroyed<'a>(&'a str);

impl Drop for Destroyed<'_> {
    fn drop(&mut self) {
        let _ = peer("virsh", ["-c", Libvirt::URI, "destroy", self.0]).output();
    }
}

/// Leads the serial console of a domain to a port of this machine.
fn with_console(domain: &str, port: u16) -> String {
    let own =
        Regex::new("(?s)<(?:serial|console)[^>]*/>|<serial.*?</serial>|<console.*?</console>");
    let bare = own.unwrap().replace_all(domain, "");
    let console = format!(
        "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='{port}'/>\
         <protocol type='raw'/><target port='0'/></serial></devices>"
    );
    assert!(bare.contains("</devices>"), "this is no domain:\n{domain}");
    bare.replace("</devices>", &console)
}

/// A domain as plain as it can be, that Ferry did not make.
pub(crate) fn plain_domain(name: &str, disk: &Path) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <serial type='pty'/></devices></domain>\n",
        disk.display()
    )
}

#[test]
fn the_tools_make_a_guest_that_boots_from_its_archive() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    tool("tiny-guest.sh", ["build", &path("tiny.raw"), "--name", "web01"]);
    tool("make-ova.sh", ["-n", "web01", "-o", &path("web01.ova"), &path("tiny.raw")]);
    let members = run("tar", ["-tf", &path("web01.ova")]);
    assert_eq!(members, "web01.ovf\nweb01.mf\nweb01-disk1.vmdk\n");
    run("tar", ["-C", &path(""), "-xf", &path("web01.ova")]);
    let stored = sandbox.path("web01-disk1.vmdk");
    let disk = sandbox.path("disk.raw");
    let (from, to) = (stored.to_str().unwrap(), disk.to_str().unwrap());
    run("qemu-img", ["convert", "-f", "vmdk", "-O", "raw", from, to]);
    run("cmp", [&path("tiny.raw"), to]);

    let line = boot(&disk, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=1 "), "{line}");
    let domain = sandbox.write("web01.xml", plain_domain("ferry-test-tools", &disk));
    let line = Libvirt::start().boot(&domain, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=2 "), "{line}");
}

#[test]
fn a_missing_peer_fails_the_test_and_says_how_to_get_it() {
    let failed = std::panic::catch_unwind(|| run("ferry-no-such-peer", NOTHING));
    let said = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(
        said.contains("`ferry-no-such-peer` is not installed: run `tests/run` as root"),
        "{said}"
    );
}

#[test]
fn a_console_is_led_to_the_test_whatever_the_domain_has() {
    let bare = with_console("<domain><devices><disk/></devices></domain>", 9);
    for own in [
        "<serial type='pty'/>",
        "<serial type='file'>\n<source path='/x'/></serial><console type='pty'>\n</console>",
    ] {
        let domain = format!("<domain><devices><disk/>{own}</devices></domain>");
        assert_eq!(with_console(&domain, 9), bare);
    }
}
