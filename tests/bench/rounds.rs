//! What is run in turn until five rounds in a row were quiet, and what is said of it.

/// How many rounds make a result, and how many there are at most.
pub(crate) const RUNS: usize = 5;
pub(crate) const ROUNDS_MAX: usize = 25;

/// The spread, in percent, above which there is no result.
pub(crate) const SPREAD_MAX: f64 = 15.0;

/// What one run used.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    pub(crate) processor: f64,
    pub(crate) peak_kib: f64,
}

/// The quietest rounds.
pub(crate) struct Rounds {
    /// What each used, of those that ran in turn.
    pub(crate) used: Vec<Vec<Used>>,
    /// Which rounds these are, and of how many.
    pub(crate) which: String,
}

impl Rounds {
    /// Runs so many in turn, by their numbers: once unmeasured, then until five rounds in a row were quiet. Of a machine that never
    /// is, the quietest five count, the same ones for all, chosen by their spread alone.
    pub(crate) fn run(count: usize, mut run: impl FnMut(usize) -> Used) -> Self {
        let mut all = vec![Vec::new(); count];
        for round in 0..=ROUNDS_MAX {
            for (nth, used) in all.iter_mut().enumerate() {
                let one = run(nth);
                if round > 0 {
                    used.push(one);
                }
            }
            if round >= RUNS && worst_spread(&all, round - RUNS) <= SPREAD_MAX {
                break;
            }
        }
        let rounds = all[0].len();
        let quietest = (0..=rounds - RUNS)
            .min_by(|one, other| worst_spread(&all, *one).total_cmp(&worst_spread(&all, *other)));
        let first = quietest.unwrap();
        for used in &mut all {
            *used = used[first..first + RUNS].to_vec();
        }
        Self { used: all, which: format!("rounds {} to {} of {rounds}", first + 1, first + RUNS) }
    }
}

/// Returns the median, and the spread in percent of it.
pub(crate) fn median(used: &[Used], of: fn(&Used) -> f64) -> (f64, f64) {
    let mut values: Vec<f64> = used.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (middle, last) = (values[values.len() / 2], values[values.len() - 1]);
    (middle, (last - values[0]) / middle * 100.0)
}

/// Returns the largest spread of a command's times over the rounds from one on.
fn worst_spread(all: &[Vec<Used>], first: usize) -> f64 {
    let spread = |used: &Vec<Used>| median(&used[first..first + RUNS], |one| one.seconds).1;
    all.iter().map(spread).fold(0.0, f64::max)
}
