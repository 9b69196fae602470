//! How many bytes are on their way from one disk at once: as many as its server has memory for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// At most: with a second disk of the same ESXi host this is what hosts stand (their memory for all requests is 48 MB).
pub(super) const BYTES_MAX: u64 = 16 << 20;

/// At least, and what every bound is a multiple of: requests are cut down to it, and must be whole sectors.
const BYTES_MIN: u64 = 64 << 10;

/// What more is allowed at a time, once as much as sixteen times the bound came without a refusal.
const STEP: u64 = 1 << 20;
const CALM: u64 = 16;

/// The bound, and what is on its way.
pub(super) struct Budget {
    held: Mutex<Held>,
    freed: Condvar,
}

struct Held {
    allowed: u64,
    flying: u64,
    /// What came since the bound was last moved.
    calm: u64,
    /// How often it was lowered.
    lowered: u64,
}

/// Bytes on their way.
pub(super) struct Taken<'a> {
    budget: &'a Budget,
    bytes: u64,
    /// Which bound they were taken under.
    under: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        let held = Held { allowed: BYTES_MAX, flying: 0, calm: 0, lowered: 0 };
        Self { held: Mutex::new(held), freed: Condvar::new() }
    }

    /// Returns how large a request may be.
    pub(super) fn largest(&self) -> u64 {
        self.lock().allowed
    }

    /// Waits until there is room. What is larger than the bound goes alone.
    pub(super) fn take(&self, bytes: u64) -> Taken<'_> {
        let full = |held: &mut Held| held.flying > 0 && held.flying + bytes > held.allowed;
        let mut held =
            self.freed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        held.flying += bytes;
        Taken { budget: self, bytes, under: held.lowered }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    /// The data came.
    pub(super) fn came(self) {
        let mut held = self.budget.lock();
        held.calm += self.bytes;
        if held.calm >= CALM * held.allowed && held.allowed < BYTES_MAX {
            (held.allowed, held.calm) = (BYTES_MAX.min(held.allowed + STEP), 0);
        }
    }

    /// The server had no memory: halves the bound, once for all that were on their way together.
    pub(super) fn refused(self) {
        let mut held = self.budget.lock();
        if held.lowered == self.under {
            let half = held.allowed / 2;
            held.allowed = BYTES_MIN.max(half - half % BYTES_MIN);
            (held.calm, held.lowered) = (0, held.lowered + 1);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.budget.lock().flying -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_halve_it_once_for_all_and_calm_brings_it_back() {
        let budget = Budget::new();
        let together: Vec<Taken<'_>> = (0..4).map(|_| budget.take(1 << 20)).collect();
        together.into_iter().for_each(Taken::refused);
        assert_eq!(budget.largest(), BYTES_MAX / 2);
        for _ in 0..CALM * 8 {
            budget.take(1 << 20).came();
        }
        assert_eq!(budget.largest(), BYTES_MAX / 2 + STEP);
        for _ in 0..20 {
            budget.take(1 << 20).refused();
        }
        assert_eq!(budget.largest(), BYTES_MIN);
        for refusals in [3, 1, 5, 2, 9] {
            while budget.largest() < 3 * STEP {
                budget.take(1 << 20).came();
            }
            for _ in 0..refusals {
                budget.take(1 << 20).refused();
                assert!(budget.largest().is_multiple_of(BYTES_MIN), "{}", budget.largest());
            }
        }
        assert_eq!(budget.lock().flying, 0);
    }
}
