//! How often something is run, and what is said of its times.

use std::fmt;
use std::time::{Duration, Instant};

/// How often: the median of five is not moved by two runs that something else disturbed.
const RUNS: usize = 5;

/// The times of five runs, in ascending order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times([Duration; RUNS]);

impl Times {
    /// Runs something once unmeasured, then five times, each after its preparation.
    pub(crate) fn of<P>(mut prepare: impl FnMut() -> P, mut run: impl FnMut(P)) -> Self {
        run(prepare());
        let mut times = [(); RUNS].map(|()| {
            let prepared = prepare();
            let begin = Instant::now();
            run(prepared);
            begin.elapsed()
        });
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[RUNS / 2]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let [least, .., most] = self.0.map(milliseconds);
        write!(f, "{:>9.1} ms   {least:>9.1} to {most:.1} ms", milliseconds(self.median()))
    }
}
