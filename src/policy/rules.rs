//! The Rego rules: one per file in `rules/`, each in a package of its own with its page for people (`page`) and what it finds
//! (`found`, a set of sentences).
//!
//! # Guarantees
//!
//! A rule that cannot be evaluated, or not within its time, is itself a finding that blocks: silence always means that the
//! rule was asked and found nothing (safety rule 26).

use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError, Value};
use serde::{Deserialize, Serialize};

use crate::domain::text::visible;
use crate::manifest::diagnostic::Severity;

/// How long one rule may take over one VM. A rule takes some ten microseconds, so only one that runs away comes near.
const RULE_BUDGET: Duration = Duration::from_millis(250);

/// How many steps of a rule pass between two looks at the clock: some ten microseconds' worth.
const STEPS_PER_LOOK: u32 = 64;

/// How many overruns one pass bears. Past it the rules are not asked any more, so that a pass ends although every VM makes a
/// rule run away.
const OVERRUNS_MAX: u32 = 4;

/// The code of the finding that a rule failed.
pub(super) const FAILED: &str = "ferry.rule.failed";

/// What `ferry explain` says about a concern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcernPage {
    /// Its stable, dotted name.
    pub id: String,
    /// How much it weighs.
    pub category: Severity,
    /// A headline.
    pub label: String,
    /// What it means.
    pub assessment: String,
    /// What to do about it.
    pub remedy: String,
}

/// A finding before it has a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Concern {
    /// How much it weighs.
    pub severity: Severity,
    /// Its page.
    pub code: String,
    /// What was found.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Concern {
    /// Says a sentence under a page.
    pub(super) fn new(page: &ConcernPage, text: impl Into<String>) -> Self {
        Self {
            severity: page.category,
            code: page.id.clone(),
            text: text.into(),
            hint: Some(page.remedy.clone()),
        }
    }
}

/// A rule file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the rule file `{file}` cannot be used: {cause}")]
pub(super) struct BadRule {
    file: String,
    cause: String,
}

/// The loaded rules.
#[derive(Debug)]
pub(super) struct Rules {
    engine: Engine,
    loaded: Vec<Rule>,
    overruns: u32,
}

#[derive(Debug)]
struct Rule {
    page: ConcernPage,
    found: String,
}

/// What one rule came to, when it came to anything.
struct Failure {
    text: String,
    overrun: bool,
}

impl Rules {
    /// Loads rule files, given by name and text.
    pub(super) fn load(files: &[(&str, &str)]) -> Result<Self, BadRule> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        let mut rules = Vec::with_capacity(files.len());
        for (file, text) in files {
            let bad = |cause: String| BadRule { file: (*file).to_owned(), cause };
            let package = engine
                .add_policy((*file).to_owned(), (*text).to_owned())
                .map_err(|error| bad(format!("{error:#}")))?;
            rules.push(((*file).to_owned(), package));
        }
        let loaded = rules
            .into_iter()
            .map(|(file, package)| {
                let page = engine
                    .eval_rule(format!("{package}.page"))
                    .and_then(|value| value.to_json_str())
                    .map_err(|error| format!("{error:#}"))
                    .and_then(|json| serde_json::from_str(&json).map_err(|e| e.to_string()))
                    .map_err(|cause| BadRule { file: file.clone(), cause })?;
                Ok(Rule { page, found: format!("{package}.found") })
            })
            .collect::<Result<_, BadRule>>()?;
        let check_interval = NonZeroU32::new(STEPS_PER_LOOK).unwrap_or(NonZeroU32::MIN);
        let limit = RULE_BUDGET;
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval });
        Ok(Self { engine, loaded, overruns: 0 })
    }

    /// Lists the pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = &ConcernPage> {
        self.loaded.iter().map(|rule| &rule.page)
    }

    /// Begins a pass: the overruns of the last one are forgiven.
    pub(super) fn begin_pass(&mut self) {
        self.overruns = 0;
    }

    /// Asks every rule about one input. The second value tells whether all of them answered; where one did not, the answer
    /// must not be remembered.
    pub(super) fn ask(&mut self, input_json: &str) -> (Vec<Concern>, bool) {
        let mut concerns = Vec::new();
        if self.overruns >= OVERRUNS_MAX {
            let text = "the rules were not asked: too many of them took too long in this pass";
            return (vec![failed(text.to_owned())], false);
        }
        if let Err(error) = self.engine.set_input_json(input_json) {
            return (vec![failed(format!("the rules cannot read their input: {error}"))], false);
        }
        let mut answered = true;
        for rule in &self.loaded {
            match ask(&mut self.engine, rule) {
                Ok(texts) => {
                    concerns.extend(texts.into_iter().map(|text| Concern::new(&rule.page, text)));
                }
                Err(failure) => {
                    answered = false;
                    self.overruns += u32::from(failure.overrun);
                    concerns.push(failed(failure.text));
                }
            }
        }
        (concerns, answered)
    }
}

