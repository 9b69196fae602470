//! A preview as text for a terminal, as Markdown for a comment, and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table};
use jiff::SignedDuration;

use crate::domain::text::{markdown, visible};
use crate::domain::unit::lasting;
use crate::manifest::diagnostic::{Finding, Severity};
use crate::preview::{Change, Destination, Factor, Level, Preview, Row, Schedule, Sizes, Summary};

/// How many VMs that need nothing are listed; of more only the number is of interest.
const UNCHANGED_LISTED_MAX: usize = 20;

/// How much of the reasons one Markdown row shows, in characters before escaping.
const WHY_MAX: usize = 400;

/// Which column tells of cutovers.
const CUTOVER_COLUMN: usize = 6;

/// The narrowest table that can still be read.
const WIDTH_MIN: u16 = 40;

/// From which width on a terminal shows digests: the reasons come first.
const WIDTH_OF_DIGESTS: u16 = 100;

impl Preview {
    /// Renders it for a terminal of so many columns.
    pub fn text(&self, width: u16) -> String {
        let width = width.max(WIDTH_MIN);
        let mut text = lines(&[self.headline(), self.data()], width, 0);
        for change in &self.after_merge {
            text.push_str(&lines(&[format!("after the merge: {change}")], width, 0));
        }
        for finding in &self.manifests {
            text.push_str(&lines(&[format!("! {}", told(finding))], width, 0));
        }
        let rows: Vec<&Row> = self.listed().collect();
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&table(&rows, width));
            let mut used: Vec<Change> = rows.iter().map(|row| row.change).collect();
            used.sort();
            used.dedup();
            let legend: Vec<String> = used
                .iter()
                .map(|change| format!("{} {}", change.symbol(), change.words()))
                .collect();
            text.push_str(&lines(&[legend.join(" · ")], width, 0));
        }
        for row in rows.iter().filter(|row| !row.findings.is_empty()) {
            text.push('\n');
            text.push_str(&lines(
                &[format!("{} {}", row.symbol, visible(&row.key.to_string()))],
                width,
                0,
            ));
            for finding in &row.findings {
                text.push_str(&lines(&[told(finding)], width, 2));
            }
        }
        text
    }

    /// Renders it as Markdown of at most `limit` characters. What stands first is what a reviewer must see; what does not
    /// fit is cut between rows and counted.
    pub fn markdown(&self, limit: usize) -> String {
        let mut head =
            format!("**{}**\n\n{}\n", markdown(&self.headline()), markdown(&self.data()));
        if head.chars().count() > limit {
            return head.chars().take(limit).collect();
        }
        let mut rows: Vec<&Row> = self.listed().collect();
        let grave = |row: &Row| row.risk.as_ref().is_some_and(|risk| risk.level == Level::High);
        rows.sort_by_key(|row| (row.change != Change::Blocked, !grave(row), row.change));
        let trust = self.after_merge.iter();
        let trust = trust.map(|change| format!("- after the merge: {}\n", markdown(change)));
        let broken =
            self.manifests.iter().map(|finding| format!("- {}\n", markdown(&told(finding))));
        let bullets = broken.chain(trust);
        let cells = rows.iter().map(|row| markdown_row(row));
        let table_head = "\n| | VM | what | copy | target | estimate | cutover | risk | why | digest |\n|---|---|---|---|---|---|---|---|---|---|\n";
        let mut items: Vec<(bool, String)> = bullets.map(|line| (false, line)).collect();
        items.extend(cells.map(|line| (true, line)));
        let total = items.len();
        // The longest end that may follow: the count of what was left out.
        let reserve = left_out(total).chars().count();
        let mut used = head.chars().count();
        let mut shown = 0;
        let mut in_table = false;
        for (row, line) in items {
            let opening = if in_table == row { "" } else { table_head };
            let opening = if !row && shown == 0 { "\n" } else { opening };
            let length = opening.chars().count() + line.chars().count();
            if used + length + reserve > limit {
                break;
            }
            head.push_str(opening);
            head.push_str(&line);
            (used, shown, in_table) = (used + length, shown + 1, row);
        }
        if shown < total && used + reserve <= limit {
            head.push_str(&left_out(total - shown));
        }
        head
    }

    /// Renders it as JSON.
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(self).expect("strings, numbers and lists become JSON");
        harmless(&mut value);
        let mut text = serde_json::to_string_pretty(&value).expect("a JSON value becomes text");
        text.push('\n');
        text
    }

    /// Returns the rows that a person reads.
    fn listed(&self) -> impl Iterator<Item = &Row> {
        let all = self.summary.unchanged <= UNCHANGED_LISTED_MAX;
        self.vms.iter().filter(move |row| all || row.change != Change::Unchanged)
    }

    fn headline(&self) -> String {
        let Summary { start, scheduled, go_on, withdraw, blocked, unknown, unchanged, .. } =
            &self.summary;
        let mut parts = vec![format!("{start} migrate")];
        let mut part = |count: usize, words: &str| {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        };
        part(*scheduled, "scheduled");
        part(*go_on, "go on");
        part(*withdraw, "undone");
        part(*blocked, "BLOCKED");
        part(*unknown, "unknown");
        part(self.manifests.iter().filter(|finding| finding.blocks()).count(), "manifest errors");
        part(*unchanged, "unchanged");
        let commit: String = self.commit.as_str().chars().take(12).collect();
        format!(
            "Plan: {} (commit {}, instance {})",
            parts.join(" · "),
            visible(&commit),
            visible(self.instance.as_str())
        )
    }

    fn data(&self) -> String {
        let Summary { to_copy, provisioned, seconds, start, scheduled, .. } = &self.summary;
        if start + scheduled == 0 {
            return "Data: nothing to copy".to_owned();
        }
        let bases = self.vms.iter().filter_map(|row| Some(row.estimate.as_ref()?.basis.as_str()));
        let bases: BTreeSet<&str> = bases.collect();
        format!(
            "Data: {to_copy} to copy ({provisioned} provisioned) · ≈ {} one after another ({})",
            seconds_last(*seconds),
            bases.into_iter().collect::<Vec<_>>().join("; ")
        )
    }
}

