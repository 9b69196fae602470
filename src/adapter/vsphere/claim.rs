//! Ferry's marks on a VM: two keys of its `extraConfig`.
//!
//! `ferry.claim` says that an attempt may power the VM off and copy it, `ferry.migrated` that one did. Both hold the instance
//! that wrote them, the VM that they were written to and the attempt's token: a clone takes the keys of its original along, and
//! its mark names another VM.

use serde::{Deserialize, Serialize};

use crate::domain::vm::Claim;
use crate::xml::Element;

pub(super) const CLAIM: &str = "ferry.claim";
pub(super) const MIGRATED: &str = "ferry.migrated";

/// A mark, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The controller.
    pub(super) instance: String,
    /// The instance UUID of the VM.
    pub(super) vm: String,
    /// The attempt, in a form that only its journal can make.
    pub(super) token: String,
}

impl Mark {
    /// Writes it.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("plain fields always serialize")
    }
}

/// Returns an option of `config.extraConfig`.
pub(super) fn option(extra: Option<&Element>, wanted: &str) -> Option<String> {
    let mut options = extra.into_iter().flat_map(|extra| &extra.children).rev();
    let found = options.find(|option| option.text_of("key") == Some(wanted))?;
    found.text_of("value").map(str::to_owned)
}

/// The marks on a VM, as they stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) claim: Option<String>,
    pub(super) migrated: Option<String>,
}

impl Marks {
    /// Reads `config.extraConfig`. A key without a value is one that was taken away.
    pub(super) fn of(extra: Option<&Element>) -> Self {
        Self { claim: option(extra, CLAIM), migrated: option(extra, MIGRATED) }
    }

    /// Says what they mean. A mark that nobody can read belongs to somebody.
    pub(super) fn claim(&self) -> Claim {
        let token = |text: &String| match serde_json::from_str::<Mark>(text) {
            Ok(mark) => mark.token,
            Err(_) => text.clone(),
        };
        match (&self.claim, &self.migrated) {
            (Some(claim), _) => Claim::Held(token(claim)),
            (None, Some(migrated)) => Claim::Migrated(token(migrated)),
            (None, None) => Claim::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let mark = Mark { instance: "prod".into(), vm: "50-1".into(), token: "t1".into() };
        let option = |key: &str, value: &str| {
            let value = quick_xml::escape::escape(value).into_owned();
            format!("<OptionValue><key>{key}</key><value>{value}</value></OptionValue>")
        };
        let of = |options: &str| {
            let text = format!("<val>{options}</val>");
            Marks::of(Some(&Element::parse(text.as_bytes()).unwrap())).claim()
        };
        assert_eq!(of(&option("other", "x")), Claim::Free);
        assert_eq!(of(&option(CLAIM, "")), Claim::Free);
        assert_eq!(of(&option(CLAIM, &mark.text())), Claim::Held("t1".into()));
        assert_eq!(of(&option(MIGRATED, &mark.text())), Claim::Migrated("t1".into()));
        let both = option(MIGRATED, &mark.text()) + &option(CLAIM, "scribbled");
        assert_eq!(of(&both), Claim::Held("scribbled".into()));
        assert_eq!(Marks::of(None).claim(), Claim::Free);
    }
}
