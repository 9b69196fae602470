//! Quantities with their unit in the type.

use std::fmt;
use std::ops::{Add, AddAssign};

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes. Displayed in binary units with one decimal, in sums and sizes alike.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// How many bytes a second an estimate reckons with, until copies were measured: what a gigabit link carries.
pub const COPY_RATE: Bytes = Bytes::mib(110);

impl Bytes {
    /// Counts mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Subtracts, and stops at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // The power of 1024 that leaves a number from 1 to 1023 in front; tenths by integer arithmetic, rounded down.
        let power = (self.0.ilog2() / 10).min(6);
        let unit = 1_u128 << (power * 10);
        let tenths = u128::from(self.0) * 10 / unit;
        let name = UNITS.get(usize::try_from(power).unwrap_or(1) - 1).copied().unwrap_or("EiB");
        f.pad(&format!("{}.{} {name}", tenths / 10, tenths % 10))
    }
}

/// Says how long something takes, in its two largest units; below a second in tenths.
pub fn lasting(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds > 0 => format!("{seconds} s"),
        (0, 0, 0) => match duration.subsec_millis().max(0) {
            0 => "0 s".to_owned(),
            1..100 => "< 0.1 s".to_owned(),
            milliseconds => format!("0.{} s", milliseconds / 100),
        },
        (0, 0, minutes) => format!("{minutes} m {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} m"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        let shown = [-5, 0, 40, 420, 999, 1000, 59_999, 200_000, 38_100_000, 100_000_000]
            .map(|milliseconds| lasting(SignedDuration::from_millis(milliseconds)));
        assert_eq!(
            shown,
            [
                "0 s",
                "0 s",
                "< 0.1 s",
                "0.4 s",
                "0.9 s",
                "1 s",
                "59 s",
                "3 m 20 s",
                "10 h 35 m",
                "1 d 3 h"
            ]
        );
    }

    #[test]
    fn bytes_read_as_people_say_them() {
        let shown = [0, 1023, 1024, 1536, 64 << 20, (1 << 40) + (1 << 39), u64::MAX]
            .map(|count| Bytes(count).to_string());
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "1.5 TiB", "15.9 EiB"]
        );
    }
}
