//! What a person sees while VMs move: a bar for each on a terminal, a line for each change elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use jiff::{SignedDuration, Timestamp};

use crate::cli::log::screen;
use crate::controller::run::Watcher;
use crate::controller::{Controller, Pass};
use crate::copy::protocol::Stage;
use crate::decide::{Rest, Stand, Standing, Wait};
use crate::domain::id::VmKey;
use crate::domain::text::visible;
use crate::domain::unit::{Bytes, lasting};
use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::policy::Verdict;
use crate::status::result;

/// How many columns a VM's name has in front of its bar, on a terminal of 80 columns and on a wide one.
const NAME_COLUMNS: (usize, usize) = (16, 32);

/// From which width on a terminal is a wide one.
const WIDE: u16 = 110;

/// Tells the steps of moving VMs as they happen.
#[derive(Debug)]
pub(super) struct Live {
    bars: Option<MultiProgress>,
    seen: BTreeMap<VmKey, Seen>,
    troubles: BTreeSet<String>,
    findings: BTreeSet<String>,
    began_at: Option<Timestamp>,
    migrated: usize,
}

/// What was last said of a VM.
#[derive(Debug, Default)]
struct Seen {
    phase: &'static str,
    words: &'static str,
    wait: Option<String>,
    copied: Option<(Stage, u64)>,
    doing: Option<String>,
    bar: Option<ProgressBar>,
}

/// How far an attempt's disks are copied, or compared once they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    stage: Stage,
    behind: u64,
    total: u64,
}

impl Live {
    /// Draws bars where a person watches, else prints lines.
    pub(super) fn new(watched: bool) -> Self {
        let bars = watched.then(screen);
        let (seen, troubles, findings) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { bars, seen, troubles, findings, began_at: None, migrated: 0 }
    }

    fn say(&self, now: Timestamp, line: &str) {
        let line = format!("{}  {}", now.strftime("%H:%M:%S"), visible(line));
        match &self.bars {
            Some(bars) => {
                // A terminal that went away takes nothing with it but the line.
                let _ = bars.println(line);
            }
            None => crate::cli::tell(&line),
        }
    }

    /// Says what stands in the way of all VMs, once as long as it stays, and when it went away.
    fn troubles(&mut self, pass: &Pass, now: Timestamp) {
        let held = pass.held.as_ref().map(|reason| format!("held: {reason}"));
        let unread =
            pass.unread.as_ref().map(|error| format!("the repository is not read: {error}"));
        let troubles: BTreeSet<_> = held.into_iter().chain(unread).collect();
        let known = std::mem::replace(&mut self.troubles, troubles);
        for trouble in self.troubles.difference(&known) {
            self.say(now, trouble);
        }
        if self.troubles.is_empty() && !known.is_empty() {
            self.say(now, "the repository is followed again");
        }
    }

    /// Says what is wrong with the manifests, each once as long as it stays.
    fn findings(&mut self, controller: &Controller<'_>, now: Timestamp) {
        let findings = controller.wanted().into_iter().flat_map(|wanted| &wanted.findings);
        let findings =
            findings.filter(|finding| finding.blocks()).map(ToString::to_string).collect();
        let known = std::mem::replace(&mut self.findings, findings);
        for finding in self.findings.difference(&known) {
            self.say(now, finding);
        }
    }

    fn step(&mut self, run: &Run, now: Timestamp) {
        let key = &run.begun.instructions().desired.key;
        let (phase, words) = (run.phase.name(), words(run));
        let known = self.seen.get(key).map(|seen| seen.phase);
        if known == Some(phase) || (known.is_none() && run.phase.ended()) {
            return;
        }
        let before = self.seen.remove(key).unwrap_or_default();
        if let Some(result) = result(run) {
            if let Some(bar) = before.bar {
                bar.finish_and_clear();
            }
            self.migrated += usize::from(matches!(run.phase, Phase::Completed { .. }));
            self.seen.insert(key.clone(), Seen { phase, words, ..Seen::default() });
            self.say(now, &format!("{key}: {result}"));
            return;
        }
        let bar = before.bar.or_else(|| self.bars.as_ref().map(|bars| bar(bars, key, run)));
        if let Some(bar) = &bar {
            bar.set_message(words);
        } else if before.words != words {
            self.say(now, &format!("{key}: {words}"));
        }
        self.seen.insert(
            key.clone(),
            Seen { phase, words, bar, copied: before.copied, ..Seen::default() },
        );
    }

