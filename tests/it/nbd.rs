//! Disks that other programs serve over NBD: qemu-nbd and nbdkit, with delays and errors, over Unix sockets and TCP.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferry::adapter::nbd::Export;
use ferry::adapter::nbd::address::Address;
use ferry::extent::Content;
use ferry::port::Blocks;

use crate::kill::until;
use crate::peers;
use crate::sandbox::Sandbox;

/// How large the disks are: no multiple of anything but a sector.
const SIZE: u64 = (48 << 20) + 512;
/// What one read asks for.
const PIECE: u64 = 256 << 10;

/// A server of a sparse disk that ends with the test.
struct Served {
    sandbox: Sandbox,
    content: Vec<u8>,
    server: Option<Child>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Served {
    /// Makes the disk: runs of data in a file of holes, one at its very end.
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let disk = File::create(sandbox.path("disk.raw")).unwrap();
        disk.set_len(SIZE).unwrap();
        let runs = [(0, 1 << 20), (3 << 20, 4096), ((5 << 20) + 8192, 9 << 20), (SIZE - 512, 512)];
        for (offset, length) in runs {
            let byte = |at: u64| (at ^ (at >> 9) ^ (at >> 17)).to_le_bytes()[0];
            let data: Vec<u8> = (offset..offset + length).map(byte).collect();
            disk.write_all_at(&data, offset).unwrap();
        }
        let content = fs::read(sandbox.path("disk.raw")).unwrap();
        Self { sandbox, content, server: None }
    }

    fn path(&self, name: &str) -> String {
        self.sandbox.path(name).display().to_string()
    }

    fn start(&mut self, program: &str, arguments: &[&str]) {
        self.server = Some(peers::start(program, arguments));
    }

    /// Serves the disk by nbdkit over a Unix socket.
    fn nbdkit(&mut self, before: &[&str], behind: &[&str]) {
        let (socket, disk) = (self.path("socket"), self.path("disk.raw"));
        let arguments = [&["-f", "-U", &socket], before, &["file", disk.as_str()], behind].concat();
        self.start("nbdkit", &arguments);
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn address(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path("socket"))
    }

    /// Opens the export as soon as the server is up.
    fn open(address: &str, connections: usize) -> Export {
        let address: Address = address.parse().unwrap();
        let opened = Mutex::new(None);
        until(30, &format!("{address} is served"), || {
            let export = Export::connect(&address, connections).ok();
            let up = export.is_some();
            *opened.lock().unwrap() = export;
            up
        });
        opened.into_inner().unwrap().unwrap()
    }

    /// Reads all of the export by 16 threads and compares it with the disk.
    fn read_whole(&self, export: &Export) {
        assert_eq!(export.size(), SIZE);
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..export.in_flight() {
                scope.spawn(|| {
                    let mut buffer = vec![0; usize::try_from(PIECE).unwrap()];
                    loop {
                        let offset = next.fetch_add(PIECE, Ordering::Relaxed);
                        if offset >= SIZE {
                            return;
                        }
                        let length = PIECE.min(SIZE - offset);
                        let buffer = &mut buffer[..usize::try_from(length).unwrap()];
                        export.read(offset, buffer).unwrap();
                        assert!(buffer == self.part(offset, length), "{length} bytes at {offset}");
                    }
                });
            }
        });
    }

    fn part(&self, offset: u64, length: u64) -> &[u8] {
        let start = usize::try_from(offset).unwrap();
        &self.content[start..start + usize::try_from(length).unwrap()]
    }

    /// Asks what the whole disk holds; compares what is said to be zero with the disk. Returns how much that is.
    fn zeros(&self, export: &Export) -> u64 {
        let (mut at, mut zeros) = (0, 0);
        while at < SIZE {
            for extent in export.extents(at, (20 << 20).min(SIZE - at)).unwrap() {
                assert!(extent.offset == at && extent.length > 0, "{extent:?} at {at}");
                at = extent.end();
                if extent.content == Content::Zero {
                    let part = self.part(extent.offset, extent.length);
                    assert!(part.iter().all(|byte| *byte == 0), "{extent:?} is not zero");
                    zeros += extent.length;
                }
            }
        }
        assert_eq!(at, SIZE);
        zeros
    }
}

#[test]
fn a_disk_of_qemu_nbd_is_read() {
    let mut served = Served::new();
    let (socket, disk) = (served.path("socket"), served.path("disk.raw"));
    served.start("qemu-nbd", &["-r", "-t", "-k", &socket, "-f", "raw", "-x", "a disk", &disk]);
    let export = Served::open(&format!("nbd+unix:///a%20disk?socket={socket}"), 4);
    served.read_whole(&export);
    assert!(served.zeros(&export) > 30 << 20);
    // What is not aligned to anything is read as well.
    let mut odd = [0; 12345];
    export.read((5 << 20) + 8191, &mut odd).unwrap();
    assert_eq!(odd, served.part((5 << 20) + 8191, 12345));
    drop(export);

    let other = format!("nbd+unix:///other?socket={socket}").parse().unwrap();
    let fault = Export::connect(&other, 1).unwrap_err().fault;
    assert!(fault.text.contains("it has no export of this name"), "{}", fault.text);
}

