//! How many requests are on their way to a disk at once: more as long as that costs no time, fewer as soon as they wait for
//! each other.
//!
//! A server far away answers many requests in the time of one; a disk, or a server on this machine, answers them one after
//! another, and whatever waits there only takes memory and cores. Neither says which it is. So the answers' time is watched, as
//! TCP Vegas does: a round of requests that took about as long as the fastest rounds allows more, one that took much longer
//! fewer. One that failed ends all that wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::adapter::clock::SystemClock;
use crate::extent::Extent;
use crate::port::{Blocks, Clock as _, PortError};

/// How many are tried first, and at least.
const FLIGHT_MIN: usize = 4;

/// How many rounds the fastest is looked for in: a cache that answered once must not be the measure for ever.
const ROUNDS: usize = 32;

/// A disk whose requests are bounded by how long they take.
pub(in crate::adapter) struct Adapted {
    blocks: Arc<dyn Blocks>,
    clock: SystemClock,
    held: Mutex<Held>,
    freed: Condvar,
}

struct Held {
    /// How many are on their way.
    flying: usize,
    /// Why one of them failed: who waits does not try the same.
    failed: Option<PortError>,
    window: Window,
}

/// How many may be on their way, by what was heard.
struct Window {
    size: usize,
    max: usize,
    /// Nothing was slow yet: the size doubles.
    opening: bool,
    /// The answers of this round, and how long they took together.
    heard: usize,
    took: Duration,
    /// How long an answer of the last rounds took.
    rounds: VecDeque<Duration>,
}

impl Adapted {
    /// Lets at most so many requests be on their way as the disk says that are worth it.
    pub(in crate::adapter) fn new(blocks: Arc<dyn Blocks>) -> Self {
        let window = Window::new(blocks.in_flight());
        let held = Mutex::new(Held { flying: 0, failed: None, window });
        Self { blocks, clock: SystemClock::start(), held, freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks for Adapted {
    fn size(&self) -> u64 {
        self.blocks.size()
    }

    fn state(&self) -> Result<String, PortError> {
        self.blocks.state()
    }

    fn in_flight(&self) -> usize {
        self.blocks.in_flight()
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        self.blocks.extents(offset, length)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let full = |held: &mut Held| held.failed.is_none() && held.flying >= held.window.size;
        let mut held =
            self.freed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &held.failed {
            return Err(error.clone());
        }
        held.flying += 1;
        drop(held);
        let _landed = Landed(self);
        let asked = self.clock.elapsed();
        let read = self.blocks.read(offset, buffer);
        let took = (self.clock.elapsed() - asked).unsigned_abs();
        let mut held = self.lock();
        match &read {
            Ok(()) => held.window.hear(took),
            Err(error) => held.failed = Some(error.clone()),
        }
        read
    }
}

/// Makes room when it goes, on every way out.
struct Landed<'a>(&'a Adapted);

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.0.lock().flying -= 1;
        // The window may have grown by more than the one that landed.
        self.0.freed.notify_all();
    }
}

impl Window {
    fn new(max: usize) -> Self {
        Self {
            size: FLIGHT_MIN.min(max),
            max,
            opening: true,
            heard: 0,
            took: Duration::ZERO,
            rounds: VecDeque::new(),
        }
    }

    /// Hears how long an answer took.
    fn hear(&mut self, took: Duration) {
        self.heard += 1;
        self.took += took;
        if self.heard < self.size {
            return;
        }
        let took = self.took / u32::try_from(self.heard).unwrap_or(u32::MAX);
        (self.heard, self.took) = (0, Duration::ZERO);
        if self.rounds.len() == ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(took);
        let fastest = self.rounds.iter().min().copied().unwrap_or(took);
        if took <= fastest * 3 / 2 {
            self.set(if self.opening { self.size * 2 } else { self.size + 1 });
        } else {
            self.opening = false;
            // It never rests in between: only with fewer requests is seen what the fastest would be now.
            self.set(if took < fastest * 2 { self.size - 1 } else { self.size - self.size / 4 });
        }
    }

    fn set(&mut self, size: usize) {
        self.size = size.clamp(FLIGHT_MIN.min(self.max), self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets rounds of requests be answered by a disk that takes some time for any number up to `width`, and so many times
    /// longer beyond.
    fn settled(window: &mut Window, width: usize, rounds: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        for _ in 0..rounds {
            let size = window.size;
            let waiting = u32::try_from(size.div_ceil(width)).unwrap();
            for _ in 0..size {
                window.hear(Duration::from_millis(5) * waiting);
            }
            sizes.push(window.size);
        }
        sizes
    }

    #[test]
    fn far_servers_get_many_requests_and_near_disks_few() {
        assert_eq!(settled(&mut Window::new(32), 1000, 5), [8, 16, 32, 32, 32]);
        let sizes = settled(&mut Window::new(32), 12, 60);
        assert!(sizes[10..].iter().all(|size| (9..=26).contains(size)), "{sizes:?}");
        assert_eq!(settled(&mut Window::new(2), 1000, 3), [2, 2, 2], "no more than allowed");
    }

    #[test]
    fn one_answer_from_a_cache_is_no_measure_for_ever() {
        let mut window = Window::new(32);
        for _ in 0..4 {
            window.hear(Duration::from_micros(50));
        }
        let sizes = settled(&mut window, 1000, 2 * ROUNDS);
        assert_eq!(sizes.last(), Some(&32), "{sizes:?}");
    }

    /// A disk of which every read fails.
    struct Broken;

    impl Blocks for Broken {
        fn size(&self) -> u64 {
            1 << 20
        }

        fn in_flight(&self) -> usize {
            32
        }

        fn extents(&self, _: u64, _: u64) -> Result<Vec<Extent>, PortError> {
            Ok(Vec::new())
        }

        fn read(&self, offset: u64, _: &mut [u8]) -> Result<(), PortError> {
            Err(PortError::passing(format!("byte {offset}"), ""))
        }
    }

    #[test]
    fn after_a_failure_nothing_else_is_tried() {
        let disk = Adapted::new(Arc::new(Broken));
        let said = [7, 8].map(|offset| disk.read(offset, &mut [0]).unwrap_err().fault.text);
        assert_eq!(said, ["byte 7", "byte 7"]);
    }
}
