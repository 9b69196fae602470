//! Connected sockets of both families, whose waits are all bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::adapter::clock::SystemClock;
use crate::adapter::nbd::address::{Address, Server};
use crate::port::Clock;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Within this machine.
    Unix(UnixStream),
}

impl Socket {
    /// Connects within a time limit, looking the host's name up included.
    pub(super) fn connect(address: &Address, limit: Duration) -> io::Result<Self> {
        // A look-up, and a Unix socket whose backlog is full, cannot be told how long to wait. The thread ends with the
        // kernel's own limit, or when the server accepts.
        let (sender, receiver) = channel();
        let server = address.server.clone();
        thread::Builder::new()
            .name("nbd-connect".to_owned())
            .spawn(move || sender.send(Self::reach(&server, limit)))?;
        receiver.recv_timeout(limit).unwrap_or_else(|_| Err(late(limit)))
    }

    fn reach(server: &Server, limit: Duration) -> io::Result<Self> {
        let (host, port) = match server {
            Server::Unix { socket } => return UnixStream::connect(socket).map(Self::Unix),
            Server::Tcp { host, port } => (host.as_str(), *port),
        };
        let mut failed = io::Error::other("the host's name leads to no address");
        for place in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&place, limit) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Makes another handle of the same connection.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Sets how long a single read or write may go without any byte.
    pub(super) fn set_patience(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))
            }
        }
    }

    /// Ends the connection both ways, which wakes whoever reads or writes. That it ended already is no error.
    pub(super) fn end(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// Tells a timeout from other errors: the kernel calls it "would block".
fn named(socket: &Socket, error: io::Error) -> io::Error {
    let limit = match socket {
        Socket::Tcp(stream) => stream.read_timeout(),
        Socket::Unix(stream) => stream.read_timeout(),
    };
    match (error.kind(), limit) {
        (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Ok(Some(limit))) => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no byte passed for {limit:?}"))
        }
        _ => error,
    }
}

fn late(limit: Duration) -> io::Error {
    let text = format!("no answer within {limit:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(buffer),
            Socket::Unix(stream) => (&*stream).read(buffer),
        }
        .map_err(|error| named(self, error))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write(bytes),
            Socket::Unix(stream) => (&*stream).write(bytes),
        }
        .map_err(|error| named(self, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket with a moment by which everything must be over, however slowly the bytes come.
#[derive(Debug)]
pub(super) struct Hurried<'a> {
    socket: &'a Socket,
    clock: SystemClock,
    limit: Duration,
}

impl<'a> Hurried<'a> {
    /// Starts the time.
    pub(super) fn new(socket: &'a Socket, limit: Duration) -> Self {
        Self { socket, clock: SystemClock::start(), limit }
    }

    fn told(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::TimedOut { late(self.limit) } else { error }
    }

    fn hurry(&self) -> io::Result<()> {
        let passed = self.clock.elapsed().unsigned_abs();
        match self.limit.checked_sub(passed).filter(|left| !left.is_zero()) {
            Some(left) => self.socket.set_patience(left),
            None => Err(late(self.limit)),
        }
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hurry()?;
        self.socket.read(buffer).map_err(|error| self.told(error))
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hurry()?;
        self.socket.write(bytes).map_err(|error| self.told(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