    fn progress(&mut self, controller: &Controller<'_>) {
        for run in controller.progress().moving() {
            if let (Phase::Converting { .. }, Some(doing)) =
                (&run.phase, controller.doing(run.begun.run()))
            {
                self.converting(&run.begun.instructions().desired.key, doing, controller.now());
            }
            let Some(reached) = reached(run, controller) else { continue };
            let key = &run.begun.instructions().desired.key;
            let Some(seen) = self.seen.get_mut(key) else { continue };
            let Reached { stage, behind, total } = reached;
            let before = seen.copied.filter(|(before, _)| *before == stage);
            let quarter = behind.saturating_mul(4).checked_div(total).unwrap_or(4);
            seen.copied = Some((stage, quarter));
            let words = match stage {
                Stage::Copy => "copy",
                Stage::Verify => "compare",
            };
            if let Some(bar) = &seen.bar {
                bar.set_message(words);
                bar.set_position(behind);
                // What an earlier process copied, or the other stage, says nothing about the speed of this one.
                if before.is_none() {
                    bar.reset_eta();
                }
            } else if before.map_or(quarter > 0, |(_, before)| before < quarter) {
                let (behind, total) = (Bytes(behind), Bytes(total));
                self.say(controller.now(), &format!("{key}: {words}, {behind} of {total}"));
            }
        }
    }

    /// Says what a converter says, once.
    fn converting(&mut self, key: &VmKey, doing: &str, now: Timestamp) {
        let Some(seen) = self.seen.get_mut(key) else { return };
        if seen.doing.as_deref() == Some(doing) {
            return;
        }
        seen.doing = Some(doing.to_owned());
        match &seen.bar {
            Some(bar) => bar.set_message(visible(doing).into_owned()),
            None => self.say(now, &format!("{key}: convert: {doing}")),
        }
    }

    fn waiting(&mut self, stand: &Stand, verdict: Option<&Verdict>, now: Timestamp) {
        let Standing::Waiting(wait) = &stand.state else { return };
        if matches!(wait, Wait::Copying | Wait::Converting) {
            return;
        }
        let text = waiting(wait, verdict);
        let seen = self.seen.entry(stand.key.clone()).or_default();
        if seen.wait.as_ref() != Some(&text) {
            let line = format!("{}: {text}", stand.key);
            seen.wait = Some(text);
            self.say(now, &line);
        }
    }

    /// Adds up, after the last pass, what was done and what is left.
    pub(super) fn summary(&self, pass: &Pass, now: Timestamp) -> String {
        let count =
            |of: fn(&Standing) -> bool| pass.stands.iter().filter(|stand| of(&stand.state)).count();
        let blocked = count(|state| matches!(state, Standing::Waiting(Wait::Blocked)));
        let stalled = count(|state| matches!(state, Standing::Waiting(Wait::Stalled(_))));
        let failed = count(|state| matches!(state, Standing::Resting(Rest::Failed(_))));
        let waiting = count(|state| matches!(state, Standing::Waiting(_)));
        let counts = [
            (self.migrated, "migrated"),
            (blocked, "blocked"),
            (failed + stalled, "failed"),
            (waiting - blocked - stalled, "waiting"),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, words)| format!("{count} {words}"))
            .collect();
        if parts.is_empty() {
            let words =
                if pass.unread.is_some() { "nothing was done" } else { "nothing is left to do" };
            return words.to_owned();
        }
        let took = self.began_at.map_or(SignedDuration::ZERO, |began| now.duration_since(began));
        let left = blocked + stalled + failed + waiting > 0;
        let see = if left { "; see `ferry status --why`" } else { "" };
        format!("{} in {}{see}", parts.join(", "), lasting(took))
    }
}