/// Makes every text of a JSON value harmless to look at.
pub(crate) fn harmless(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = visible(text).into_owned(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(harmless),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(harmless),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

/// Says a finding with its place and its way out. Information has no sign, so its weight is written.
pub(crate) fn told(finding: &Finding) -> String {
    visible(&format!("{}: {finding}", finding.severity)).into_owned()
}

/// Names what stands against a VM or is worth reading first.
pub(super) fn why(row: &Row) -> String {
    let worth = if row.change == Change::Blocked { Severity::Critical } else { Severity::Warning };
    let texts = row.findings.iter().filter(|finding| finding.severity <= worth);
    let known = |factor: &&Factor| row.findings.iter().any(|finding| finding.code == factor.text);
    let factors = row.risk.iter().flat_map(|risk| &risk.factors).filter(|factor| !known(factor));
    let waits = row.wait.as_deref().into_iter();
    let parts: Vec<&str> = waits
        .chain(factors.map(|factor| factor.text.as_str()))
        .chain(texts.map(|finding| finding.text.as_str()))
        .collect();
    visible(&parts.join("; ")).into_owned()
}

fn cells(row: &Row) -> [String; 9] {
    let sizes = row.bytes.filter(|_| !matches!(row.change, Change::Unchanged | Change::Withdraw));
    let copy = sizes.map_or_else(String::new, |sizes| match sizes {
        Sizes { provisioned, stored: Some(stored), .. } => format!("{stored} of {provisioned}"),
        Sizes { provisioned, stored: None, .. } => provisioned.to_string(),
    });
    let target = row.target.as_ref().map_or_else(String::new, |target| match target {
        Destination { provider, name: Some(name) } => format!("{provider}/{name}"),
        Destination { provider, name: None } => provider.clone(),
    });
    let estimate = row
        .estimate
        .as_ref()
        .map_or_else(String::new, |estimate| format!("≈ {}", seconds_last(estimate.seconds)));
    [
        row.symbol.to_owned(),
        visible(&row.key.to_string()).into_owned(),
        what(row),
        copy,
        visible(&target).into_owned(),
        estimate,
        visible(&row.schedule.as_ref().map_or_else(String::new, Schedule::words)).into_owned(),
        row.risk.as_ref().map_or("", |risk| risk.level.word()).to_owned(),
        why(row),
    ]
}

/// Says what happens, and which fields of the entry another commit changes.
fn what(row: &Row) -> String {
    let changes = row.changed.join(", ");
    let changes = if changes.is_empty() { changes } else { format!(" (changes {changes})") };
    visible(&format!("{}{changes}", row.what)).into_owned()
}

fn table(rows: &[&Row], width: u16) -> String {
    let mut table = bare(width);
    let head = ["", "VM", "what", "copy", "target", "estimate", "cutover", "risk", "why"];
    let digests = width >= WIDTH_OF_DIGESTS;
    // Most fleets are moved as they come: the column is there when a time or a window is.
    let cutovers = rows.iter().any(|row| row.schedule.is_some());
    let kept = |column: &usize| cutovers || *column != CUTOVER_COLUMN;
    let head = head.into_iter().enumerate().filter(|(column, _)| kept(column));
    table.set_header(head.map(|(_, word)| word).chain(digests.then_some("digest")));
    for row in rows {
        let cells = cells(row).into_iter().enumerate().filter(|(column, _)| kept(column));
        table.add_row(cells.map(|(_, cell)| cell).chain(digests.then(|| digest(row, 8))));
    }
    trimmed(&mut table)
}

/// Breaks lines at a width, each behind an indent.
pub(crate) fn lines(texts: &[String], width: u16, indent: usize) -> String {
    let mut table = bare(width.saturating_sub(u16::try_from(indent).unwrap_or(0)));
    for text in texts {
        table.add_row([visible(text).into_owned()]);
    }
    let indent = " ".repeat(indent);
    trimmed(&mut table).lines().fold(String::new(), |text, line| text + &indent + line + "\n")
}

/// Makes a table without lines, which wraps its content to a width.
pub(crate) fn bare(width: u16) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table
}

/// Renders a table without blanks at the ends of its lines.
pub(crate) fn trimmed(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn markdown_row(row: &Row) -> String {
    let [symbol, vm, what, copy, target, estimate, cutover, risk, mut why] = cells(row);
    if why.chars().count() > WHY_MAX {
        why = why.chars().take(WHY_MAX).collect::<String>() + "…";
    }
    let digest = digest(row, 12);
    let mut line = format!("| `{symbol}` |");
    for cell in [&vm, &what, &copy, &target, &estimate, &cutover, &risk, &why, &digest] {
        let _ = write!(line, " {} |", markdown(cell));
    }
    line.push('\n');
    line
}

/// Returns the first digits of a row's digest.
fn digest(row: &Row, digits: usize) -> String {
    row.digest
        .as_ref()
        .map_or_else(String::new, |digest| digest.as_str().chars().take(digits).collect())
}

fn left_out(count: usize) -> String {
    format!("\n{count} more left out: the whole is longer than fits here.\n")
}

/// Says how long so many seconds are.
pub(crate) fn seconds_last(seconds: u64) -> String {
    lasting(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
}
