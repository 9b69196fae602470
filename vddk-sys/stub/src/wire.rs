//! The way to the server and back: how long it takes, and who is answered when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::disk::Request;

/// Answers come from so many threads, so that they come at the same time and in another order.
const THREADS: usize = 2;

/// The threads' name, by which their work is told from the client's.
const NAME: &str = "vddk-stub";

/// Each so manyth answer comes later than its turn.
const LATE: u64 = 5;

/// By how much, where nothing else takes time.
const LATE_TIME: Duration = Duration::from_micros(200);

pub(crate) struct Wire {
    round_trip: Duration,
    bytes_per_second: u64,
    at_once: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By when they are answered.
    requests: BinaryHeap<Reverse<Due>>,
    count: u64,
    /// When the link has carried everything.
    link_free: Instant,
    /// When each of the server's places is free.
    places: BinaryHeap<Reverse<Instant>>,
}

struct Due {
    at: Instant,
    number: u64,
    request: Request,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Wire {
    pub(crate) fn start(config: &Config) -> &'static Self {
        let now = now();
        let wire = Box::leak(Box::new(Self {
            round_trip: Duration::from_micros(config.round_trip_micros),
            bytes_per_second: config.bytes_per_second,
            at_once: config.at_once,
            state: Mutex::new(State {
                requests: BinaryHeap::new(),
                count: 0,
                link_free: now,
                places: (0..config.at_once).map(|_| Reverse(now)).collect(),
            }),
            changed: Condvar::new(),
        }));
        let wire: &'static Self = wire;
        for _ in 0..THREADS {
            let thread = std::thread::Builder::new().name(NAME.to_owned());
            thread.spawn(|| wire.carry()).expect("there is room for a thread");
        }
        wire
    }

    /// Tells whether requests are answered at once.
    pub(crate) fn is_instant(&self) -> bool {
        self.round_trip.is_zero() && self.bytes_per_second == 0 && self.at_once == 0
    }

    /// Takes a request on its way.
    pub(crate) fn send(&self, request: Request) {
        let now = now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let number = state.count;
        let begin = match state.places.pop() {
            Some(Reverse(free)) => free.max(now),
            None => now,
        };
        let mut at = begin + self.round_trip;
        if self.bytes_per_second > 0 {
            let nanos =
                u128::from(request.bytes()) * 1_000_000_000 / u128::from(self.bytes_per_second);
            let carried = Duration::from_nanos(u64::try_from(nanos).expect("less than centuries"));
            at = at.max(state.link_free) + carried;
            state.link_free = at;
        }
        if self.at_once > 0 {
            state.places.push(Reverse(at));
        }
        if number.is_multiple_of(LATE) {
            at += if self.is_instant() { LATE_TIME } else { self.round_trip / 4 };
        }
        state.requests.push(Reverse(Due { at, number, request }));
        drop(state);
        self.changed.notify_one();
    }

    /// Answers what is due, for ever.
    fn carry(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let wait = match state.requests.peek() {
                None => Duration::MAX,
                Some(Reverse(due)) => due.at.saturating_duration_since(now()),
            };
            if wait.is_zero() {
                let Some(Reverse(due)) = state.requests.pop() else { continue };
                drop(state);
                due.request.answer();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = self.changed.wait_timeout(state, wait);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it models time")]
fn now() -> Instant {
    Instant::now()
}
