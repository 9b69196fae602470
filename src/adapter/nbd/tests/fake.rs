//! A server that says what a script lets it say, truths and lies.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use tempfile::TempDir;

use crate::adapter::nbd::address::{Address, Server};

/// What the server does over one connection.
pub(super) type Script = Box<dyn FnOnce(&mut Peer) + Send>;

/// A server that accepts one connection for each script, in order, each in a thread of its own, and then is gone.
pub(super) struct Fake {
    pub(super) address: Address,
    server: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Fake {
    pub(super) fn new(scripts: Vec<Script>) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut scripts = VecDeque::from(scripts);
        let server = std::thread::spawn(move || {
            let mut peers = Vec::new();
            while let Some(script) = scripts.pop_front() {
                let (stream, _) = listener.accept().unwrap();
                peers.push(std::thread::spawn(move || script(&mut Peer(stream))));
            }
            drop(listener);
            for peer in peers {
                peer.join().unwrap();
            }
        });
        let address = Address { server: Server::Unix { socket }, export: "disk".to_owned() };
        Self { address, server: Some(server), _folder: folder }
    }

    /// Waits until all scripts are through; what they claim fails the test here.
    pub(super) fn end(mut self) {
        self.server.take().unwrap().join().unwrap();
    }
}

/// What a server offers.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that servers have or have not")]
pub(super) struct Offer {
    pub(super) size: u64,
    pub(super) multi: bool,
    pub(super) fixed: bool,
    pub(super) structured: bool,
    pub(super) allocation: bool,
    pub(super) go: bool,
    pub(super) sizes: Option<[u32; 3]>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            size: 1 << 20,
            multi: false,
            fixed: true,
            structured: true,
            allocation: true,
            go: true,
            sizes: Some([1, 4096, 32 << 20]),
        }
    }
}

/// A request as the server reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// The server's end of a connection.
pub(super) struct Peer(UnixStream);

impl Peer {
    /// Sends what a script likes; whether anybody listens still is the client's affair.
    pub(super) fn send(&mut self, parts: &[&[u8]]) {
        let _ = self.0.write_all(&parts.concat());
    }

    fn take<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Greets, and reads the client's flags.
    pub(super) fn greet(&mut self, fixed: bool) {
        let flags: u16 = if fixed { 3 } else { 0 };
        self.send(&[b"NBDMAGICIHAVEOPT", &flags.to_be_bytes()]);
        assert_eq!(u32::from_be_bytes(self.take()), u32::from(flags));
    }

    /// Reads an option and its data.
    pub(super) fn option(&mut self) -> (u32, Vec<u8>) {
        assert_eq!(&self.take(), b"IHAVEOPT");
        let (number, length) = (u32::from_be_bytes(self.take()), u32::from_be_bytes(self.take()));
        let mut data = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut data).unwrap();
        (number, data)
    }

    /// Replies to an option.
    pub(super) fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.send(&[
            &0x3_e889_0455_65a9_u64.to_be_bytes(),
            &option.to_be_bytes(),
            &kind.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ]);
    }

    /// Does a whole handshake.
    pub(super) fn shake(&mut self, offer: &Offer) {
        let flags: u16 = if offer.multi { 0x103 } else { 3 };
        self.greet(offer.fixed);
        loop {
            let (option, data) = self.option();
            match option {
                8 if offer.structured => self.reply(8, 1, b""),
                10 if offer.allocation => {
                    assert_eq!(data, b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation");
                    self.reply(10, 4, b"\0\0\0\x05base:allocation");
                    self.reply(10, 1, b"");
                }
                7 if offer.go => {
                    assert_eq!(data, b"\0\0\0\x04disk\0\x01\0\x03");
                    self.reply(
                        7,
                        3,
                        &[b"\0\0".as_slice(), &offer.size.to_be_bytes(), &flags.to_be_bytes()]
                            .concat(),
                    );
                    if let Some(sizes) = offer.sizes {
                        let sizes = sizes.map(u32::to_be_bytes).concat();
                        self.reply(7, 3, &[b"\0\x03".as_slice(), &sizes].concat());
                    }
                    self.reply(7, 1, b"");
                    return;
                }
                1 => {
                    assert_eq!(data, b"disk");
                    let zeros: &[u8] = if offer.fixed { &[] } else { &[0; 124] };
                    self.send(&[&offer.size.to_be_bytes(), &flags.to_be_bytes(), zeros]);
                    return;
                }
                _ => self.reply(option, (1 << 31) + 1, b"never heard of it"),
            }
        }
    }

    /// Reads a request; `None` where the client is gone without a word.
    pub(super) fn request(&mut self) -> Option<Request> {
        let mut bytes = [0; 28];
        self.0.read_exact(&mut bytes).ok()?;
        assert_eq!(bytes[..6], [0x25, 0x60, 0x95, 0x13, 0, 0]);
        Some(Request {
            command: u16::from_be_bytes(bytes[6..8].try_into().unwrap()),
            cookie: u64::from_be_bytes(bytes[8..16].try_into().unwrap()),
            offset: u64::from_be_bytes(bytes[16..24].try_into().unwrap()),
            length: u32::from_be_bytes(bytes[24..].try_into().unwrap()),
        })
    }

    /// Sends a chunk whose header tells a length of its own.
    pub(super) fn claim(&mut self, cookie: u64, done: u16, kind: u16, length: u32, data: &[u8]) {
        self.send(&[
            &0x668e_33ef_u32.to_be_bytes(),
            &done.to_be_bytes(),
            &kind.to_be_bytes(),
            &cookie.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ]);
    }

    /// Sends a chunk.
    pub(super) fn chunk(&mut self, cookie: u64, done: u16, kind: u16, data: &[u8]) {
        self.claim(cookie, done, kind, u32::try_from(data.len()).unwrap(), data);
    }

    /// Sends a chunk of the disk's data.
    pub(super) fn data(&mut self, cookie: u64, done: u16, offset: u64, length: u32) {
        let data = content(offset, length);
        self.chunk(cookie, done, 1, &[offset.to_be_bytes().as_slice(), &data].concat());
    }

    /// Sends a chunk of zeros.
    pub(super) fn hole(&mut self, cookie: u64, done: u16, offset: u64, length: u32) {
        self.chunk(
            cookie,
            done,
            2,
            &[offset.to_be_bytes().as_slice(), &length.to_be_bytes()].concat(),
        );
    }

    /// Sends a simple reply.
    pub(super) fn simple(&mut self, cookie: u64, error: u32, data: &[u8]) {
        let magic = 0x6744_6698_u32.to_be_bytes();
        self.send(&[&magic, &error.to_be_bytes(), &cookie.to_be_bytes(), data]);
    }

    /// Answers reads until the client says goodbye, which it must.
    pub(super) fn serve(&mut self, offer: &Offer) {
        loop {
            let Request { command, cookie, offset, length } = self.request().unwrap();
            match command {
                0 if offer.structured => self.data(cookie, 1, offset, length),
                0 => self.simple(cookie, 0, &content(offset, length)),
                2 => return,
                other => panic!("request {other}"),
            }
        }
    }
}

/// What the disk holds.
pub(super) fn content(offset: u64, length: u32) -> Vec<u8> {
    let byte = |at: u64| (at ^ (at >> 8)).to_le_bytes()[0] | 1;
    (offset..offset + u64::from(length)).map(byte).collect()
}