#[test]
fn a_qcow2_disk_of_qemu_nbd_promises_zeros_where_nothing_was_written() {
    let mut served = Served::new();
    let (socket, disk) = (served.path("socket"), served.path("disk.raw"));
    let qcow2 = served.path("disk.qcow2");
    peers::run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &disk, &qcow2]);
    served.start("qemu-nbd", &["-r", "-t", "-e", "8", "-k", &socket, "-f", "qcow2", &qcow2]);
    let export = Served::open(&served.address(), 4);
    served.read_whole(&export);
    assert!(served.zeros(&export) > 30 << 20);
}

#[test]
fn a_disk_of_nbdkit_is_read_over_several_connections() {
    let mut served = Served::new();
    served.nbdkit(&[], &[]);
    let export = Served::open(&served.address(), 4);
    assert_eq!(export.connections(), 4);
    served.read_whole(&export);
    assert!(served.zeros(&export) > 30 << 20);
}

#[test]
fn a_disk_is_read_over_tcp() {
    let mut served = Served::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, disk) = (free.to_string(), served.path("disk.raw"));
    served.start("nbdkit", &["-f", "-i", "127.0.0.1", "-p", &port, "file", &disk]);
    let export = Served::open(&format!("nbd://localhost:{port}"), 2);
    assert_eq!(export.connections(), 2);
    served.read_whole(&export);
    assert!(served.zeros(&export) > 30 << 20);
}

#[test]
fn slow_answers_are_waited_for_all_at_once() {
    let mut served = Served::new();
    served.nbdkit(&["--filter=delay"], &["rdelay=100ms"]);
    let export = Served::open(&served.address(), 1);
    let begun = Instant::now();
    served.read_whole(&export);
    // One after the other they would take 19 s; 16 at once take 1.3 s.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn a_server_without_what_is_new_is_read() {
    for old in [["--no-sr"].as_slice(), &["--mask-handshake=0"], &["--filter=noextents"]] {
        let mut served = Served::new();
        served.nbdkit(old, &[]);
        let export = Served::open(&served.address(), 4);
        served.read_whole(&export);
        assert_eq!(served.zeros(&export), 0, "{old:?}");
    }
}

#[test]
fn the_block_sizes_of_a_server_are_kept() {
    let mut served = Served::new();
    let sizes =
        ["blocksize-minimum=4096", "blocksize-maximum=65536", "blocksize-error-policy=error"];
    // The filter below makes the size a multiple of the smallest block, as the protocol wants it.
    served.nbdkit(
        &["--filter=blocksize-policy", "--filter=truncate"],
        &[sizes.as_slice(), &["round-down=4096"]].concat(),
    );
    let export = Served::open(&served.address(), 4);
    assert_eq!(export.size(), SIZE - 512);
    for (offset, length) in [(0, 1 << 20), (5_555_555, 7), (6_000_001, 300_000), (SIZE - 999, 487)]
    {
        let mut buffer = vec![0; usize::try_from(length).unwrap()];
        export.read(offset, &mut buffer).unwrap();
        assert!(buffer == served.part(offset, length), "{length} bytes at {offset}");
        export.extents(offset, length).unwrap();
    }
}

#[test]
fn errors_of_the_storage_are_told_and_the_rest_is_read() {
    let mut served = Served::new();
    let trigger: PathBuf = served.sandbox.write("trigger", "");
    let file = format!("error-file={}", trigger.display());
    served.nbdkit(&["--filter=error"], &["error-pread=EIO", "error-pread-rate=100%", &file]);
    let export = Served::open(&served.address(), 1);
    let fault = export.read(4096, &mut [0; 4096]).unwrap_err().fault;
    let expected = format!(
        "cannot read {} at byte 4096: the server answered with EIO (it says no more)",
        export.address()
    );
    assert_eq!(fault.text, expected);
    fs::remove_file(trigger).unwrap();
    served.read_whole(&export);
}

#[test]
fn a_server_that_is_started_again_is_read_on() {
    let mut served = Served::new();
    served.nbdkit(&[], &[]);
    let export = Served::open(&served.address(), 4);
    served.read_whole(&export);
    served.stop();
    fs::remove_file(served.path("socket")).unwrap();
    served.nbdkit(&[], &[]);
    served.read_whole(&export);
}