/// Asks one rule.
fn ask(engine: &mut Engine, rule: &Rule) -> Result<Vec<String>, Failure> {
    let id = &rule.page.id;
    let value = engine.eval_rule(rule.found.clone()).map_err(|error| {
        // The limit's own text holds the time that passed, which differs from run to run.
        let overrun = error.downcast_ref::<LimitError>().is_some()
            || error.to_string().contains("execution exceeded time limit");
        let cause = error.to_string();
        let text = if overrun {
            format!("rule `{id}` took longer than {} ms", RULE_BUDGET.as_millis())
        } else {
            format!("rule `{id}` failed: {}", visible(cause.trim()))
        };
        Failure { text, overrun }
    })?;
    let broken = || Failure {
        text: format!("rule `{id}` did not answer with a set of sentences"),
        overrun: false,
    };
    let Value::Set(texts) = value else { return Err(broken()) };
    texts
        .iter()
        .map(|text| text.as_string().map(ToString::to_string).map_err(|_| broken()))
        .collect()
}

fn failed(text: String) -> Concern {
    Concern {
        severity: Severity::Critical,
        code: FAILED.to_owned(),
        text,
        hint: Some("Report it: the rules of this binary must answer for every VM".to_owned()),
    }
}

/// Names the rule files with their texts.
macro_rules! rule_files {
    ($($name:literal),* $(,)?) => {
        /// The rules of this binary: their file names and texts.
        pub(super) const FILES: &[(&str, &str)] =
            &[$((concat!($name, ".rego"), include_str!(concat!("rules/", $name, ".rego")))),*];
    };
}

rule_files![
    "guest_addresses_unkept",
    "guest_windows_legacy",
    "guest_windows_unconverted",
    "ova_disk_capacity_invalid",
    "ova_disk_checksum_absent",
    "ova_disk_checksum_unchecked",
    "ova_disk_format_unsupported",
    "ova_name_invalid",
    "source_tls_unchecked",
    "target_disk_format_unfit",
    "vm_cpu_unknown",
    "vm_device_lost",
    "vm_device_passthrough",
    "vm_disk_capacity_unaligned",
    "vm_disk_shared",
    "vm_disk_unreadable",
    "vm_disks_none",
    "vm_encrypted",
    "vm_fault_tolerance",
    "vm_firmware_unknown",
    "vm_hot_plug_lost",
    "vm_memory_unknown",
    "vm_nic_mac_duplicate",
    "vm_placement_lost",
    "vm_question_open",
    "vm_shutdown_deaf",
    "vm_snapshots_present",
    "vm_suspended",
    "vm_tpm_content_lost",
    "vm_transport_chosen",
];

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const PAGE: &str = r#"page := {"id": "test.rule", "category": "Critical", "label": "", "assessment": "", "remedy": ""}"#;

    fn ask_of(body: &str) -> (Vec<Concern>, bool, Rules) {
        let text = format!("package ferry.test\n{PAGE}\n{body}\n");
        let mut rules = Rules::load(&[("test.rego", &text)]).unwrap();
        let (concerns, answered) = rules.ask(r#"{"number": 3}"#);
        (concerns, answered, rules)
    }

    fn texts(concerns: &[Concern]) -> Vec<&str> {
        concerns.iter().map(|concern| concern.text.as_str()).collect()
    }

    #[test]
    fn a_rule_that_runs_away_is_a_finding_and_bounded_over_a_pass() {
        let slow = "found contains \"x\" if {\n\
            some a in numbers.range(1, 3000)\n some b in numbers.range(1, 3000)\n a * b < 0\n}";
        let (concerns, answered, mut rules) = ask_of(slow);
        assert!(!answered);
        assert_eq!(texts(&concerns), ["rule `test.rule` took longer than 250 ms"]);
        assert_eq!(concerns[0].severity, Severity::Critical);
        rules.overruns = OVERRUNS_MAX;
        let (concerns, answered) = rules.ask("{}");
        assert!(!answered && concerns[0].text.contains("not asked"));
        rules.begin_pass();
        assert_eq!(rules.overruns, 0);
    }

    #[test]
    fn a_rule_that_fails_is_a_finding_never_silence() {
        let (concerns, answered, _) = ask_of("found contains \"x\" if count(input.number) > 0");
        assert!(!answered);
        assert_eq!(concerns[0].code, FAILED);
        assert!(concerns[0].text.starts_with("rule `test.rule` failed: "), "{concerns:?}");
        let (concerns, answered, _) = ask_of("found := \"x\"");
        assert!(!answered);
        expect!["rule `test.rule` did not answer with a set of sentences"]
            .assert_eq(&concerns[0].text);
    }

    #[test]
    fn a_rule_file_without_a_page_is_refused() {
        let error = Rules::load(&[("a.rego", "package ferry.a\nfound contains \"x\" if false")]);
        assert!(error.unwrap_err().to_string().starts_with("the rule file `a.rego`"));
    }

    #[test]
    fn every_rule_file_of_the_folder_is_loaded_and_named_after_its_package() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/rules");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let loaded: Vec<&str> = FILES.iter().map(|(file, _)| *file).collect();
        assert_eq!(found, loaded);
        for (file, text) in FILES {
            let package = file.trim_end_matches(".rego");
            assert!(text.starts_with(&format!("package ferry.{package}\n")), "{file}");
        }
    }
}
