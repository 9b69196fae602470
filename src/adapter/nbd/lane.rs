//! A connection that is made again when it was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::adapter::nbd::Patience;
use crate::adapter::nbd::address::Address;
use crate::adapter::nbd::failure::Failure;
use crate::adapter::nbd::link::Link;

/// How often one request is sent again because its connection was lost: a server that falls over it each time is left alone.
const RESENDS_MAX: usize = 5;

/// One of an export's connections.
#[derive(Debug)]
pub(super) struct Lane {
    /// Held while a new connection is made, so that all that lost the old one wait for the same.
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    link: Arc<Link>,
    /// Which connection it is; each new one counts on.
    number: u64,
    /// Why no connection could be made after this one.
    given_up: Option<Failure>,
}

/// A connection that was lost.
#[derive(Debug)]
struct Lost {
    number: u64,
    /// How large the export was over it.
    size: u64,
    cause: String,
}

impl Lane {
    /// Takes a connection.
    pub(super) fn new(link: Link) -> Self {
        Self { held: Mutex::new(Held { link: Arc::new(link), number: 0, given_up: None }) }
    }

    /// Asks something that may be asked twice, over a new connection where the old one was lost meanwhile.
    pub(super) fn ask<T>(
        &self,
        address: &Address,
        patience: &Patience,
        mut ask: impl FnMut(&Link) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (mut number, mut link) = self.current();
        for _ in 0..RESENDS_MAX {
            match ask(&link) {
                Err(Failure::Lost(cause)) => {
                    let lost = Lost { number, size: link.terms().size, cause };
                    (number, link) = self.replace(lost, address, patience)?;
                }
                other => return other,
            }
        }
        ask(&link)
    }

    /// Returns the connection and its number. What was given up before is tried again, by whoever comes later.
    fn current(&self) -> (u64, Arc<Link>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.given_up = None;
        (held.number, Arc::clone(&held.link))
    }

    /// Returns the connection that follows a lost one: one that another thread made meanwhile, or a new one after a bounded
    /// number of tries.
    fn replace(
        &self,
        lost: Lost,
        address: &Address,
        patience: &Patience,
    ) -> Result<(u64, Arc<Link>), Failure> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.number != lost.number {
            return Ok((held.number, Arc::clone(&held.link)));
        }
        if let Some(failure) = &held.given_up {
            return Err(failure.clone());
        }
        let mut opened = Err(Failure::Lost(lost.cause));
        for pause in &patience.pauses {
            thread::sleep(*pause);
            opened = Link::open(address, patience);
            if !matches!(opened, Err(Failure::Lost(_) | Failure::Unreached(_))) {
                break;
            }
        }
        let same = opened.and_then(|link| match link.terms().size {
            now if now == lost.size => Ok(link),
            now => Err(Failure::Resized { before: lost.size, now }),
        });
        match same {
            Ok(link) => {
                let link = Arc::new(link);
                held.link = Arc::clone(&link);
                held.number += 1;
                Ok((held.number, link))
            }
            Err(failure) => {
                held.given_up = Some(failure.clone());
                Err(failure)
            }
        }
    }
}