impl Watcher for Live {
    fn passed(&mut self, controller: &Controller<'_>, pass: &Pass) {
        let now = controller.now();
        self.began_at.get_or_insert(now);
        self.troubles(pass, now);
        self.findings(controller, now);
        for run in controller.progress().newest() {
            self.step(run, now);
        }
        for (at, stand) in pass.stands.iter().enumerate() {
            let own = |verdict: &&Verdict| verdict.key == stand.key;
            let verdicts = &pass.verdicts;
            let verdict = verdicts.get(at).filter(own).or_else(|| verdicts.iter().find(own));
            self.waiting(stand, verdict, now);
        }
        self.progress(controller);
    }

    fn heard(&mut self, controller: &Controller<'_>) {
        self.progress(controller);
    }
}

/// Adds up an attempt's disks; `None` while no worker spoke.
fn reached(run: &Run, controller: &Controller<'_>) -> Option<Reached> {
    let Phase::Copying(area) = &run.phase else { return None };
    let (mut copied, mut compared) = (0, 0);
    let (mut spoke, mut copying) = (false, false);
    let disks = &run.begun.instructions().vm.disks;
    for disk in disks {
        let Bytes(capacity) = disk.capacity;
        let done = area.disks.iter().find(|copy| copy.disk == disk.key);
        let live = controller.live().get(&(run.begun.run().clone(), disk.key.clone()));
        spoke |= live.is_some();
        match (live, done) {
            (_, Some(done)) if done.verified => {
                copied += capacity;
                compared += capacity;
            }
            (Some((Stage::Verify, Bytes(behind))), _) => {
                copied += capacity;
                compared += behind;
            }
            (_, Some(done)) if done.root.is_some() => copied += capacity,
            (Some((Stage::Copy, Bytes(behind))), _) => {
                copying = true;
                copied += behind;
            }
            (None, done) => {
                copying = true;
                let checkpoint = done.and_then(|done| done.checkpoint.as_ref());
                copied += checkpoint.map_or(0, |checkpoint| checkpoint.done.0);
            }
        }
    }
    let (stage, behind) = if copying { (Stage::Copy, copied) } else { (Stage::Verify, compared) };
    let total = disks.iter().map(|disk| disk.capacity).sum::<Bytes>().0;
    spoke.then_some(Reached { stage, behind, total })
}

/// Says what a VM waits for and what to do about it. What blocks it is said by the first finding.
fn waiting(wait: &Wait, verdict: Option<&Verdict>) -> String {
    let blocks = verdict.iter().flat_map(|verdict| &verdict.findings);
    let mut blocks = blocks.filter(|finding| finding.blocks());
    let (text, remedy) = match (wait, blocks.next()) {
        (Wait::Blocked, Some(first)) => {
            let more = blocks.count();
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            let text = format!("blocked: {}: {}{more}", first.place, first.text);
            (text, first.hint.clone())
        }
        (Wait::Blocked | Wait::Stalled(_), _) => {
            (format!("stopped: {}", wait.words()), wait.remedy())
        }
        _ => (format!("waits: {}", wait.words()), wait.remedy()),
    };
    match remedy {
        Some(remedy) => format!("{text} … to do: {remedy}"),
        None => text,
    }
}

