//! How fast VMs of a source were copied, for estimates: measured, and until then assumed.
//!
//! A measured time holds whatever happened meanwhile: a hold over the weekend, a worker that was restarted. So nothing is
//! decided by it. Windows are asked for the time that the assumed rate needs.

use jiff::SignedDuration;

use crate::desired::Desired;
use crate::domain::unit::{Bytes, COPY_RATE};

/// How many of the last copies count.
const COPIES_MAX: usize = 6;
/// A shorter copy tells of its beginning and its end, not of the way between.
const COPY_MIN: SignedDuration = SignedDuration::from_secs(10);
/// A smaller one, too.
const BYTES_MIN: Bytes = Bytes::mib(256);

/// How long a conversion is assumed to take: some minutes with KVM. Under emulation it is twice that for a large guest, which
/// the reserve for undoing has to hold.
const CONVERSION: SignedDuration = SignedDuration::from_mins(10);

/// Returns how long a VM is assumed to be down while so much is copied and, where that is wanted and not done yet, its guest
/// is converted: what windows are asked for.
pub fn down_for(copied: Bytes, desired: &Desired, converted: bool) -> SignedDuration {
    let converts = !desired.skip_guest_conversion && !converted;
    let conversion = if converts { CONVERSION } else { SignedDuration::ZERO };
    Pace::ASSUMED.time(copied).saturating_add(conversion)
}

/// The rates of the last copies from one source, in bytes a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recent(Vec<Bytes>);

impl Recent {
    /// Takes one more, unless it tells nothing.
    pub(super) fn add(&mut self, copied: Bytes, took: SignedDuration) {
        if took < COPY_MIN || copied < BYTES_MIN {
            return;
        }
        if self.0.len() == COPIES_MAX {
            self.0.remove(0);
        }
        let milliseconds = took.as_millis().unsigned_abs();
        let rate = u128::from(copied.0) * 1000 / milliseconds;
        self.0.push(Bytes(u64::try_from(rate).unwrap_or(u64::MAX).max(1)));
    }

    /// Returns what they come to: the one in the middle, of two the slower.
    pub(super) fn pace(&self) -> Pace {
        let mut rates = self.0.clone();
        rates.sort_unstable();
        let middle = rates.len().saturating_sub(1) / 2;
        rates.get(middle).map_or(Pace::ASSUMED, |rate| Pace { rate: *rate, copies: rates.len() })
    }
}

/// How fast a source is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// In bytes a second.
    pub rate: Bytes,
    /// How many copies were measured; none where it is assumed.
    pub copies: usize,
}

impl Pace {
    /// What is assumed until a copy was measured, and whatever was measured where something is decided by it.
    pub const ASSUMED: Self = Self { rate: COPY_RATE, copies: 0 };

    /// Returns how long a copy takes, rounded up to seconds.
    pub fn time(&self, bytes: Bytes) -> SignedDuration {
        let seconds = bytes.0.div_ceil(self.rate.0);
        SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
    }

    /// Says what it was reckoned from.
    pub fn basis(&self) -> String {
        match self.copies {
            0 => format!("default {}/s", self.rate),
            1 => format!("last VM of this source, {}/s", self.rate),
            copies => format!("last {copies} VMs of this source, {}/s", self.rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_the_middle_of_the_last_copies() {
        let mut recent = Recent::default();
        let seconds = SignedDuration::from_secs;
        assert_eq!(recent.pace(), Pace::ASSUMED);
        assert_eq!(recent.pace().time(Bytes::mib(1100)), seconds(10));
        recent.add(Bytes::mib(5000), seconds(9));
        recent.add(Bytes::mib(5), seconds(90));
        assert_eq!(recent.pace(), Pace::ASSUMED, "too little to tell");
        recent.add(Bytes::mib(9000), seconds(300));
        assert_eq!(recent.pace(), Pace { rate: Bytes::mib(30), copies: 1 });
        recent.add(Bytes::mib(2000), seconds(100));
        assert_eq!(recent.pace().rate, Bytes::mib(20));
        // One that stood still for a weekend is not believed.
        recent.add(Bytes::mib(2000), SignedDuration::from_hours(60));
        assert_eq!(recent.pace().rate, Bytes::mib(20));
        assert_eq!(recent.pace().time(Bytes::mib(100)), seconds(5));
        assert_eq!(recent.pace().basis(), "last 3 VMs of this source, 20.0 MiB/s");
        (0..COPIES_MAX).for_each(|_| recent.add(Bytes::mib(1000), seconds(100)));
        assert_eq!(recent.pace(), Pace { rate: Bytes::mib(10), copies: COPIES_MAX });
        recent.add(Bytes(u64::MAX), SignedDuration::MAX);
        assert_eq!(Pace { rate: Bytes(1), copies: 1 }.time(Bytes(u64::MAX)), seconds(i64::MAX));
    }
}
