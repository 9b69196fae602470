//! One connection after its handshake, over which many threads have requests on their way.
//!
//! # Flow
//! A thread enlists its cookie, sends its request, and waits. Whoever waits while nobody reads takes the reading half and reads
//! the next header. If that answers its own request, it reads the payload straight into its own buffer; if it answers
//! another's, it leaves the reading half and the header to that thread and wakes it. So no bytes are copied between threads,
//! and the connection needs no thread of its own: while nobody waits, nobody reads.
//!
//! # Errors
//! An error of one request ends that request only. A lost connection and a broken rule end all that wait, and the connection.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::adapter::nbd::Patience;
use crate::adapter::nbd::address::Address;
use crate::adapter::nbd::answer::{Answer, Filling, Statuses};
use crate::adapter::nbd::failure::{EINVAL, ENOTSUP, Failure};
use crate::adapter::nbd::handshake::{Terms, shake};
use crate::adapter::nbd::socket::{Hurried, Socket};
use crate::adapter::nbd::wire::{self, BLOCK_STATUS, DISCONNECT, Header, Kind, NONE, READ};
use crate::extent::{Content, Extent};

/// What is read ahead: headers, and many descriptors in one call. Data passes by it.
const AHEAD_BYTES: usize = 4096;
/// The longest range of one question about what it holds: a multiple of every smallest block.
const STATUS_BYTES_MAX: u64 = (2 << 30) - (64 << 10);
/// The most errors in one reply; one says it all.
const ERRORS_MAX: usize = 64;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    terms: Terms,
    socket: Socket,
    /// Held while a request is written, so that no two mix.
    sending: Mutex<()>,
    replies: Mutex<Replies>,
}

/// Who waits for what, and who reads.
#[derive(Debug)]
struct Replies {
    /// The reading half; `None` while a thread reads, and after the end.
    reader: Option<BufReader<Socket>>,
    /// A header that was read for another thread, which has not come to take it yet.
    header: Option<Header>,
    /// The requests on their way, the oldest first, and what wakes their threads.
    waiting: VecDeque<(u64, Arc<Condvar>)>,
    next_cookie: u64,
    /// Why the connection ended.
    broken: Option<Failure>,
}

impl Link {
    /// Connects and agrees with the server on terms.
    pub(super) fn open(address: &Address, patience: &Patience) -> Result<Self, Failure> {
        let socket = Socket::connect(address, patience.connect);
        let socket = socket.map_err(|error| Failure::Unreached(error.to_string()))?;
        let terms = shake(&mut Hurried::new(&socket, patience.connect), &address.export)?;
        socket.set_patience(patience.silence).map_err(Failure::lost)?;
        let reader =
            BufReader::with_capacity(AHEAD_BYTES, socket.try_clone().map_err(Failure::lost)?);
        let replies = Replies {
            reader: Some(reader),
            header: None,
            waiting: VecDeque::new(),
            next_cookie: 1,
            broken: None,
        };
        Ok(Self { terms, socket, sending: Mutex::new(()), replies: Mutex::new(replies) })
    }

    /// Returns what was agreed on.
    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Fills the beginning of a buffer from a place within the export, as far as one request reaches. Returns how far.
    pub(super) fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Failure> {
        let (minimum, step) = (u64::from(self.terms.minimum), u64::from(self.terms.maximum));
        let from = offset - offset % minimum;
        let end = offset.saturating_add(length(buffer)).min(from + step);
        let to = end.next_multiple_of(minimum).min(self.terms.size);
        let count = usize::try_from(end - offset).expect("it is within the buffer");
        if (from, to) == (offset, end) {
            self.read(offset, &mut buffer[..count])?;
        } else {
            let mut rounded = vec![0; usize::try_from(to - from).expect("it is below 32 MiB")];
            self.read(from, &mut rounded)?;
            let skipped = usize::try_from(offset - from).expect("it is below one block");
            buffer[..count].copy_from_slice(&rounded[skipped..skipped + count]);
        }
        Ok(count)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let asked = u32::try_from(buffer.len()).expect("a request is below 32 MiB");
        self.ask(READ, offset, asked, &mut Filling::new(offset, buffer))
    }

    /// Tells what a range within the export holds, from its start on.
    pub(super) fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, Failure> {
        let minimum = u64::from(self.terms.minimum);
        let unknown = || vec![Extent { offset, length, content: Content::Data }];
        let Some(context) = self.terms.allocation else { return Ok(unknown()) };
        let from = offset - offset % minimum;
        let end = offset.saturating_add(length).min(from + STATUS_BYTES_MAX);
        let to = end.next_multiple_of(minimum).min(self.terms.size);
        let asked = u32::try_from(to - from).expect("a question is below 2 GiB");
        let mut statuses = Statuses::new(context, from, offset..end);
        match self.ask(BLOCK_STATUS, from, asked, &mut statuses) {
            // The server agreed to tell and cannot, here: reading tells.
            Err(Failure::Error { code: EINVAL | ENOTSUP, .. }) => Ok(unknown()),
            other => other.map(|()| statuses.extents()),
        }
    }

    /// Sends a request and takes in its answer.
    fn ask(
        &self,
        command: u16,
        offset: u64,
        length: u32,
        answer: &mut dyn Answer,
    ) -> Result<(), Failure> {
        let (cookie, woken) = self.enlist()?;
        let sent = self.send(&wire::request(command, cookie, offset, length));
        let heard = sent.and_then(|()| self.hear(cookie, &woken, answer));
        match heard {
            Ok(result) => result,
            Err(failure) => Err(self.break_off(failure)),
        }
    }

