//! The words of the findings about manifests: one maker for each message. Text that came from outside passes [`shown`].

use std::fmt::Write as _;

use crate::manifest::code::Code;
use crate::manifest::diagnostic::{Finding, Place, Severity};
use crate::manifest::document::{API_VERSION, Kind};

/// How much of a text from outside a finding repeats, in characters.
const SHOWN_MAX: usize = 60;

/// Makes a text from outside fit for a sentence: short, in backticks, without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::from("`");
    for letter in text.chars().take(SHOWN_MAX) {
        if letter == '`' {
            out.push('\'');
        } else if letter.is_control() || is_invisible(letter) {
            let _ = write!(out, "{}", letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    if text.chars().nth(SHOWN_MAX).is_some() {
        out.push('…');
    }
    out.push('`');
    out
}

/// Tells whether a character changes how others are shown: marks of direction, joiners, separators of lines.
pub(crate) fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn critical(code: Code, place: Place, text: String, hint: Option<String>) -> Finding {
    Finding { code: code.as_str().to_owned(), severity: Severity::Critical, place, text, hint }
}

fn meant(suggestion: Option<&str>) -> Option<String> {
    suggestion.map(|word| format!("did you mean {}?", shown(word)))
}

fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(shown).collect::<Vec<_>>().join(", ")
}

pub(crate) fn not_utf8(place: Place) -> Finding {
    let hint = "save the file as UTF-8".to_owned();
    critical(Code::NotUtf8, place, "the file is not UTF-8 from here on".to_owned(), Some(hint))
}

pub(crate) fn too_large(place: Place, bytes: usize, limit: usize) -> Finding {
    let text = format!("the file holds {bytes} bytes, more than the {limit} that are read");
    critical(Code::TooLarge, place, text, Some("split it into several files".to_owned()))
}

pub(crate) fn too_many_documents(place: Place, limit: usize) -> Finding {
    let text = format!("the file holds more than {limit} documents; the rest is not read");
    critical(Code::TooManyDocuments, place, text, Some("split it into several files".to_owned()))
}

pub(crate) fn too_deep(place: Place, limit: usize) -> Finding {
    let text = format!("the document is nested more than {limit} levels deep");
    critical(Code::TooDeep, place, text, Some("look for brackets that are not meant".to_owned()))
}

pub(crate) fn too_many_nodes(place: Place, limit: usize) -> Finding {
    let text = format!("the file holds more than {limit} keys and values; the rest is not read");
    critical(Code::TooManyNodes, place, text, Some("split it into several files".to_owned()))
}

pub(crate) fn syntax(place: Place, cause: &str) -> Finding {
    let text = format!("this is no YAML: {}", calm(cause));
    let hint =
        "look at the indentation, the quotes and the brackets here and just above".to_owned();
    critical(Code::Syntax, place, text, Some(hint))
}

/// Makes a sentence of another program fit for ours: short, without control characters.
fn calm(text: &str) -> String {
    let show = |letter: char| {
        if letter.is_control() || is_invisible(letter) { ' ' } else { letter }
    };
    text.chars().map(show).take(160).collect()
}

pub(crate) fn duplicate_key(place: Place, key: &str, first: Option<u32>) -> Finding {
    let before = first.map_or_else(|| "above".to_owned(), |line| format!("on line {line}"));
    let text = format!("the key {} stands already {before}", shown(key));
    critical(Code::DuplicateKey, place, text, Some("remove one of the two".to_owned()))
}

pub(crate) fn anchor(place: Place) -> Finding {
    let text = "anchors and aliases (`&name`, `*name`) are not read".to_owned();
    critical(Code::Anchor, place, text, Some("write the value out".to_owned()))
}

pub(crate) fn tag(place: Place) -> Finding {
    let hint = "remove it; write text that looks like a number in quotes".to_owned();
    critical(Code::Tag, place, "tags (`!name`) are not read".to_owned(), Some(hint))
}

pub(crate) fn key(place: Place) -> Finding {
    let text = "a list or a mapping cannot be a key".to_owned();
    let hint = "put quotes around text that holds `[` or `{`".to_owned();
    critical(Code::Key, place, text, Some(hint))
}

pub(crate) fn number(place: Place, text: &str) -> Finding {
    let text = format!("{} is no number with a finite value", shown(text));
    critical(Code::Number, place, text, Some("put quotes around text".to_owned()))
}

pub(crate) fn too_many_findings(place: Place, more: usize) -> Finding {
    let text = format!("{more} more findings of this file are not shown");
    critical(Code::TooManyFindings, place, text, Some("mend the others first".to_owned()))
}

/// Says that something below the configured folder is not read, and why.
pub fn refused(path: &str, reason: &str) -> Finding {
    let place = Place { file: path.into(), line: 0, column: 0 };
    let hint = "put the manifest itself there, as a regular file".to_owned();
    critical(Code::Refused, place, format!("not read: {}", calm(reason)), Some(hint))
}

pub(crate) fn root(place: Place, found: &str) -> Finding {
    let text = format!("the document is {found}, not a mapping");
    let hint = format!("start with `apiVersion: {API_VERSION}` and `kind:`");
    critical(Code::Root, place, text, Some(hint))
}

pub(crate) fn api_version(place: Place, found: Option<&str>) -> Finding {
    let text = match found {
        Some(found) => format!("{} is not a version that is read", shown(found)),
        None => "`apiVersion` is missing".to_owned(),
    };
    critical(Code::ApiVersion, place, text, Some(format!("write `apiVersion: {API_VERSION}`")))
}

pub(crate) fn forklift(place: Place, found: &str) -> Finding {
    let text = format!("documents of {} are not supported yet", shown(found));
    let hint = format!(
        "write the same as `apiVersion: {API_VERSION}`; `ferry explain Plan` shows the fields"
    );
    critical(Code::KindUnsupported, place, text, Some(hint))
}

pub(crate) fn kind_missing(place: Place) -> Finding {
    let hint = format!("one of {}", listed(Kind::ALL.map(Kind::as_str)));
    critical(Code::KindMissing, place, "`kind` is missing".to_owned(), Some(hint))
}

pub(crate) fn kind_unknown(place: Place, found: &str, suggestion: Option<&str>) -> Finding {
    let hint = meant(suggestion)
        .unwrap_or_else(|| format!("one of {}", listed(Kind::ALL.map(Kind::as_str))));
    critical(
        Code::KindUnknown,
        place,
        format!("the kind {} is not known", shown(found)),
        Some(hint),
    )
}

pub(crate) fn kind_unsupported(place: Place, kind: &str) -> Finding {
    let hint = "remove the document; a version of ferry that honours it will read it".to_owned();
    critical(
        Code::KindUnsupported,
        place,
        format!("the kind {} is not supported yet", shown(kind)),
        Some(hint),
    )
}

pub(crate) fn field_unknown(
    place: Place,
    field: &str,
    owner: &str,
    suggestion: Option<&str>,
    known: &[&str],
) -> Finding {
    let text = format!("the field {} is not known in {owner}", shown(field));
    let hint = meant(suggestion).or_else(|| {
        (!known.is_empty()).then(|| format!("fields here: {}", listed(known.iter().copied())))
    });
    critical(Code::FieldUnknown, place, text, hint)
}

pub(crate) fn field_unsupported(place: Place, field: &str, instead: &str) -> Finding {
    let text = format!("the field {} is not supported yet", shown(field));
    critical(Code::FieldUnsupported, place, text, Some(instead.to_owned()))
}

pub(crate) fn field_missing(place: Place, field: &str, owner: &str) -> Finding {
    let text = format!("the field {} is missing in {owner}", shown(field));
    critical(Code::FieldMissing, place, text, None)
}

pub(crate) fn wrong_type(place: Place, owner: &str, expected: &str, found: &str) -> Finding {
    let text = format!("{owner} is {found}, expected {expected}");
    let hint = (expected == "text" && matches!(found, "a number" | "a truth value"))
        .then(|| "put quotes around it".to_owned());
    critical(Code::Type, place, text, hint)
}

pub(crate) fn out_of_place(place: Place, owner: &str) -> Finding {
    let text = format!("{owner} does not go with this `type`");
    critical(Code::Together, place, text, Some("remove it, or choose another `type`".to_owned()))
}

pub(crate) fn choice(
    place: Place,
    owner: &str,
    found: &str,
    suggestion: Option<&str>,
    choices: &[&str],
) -> Finding {
    let text = format!("{owner} cannot be {found}: one of {}", listed(choices.iter().copied()));
    critical(Code::Choice, place, text, meant(suggestion))
}

pub(crate) fn value_unsupported(place: Place, owner: &str, value: &str, instead: &str) -> Finding {
    let text = format!("{owner}: {} is not supported yet", shown(value));
    critical(Code::ValueUnsupported, place, text, Some(instead.to_owned()))
}

pub(crate) fn format(place: Place, owner: &str, expected: &str) -> Finding {
    critical(Code::Format, place, format!("{owner} is not written as {expected}"), None)
}

pub(crate) fn empty(place: Place, owner: &str) -> Finding {
    critical(Code::Format, place, format!("{owner} is empty"), None)
}

pub(crate) fn exactly_one(place: Place, owner: &str, fields: &[&str]) -> Finding {
    let text = format!("{owner} needs exactly one of {}", listed(fields.iter().copied()));
    critical(Code::Together, place, text, None)
}

pub(crate) fn secret(place: Place, field: &str) -> Finding {
    let text = format!("the field {} holds a secret, which must not stand in git", shown(field));
    let hint =
        "change the secret where it is used, and keep the new one in the controller's settings"
            .to_owned();
    critical(Code::Secret, place, text, Some(hint))
}

pub(crate) fn unreadable(place: Place, cause: &str) -> Finding {
    let text = format!("the document cannot be read: {}", shown(cause));
    critical(
        Code::Unreadable,
        place,
        text,
        Some("please report it: ferry's schema lets it through".to_owned()),
    )
}

/// What to do about a rule of a window.
const WINDOW_HINT: &str = "the window is closed until the rule is mended; `ferry explain CutoverWindow.allow` says how it is written";

/// Findings about how documents refer to one another.
pub(crate) mod reference {
    use super::{Code, Finding, Kind, Place, Severity, WINDOW_HINT, critical, meant, shown};

    pub(crate) fn name_twice(place: Place, kind: Kind, name: &str, other: &Place) -> Finding {
        let text = format!("another {} is called {} as well: {other}", kind.as_str(), shown(name));
        critical(Code::NameTwice, place, text, Some("rename or remove one".to_owned()))
    }

    pub(crate) fn unknown(place: Place, kind: Kind, name: &str, near: Option<&str>) -> Finding {
        let text = format!("no {} is called {}", kind.as_str(), shown(name));
        let hint = meant(near).unwrap_or_else(|| {
            format!("write that {} into any file below the configured folder", kind.as_str())
        });
        critical(Code::RefUnknown, place, text, Some(hint))
    }

    pub(crate) fn broken(place: Place, kind: Kind, name: &str, at: &Place) -> Finding {
        let text = format!("the {} {} is broken: {at}", kind.as_str(), shown(name));
        critical(Code::RefBroken, place, text, Some("mend it there".to_owned()))
    }

    pub(crate) fn no_source(place: Place, name: &str) -> Finding {
        let text = format!("the Provider {} is a target, not a source", shown(name));
        critical(Code::Role, place, text, Some("name a Provider with `type: ova`".to_owned()))
    }

    pub(crate) fn no_target(place: Place, name: &str) -> Finding {
        let text = format!("the Provider {} is a source, not a target", shown(name));
        critical(Code::Role, place, text, Some("name a Provider with `type: local`".to_owned()))
    }

    pub(crate) fn pair_differs(
        place: Place,
        kind: Kind,
        name: &str,
        pair: (&str, &str),
    ) -> Finding {
        let (source, target) = (shown(pair.0), shown(pair.1));
        let text = format!("the {} {} maps from {source} to {target}", kind.as_str(), shown(name));
        let hint = "plan and mapping must name the same two providers".to_owned();
        critical(Code::PairDiffers, place, text, Some(hint))
    }

    pub(crate) fn vm_twice(place: Place, name: &str, other: &Place) -> Finding {
        let text = format!("the VM {} stands in this plan twice: {other}", shown(name));
        critical(Code::VmTwice, place, text, Some("remove one entry".to_owned()))
    }

    pub(crate) fn target_name_taken(place: Place, name: &str, other: &str, at: &Place) -> Finding {
        let text =
            format!("{} would be called {} on the same target: {at}", shown(other), shown(name));
        critical(
            Code::TargetNameTaken,
            place,
            text,
            Some("give one of them a `targetName`".to_owned()),
        )
    }

    pub(crate) fn target_name_missing(place: Place, name: &str) -> Finding {
        let text = format!("no name for the target can be made of {}", shown(name));
        critical(Code::TargetNameMissing, place, text, Some("write `targetName`".to_owned()))
    }

    pub(crate) fn several_migrations(place: Place, plan: &str, count: usize) -> Finding {
        Finding {
            code: Code::SeveralMigrations.as_str().to_owned(),
            severity: Severity::Information,
            place,
            text: format!("{count} migrations run the plan {}, one after another", shown(plan)),
            hint: None,
        }
    }

    pub(crate) fn vm_unknown(place: Place, vm: &str, plan: &str, near: Option<&str>) -> Finding {
        let text = format!("the plan {} has no VM {}", shown(plan), shown(vm));
        critical(Code::VmUnknown, place, text, meant(near))
    }

    pub(crate) fn cancel_and_again(place: Place, vm: &str) -> Finding {
        let text = format!("the VM {} is canceled and repeated; it is canceled", shown(vm));
        critical(Code::CancelAndAgain, place, text, Some("take it out of one list".to_owned()))
    }

    pub(crate) fn file_broken(place: Place, cause: &Place) -> Finding {
        let text = format!("nothing starts from a file that is broken: {cause}");
        critical(Code::FileBroken, place, text, Some("mend the file".to_owned()))
    }

    pub(crate) fn window_rule(place: Place, cause: &str) -> Finding {
        critical(Code::WindowRule, place, cause.to_owned(), Some(WINDOW_HINT.to_owned()))
    }

    pub(crate) fn cutover_time(place: Place, text: &str) -> Finding {
        let hint = "as `2026-11-28T22:00:00+01:00`, or `now`, or `never`".to_owned();
        critical(Code::CutoverTime, place, format!("there is no time {}", shown(text)), Some(hint))
    }

    pub(crate) fn expiry(place: Place, text: &str) -> Finding {
        let hint = "the last day on which the waiver counts, as `2026-12-31`".to_owned();
        critical(Code::Expiry, place, format!("there is no day {}", shown(text)), Some(hint))
    }

    pub(crate) fn concern_unknown(place: Place, concern: &str, near: Option<&str>) -> Finding {
        let hint = meant(near).or_else(|| Some("`ferry explain` lists the concerns".to_owned()));
        critical(
            Code::ConcernUnknown,
            place,
            format!("no rule has a concern {}", shown(concern)),
            hint,
        )
    }

    pub(crate) fn unwaivable(place: Place, concern: &str) -> Finding {
        let text = format!("{} cannot be weighed or waived", shown(concern));
        let hint = format!("`ferry explain {concern}` says what to do instead");
        critical(Code::Unwaivable, place, text, Some(hint))
    }

    pub(crate) fn waiver_unused(place: Place, vm: &str) -> Finding {
        Finding {
            code: Code::WaiverUnused.as_str().to_owned(),
            severity: Severity::Warning,
            place,
            text: format!("no plan has a VM {}", shown(vm)),
            hint: Some("`PLAN/VM`, or the VM's name in any plan".to_owned()),
        }
    }

    pub(crate) fn warm(place: Place) -> Finding {
        let hint = "write `type: cold`";
        super::value_unsupported(place, "`type`", "warm", hint)
    }

    pub(crate) fn pool(place: Place, name: &str) -> Finding {
        let hint = "leave one entry for each network of the source";
        super::value_unsupported(place, "a second entry for one network", name, hint)
    }
}