/// Adds a bar. It is added before it is drawn for the first time: else it is drawn where nothing clears it.
fn bar(bars: &MultiProgress, key: &VmKey, run: &Run) -> ProgressBar {
    let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| size.ws_col);
    let name = if columns < WIDE { NAME_COLUMNS.0 } else { NAME_COLUMNS.1 };
    let bar = bars.add(ProgressBar::new(run.begun.instructions().vm.capacity().0));
    bar.set_style(style(name));
    bar.set_prefix(shortened(&visible(&key.to_string()), name));
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// Lays a bar out, with so many columns for the name.
pub(super) fn style(name: usize) -> ProgressStyle {
    let template = format!(
        "{{prefix:{name}!}} {{msg:13!}} {{wide_bar:.cyan/dim}} {{done:>16}} {{binary_bytes_per_sec:>12}} {{left:>7}}"
    );
    let done = |state: &ProgressState, line: &mut dyn std::fmt::Write| {
        let total = Bytes(state.len().unwrap_or_default());
        let percent = state.pos().saturating_mul(100).checked_div(total.0).unwrap_or(100);
        // A line that cannot be written is drawn again with the next step.
        let _ = write!(line, "{percent}% of {total}");
    };
    let left = |state: &ProgressState, line: &mut dyn std::fmt::Write| {
        // Without a speed the estimate is zero, which it is not.
        let left = SignedDuration::try_from(state.eta()).unwrap_or(SignedDuration::MAX);
        if left >= SignedDuration::from_secs(1) {
            let _ = write!(line, "{}", lasting(left));
        }
    };
    ProgressStyle::with_template(&template)
        .expect("the template is a constant and a test reads it")
        .with_key("done", done)
        .with_key("left", left)
        .progress_chars("━╸─")
}

/// Keeps the end of a name that is too long: there the VMs of a plan differ.
fn shortened(name: &str, columns: usize) -> String {
    let count = name.chars().count();
    if count <= columns {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count - columns + 1).collect();
    format!("…{end}")
}

fn words(run: &Run) -> &'static str {
    match &run.phase {
        Phase::Begun | Phase::Claiming { .. } | Phase::Claimed { .. } | Phase::On { .. } => "begin",
        Phase::ShuttingDown { .. } => "shut down",
        Phase::Off(_) | Phase::Preparing { .. } => "create disks",
        Phase::Copying(_) => "copy",
        Phase::Copied(_) if run.begun.converts() => "convert",
        Phase::Converting { .. } => "convert",
        Phase::Copied(_) | Phase::Converted(_) | Phase::Creating(_) => "create the VM",
        Phase::Created(_) | Phase::Starting { .. } => "start",
        Phase::Settling { .. } => "finish",
        Phase::Undoing(_) => "undo",
        Phase::Completed { .. } => "migrated",
        Phase::Undone { .. } => "undone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_laid_out_for_each_width() {
        for name in [NAME_COLUMNS.0, NAME_COLUMNS.1] {
            let bar = ProgressBar::hidden().with_style(style(name));
            bar.tick();
        }
    }

    #[test]
    fn what_blocks_a_vm_is_said_with_its_remedy() {
        use crate::policy::sample::{clear, seen, vm, wanted, world};
        let mut observed = world(vec![vm("web")]);
        seen(&mut observed, 0).nics[0].network = "DMZ".into();
        let verdicts = clear(&wanted(&[("shop", &["web"])]), &observed);
        expect_test::expect!["blocked: plans/web.yaml:12:5: network `DMZ` is not mapped … to do: Add an entry for the network to the NetworkMapping (`type: ignored` leaves the card out)"].assert_eq(&waiting(&Wait::Blocked, verdicts.first()));
        let migration = crate::domain::id::MigrationName::new("old");
        expect_test::expect!["waits: migration `old` still moves VMs"]
            .assert_eq(&waiting(&Wait::Older(migration), None));
        expect_test::expect![
            "waits: Ferry is held or about to end … to do: `ferry hold off` lets it go on"
        ]
        .assert_eq(&waiting(&Wait::Brake, None));
    }

    #[test]
    fn a_name_keeps_the_end_that_differs() {
        assert_eq!(shortened("shop/web-01", 16), "shop/web-01");
        assert_eq!(shortened("shop/database-01", 16), "shop/database-01");
        assert_eq!(shortened("shop/database-ü1-x", 8), "…se-ü1-x");
    }
}