    fn enlist(&self) -> Result<(u64, Arc<Condvar>), Failure> {
        let mut replies = self.replies();
        if let Some(broken) = &replies.broken {
            return Err(Failure::Lost(format!("it ended before: {broken}")));
        }
        let cookie = replies.next_cookie;
        replies.next_cookie = cookie.wrapping_add(1);
        let woken = Arc::new(Condvar::new());
        replies.waiting.push_back((cookie, Arc::clone(&woken)));
        Ok((cookie, woken))
    }

    fn send(&self, request: &[u8]) -> Result<(), Failure> {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.socket).write_all(request).map_err(Failure::lost)
    }

    /// Takes in the parts of an answer up to the last one. The outer error ends the connection, the inner one only this
    /// request.
    fn hear(
        &self,
        cookie: u64,
        woken: &Condvar,
        answer: &mut dyn Answer,
    ) -> Result<Result<(), Failure>, Failure> {
        let mut failed = None;
        let mut errors = 0;
        let (mut reader, mut header) = self.wait(cookie, woken)?;
        loop {
            let done = match header.kind {
                Kind::Simple { error: 0 } if self.terms.structured => {
                    return Err(Failure::Lie(
                        "it sends a simple reply where chunks were agreed".to_owned(),
                    ));
                }
                Kind::Simple { error: 0 } => {
                    answer.simple(&mut reader)?;
                    true
                }
                Kind::Simple { error: code } => {
                    failed = Some(Failure::Error { code, words: "it says no more".to_owned() });
                    true
                }
                Kind::Chunk { .. } if !self.terms.structured => {
                    return Err(Failure::Lie("it sends a chunk where none was agreed".to_owned()));
                }
                Kind::Chunk { done, kind, length } => {
                    if wire::is_error(kind) {
                        let error = wire::error(kind, length, &mut reader)?;
                        failed.get_or_insert(error);
                        errors += 1;
                    } else if kind != NONE {
                        answer.chunk(kind, length, &mut reader)?;
                    } else if length != 0 || !done {
                        return Err(Failure::Lie("an empty chunk is not the last one".to_owned()));
                    }
                    done
                }
            };
            if errors > ERRORS_MAX {
                return Err(Failure::Lie(format!("more than {ERRORS_MAX} errors in one reply")));
            }
            if done {
                let result =
                    failed.map_or_else(|| answer.complete().map(Ok), |one| Ok(Err(one)))?;
                self.hand_on(cookie, reader);
                return Ok(result);
            }
            (reader, header) = self.next(cookie, woken, reader)?;
        }
    }

    /// Waits until a header for a cookie was read, or the reading half is free to read one.
    fn wait(&self, cookie: u64, woken: &Condvar) -> Result<(BufReader<Socket>, Header), Failure> {
        let mut replies = self.replies();
        loop {
            if let Some(broken) = &replies.broken {
                return Err(broken.clone());
            }
            if replies.header.is_none_or(|header| header.cookie == cookie)
                && let Some(reader) = replies.reader.take()
            {
                let header = replies.header.take();
                drop(replies);
                return match header {
                    Some(header) => Ok((reader, header)),
                    None => self.next(cookie, woken, reader),
                };
            }
            replies = woken.wait(replies).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads the next header; where it is another's, hands it over and waits again.
    fn next(
        &self,
        cookie: u64,
        woken: &Condvar,
        mut reader: BufReader<Socket>,
    ) -> Result<(BufReader<Socket>, Header), Failure> {
        let header = wire::header(&mut reader)?;
        if header.cookie == cookie {
            return Ok((reader, header));
        }
        let mut replies = self.replies();
        let owner = replies.waiting.iter().find(|(waiting, _)| *waiting == header.cookie);
        let Some((_, owner)) = owner.cloned() else {
            let lie = format!("it answers request {}, which is not on its way", header.cookie);
            return Err(Failure::Lie(lie));
        };
        replies.reader = Some(reader);
        replies.header = Some(header);
        drop(replies);
        owner.notify_one();
        self.wait(cookie, woken)
    }

    /// Gives the reading half to whoever waits longest.
    fn hand_on(&self, cookie: u64, reader: BufReader<Socket>) {
        let mut replies = self.replies();
        if replies.broken.is_some() {
            return;
        }
        replies.waiting.retain(|(waiting, _)| *waiting != cookie);
        replies.reader = Some(reader);
        if let Some((_, oldest)) = replies.waiting.front() {
            oldest.notify_one();
        }
    }

    /// Ends the connection, wakes all that wait, and returns why it ended: the first reason counts.
    fn break_off(&self, failure: Failure) -> Failure {
        let mut replies = self.replies();
        let cause = replies.broken.get_or_insert(failure).clone();
        replies.reader = None;
        for (_, woken) in replies.waiting.drain(..) {
            woken.notify_one();
        }
        drop(replies);
        self.socket.end();
        cause
    }

    fn replies(&self) -> MutexGuard<'_, Replies> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.replies().broken.is_none() && self.socket.set_patience(GOODBYE).is_ok() {
            let _ = self.send(&wire::request(DISCONNECT, 0, 0, 0));
        }
    }
}

fn length(buffer: &[u8]) -> u64 {
    u64::try_from(buffer.len()).unwrap_or(u64::MAX)
}
