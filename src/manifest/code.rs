//! The codes of the findings about manifests. A code never changes its meaning and is never used again for another one.

use std::fmt;

/// Declares the enum, its text and its page in one table.
macro_rules! codes {
    ($($name:ident = $text:literal, $title:literal, $page:literal;)*) => {
        /// A code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns what is printed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Returns what it means, in one line.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// Returns why it is a finding and what to do about it.
            pub const fn page(self) -> &'static str {
                match self { $(Self::$name => $page),* }
            }
        }
    };
}

codes! {
    NotUtf8 = "FY0101", "The file is not UTF-8.",
        "Manifests are UTF-8 text, with or without a byte order mark. Save the file again as UTF-8.";
    TooLarge = "FY0102", "The file is too large.",
        "One file holds at most `limits.manifestBytes` (1 MiB). Split it: every file below the configured folder is read.";
    TooManyDocuments = "FY0103", "The file has too many documents.",
        "One file holds at most `limits.documentsPerFile` (1000) documents. Split it: every file below the configured folder is read.";
    TooDeep = "FY0104", "The document is nested too deeply.",
        "No manifest needs more than 32 levels. Look for brackets or indents that were never meant.";
    TooManyNodes = "FY0105", "The file has too many values.",
        "One file holds at most 250,000 keys and values. Split it: every file below the configured folder is read.";
    Syntax = "FY0106", "The text is no YAML.",
        "The rest of this document cannot be read; later documents of the file are judged all the same. Until it is mended the last good version of the file counts and nothing new starts from it.";
    DuplicateKey = "FY0107", "A key stands twice in one mapping.",
        "YAML tools silently take the last one; which one was meant cannot be known, so neither counts. Remove one.";
    Anchor = "FY0108", "Anchors and aliases are refused.",
        "Every document is read on its own, as it stands. Write the value out where the alias stands.";
    Tag = "FY0109", "Tags are refused.",
        "The schema knows the type of every field. Remove the tag; write text that looks like a number in quotes.";
    Key = "FY0110", "A key is not plain text.",
        "Keys of manifests are field names or label names. Lists and mappings cannot be keys.";
    Number = "FY0111", "A number has no finite value.",
        "`.inf` and `.nan` are no amounts of anything. Write the number, or put quotes around text.";
    TooManyFindings = "FY0112", "The file has more findings than are shown.",
        "At most 500 findings of one file are shown. Mend those first; the rest shows then.";
    Refused = "FY0113", "A file is not read.",
        "Only regular files whose names are UTF-8 are read: symbolic links and submodules could lead anywhere. Put the manifest itself there.";
    Root = "FY0201", "A document is no mapping.",
        "A manifest is a mapping with `apiVersion`, `kind`, `metadata` and `spec`.";
    ApiVersion = "FY0202", "The group or version is not known.",
        "Every manifest says `apiVersion: ferry.dev/v1alpha1`.";
    KindMissing = "FY0203", "`kind` is missing.",
        "Every manifest says what it is: `kind: Plan`, for example. `ferry explain` lists the kinds.";
    KindUnknown = "FY0204", "The kind is not known.",
        "`ferry explain` lists the kinds. Files that are no manifests belong outside the configured folder.";
    FieldUnknown = "FY0205", "A field is not known.",
        "Nothing that is written is ignored, so a field that means nothing is a finding. `ferry explain KIND.FIELD` lists the fields.";
    FieldMissing = "FY0206", "A field is missing.",
        "`ferry explain KIND.FIELD` says what it means.";
    Type = "FY0207", "A value has the wrong type.",
        "A word without quotes may be a number, a truth value or nothing at all in YAML: `on` is text, `true` is not. Put quotes around text.";
    Choice = "FY0208", "A value is none of those that are possible.",
        "`ferry explain KIND.FIELD` lists the values.";
    Format = "FY0209", "A value is not written as it must be.",
        "`ferry explain KIND.FIELD` says how it is written.";
    Together = "FY0210", "Fields do not go together.",
        "Some fields exclude one another, others need one another. The text says which.";
    Secret = "FY0211", "A secret stands in git.",
        "Whoever can read the repository can read it, and so can everybody who ever could. Change the secret where it is used, then name a credential of the controller's settings instead. The value is printed nowhere.";
    Unreadable = "FY0212", "The document cannot be read although its schema lets it through.",
        "This is a defect of Ferry: schema and types disagree. Please report it with the document.";
    KindUnsupported = "FY0301", "This kind is not supported yet.",
        "It belongs to the design and is not honoured by this version. Nothing that is written is ignored, so it blocks what it would touch. Remove the document, or wait for a version that honours it.";
    FieldUnsupported = "FY0302", "This field is not supported yet.",
        "It belongs to the design and is not honoured by this version. Nothing that is written is ignored, so it blocks its VMs. Remove the field, or wait for a version that honours it.";
    ValueUnsupported = "FY0303", "This value is not supported yet.",
        "It belongs to the design and is not honoured by this version. Nothing that is written is ignored, so it blocks its VMs. The hint says what can be written instead.";
    NameTwice = "FY0401", "Two documents of one kind have the same name.",
        "Which one a reference means cannot be known, so neither counts. Rename one.";
    RefUnknown = "FY0402", "A reference leads nowhere.",
        "No manifest of that kind has that name in any file below the configured folder.";
    RefBroken = "FY0403", "A reference leads to a document that is broken.",
        "The document has findings of its own. Mend those; this one goes with them.";
    Role = "FY0404", "A provider cannot be used at this end.",
        "OVA files are a source, a local folder is a target. Swap `source` and `destination`, or name another provider.";
    PairDiffers = "FY0405", "A mapping maps between other providers than the plan.",
        "A mapping's `provider` must name the same source and destination as the plan that uses it.";
    VmTwice = "FY0406", "A VM stands twice in one plan.",
        "Remove one entry. To move a VM once more, list it in `again` of a new `Migration`.";
    TargetNameTaken = "FY0407", "Two VMs would have the same name on the target.",
        "Give one of them a `targetName` of its own.";
    TargetNameMissing = "FY0408", "No name for the target can be made of the VM's name.",
        "The name has no letter or digit that an RFC 1123 label may hold. Write `targetName`.";
    SeveralMigrations = "FY0409", "Several migrations run one plan.",
        "They run one after another, never at once. Migrations that are done may be deleted.";
    VmUnknown = "FY0410", "A migration names a VM that its plan does not have.",
        "VMs are called by their `name` in the plan, or by their `id` where that stands there.";
    CancelAndAgain = "FY0411", "A migration cancels a VM and repeats it.",
        "Canceling counts. To repeat it, take it out of `cancel`.";
    FileBroken = "FY0412", "The entry stands in a file that is broken.",
        "The last good version of the file counts, so that nothing in flight is undone, and nothing new starts from it. Mend the file.";
    WindowRule = "FY0413", "A rule of a window cannot be used.",
        "A rule is a cron expression of five fields (minute hour day month weekday), a duration of at most seven days and a time zone of the IANA database. A window with a rule that cannot be used is closed, and so is every plan that it bounds.";
    CutoverTime = "FY0414", "There is no such time.",
        "The day or the hour does not exist. Write a time with its offset, as `2026-11-28T22:00:00+01:00`, or `now`.";
    Expiry = "FY0415", "There is no such day.",
        "Every waiver says until when it counts: the last day (UTC), as `2026-12-31`.";
    ConcernUnknown = "FY0416", "No rule has such a concern.",
        "`ferry explain` lists the concerns. A policy that weighs or waives one that does not exist changes nothing.";
    Unwaivable = "FY0417", "A concern cannot be weighed or waived.",
        "It does not tell of a risk that somebody could take: what it speaks of is missing, ambiguous, in use or not supported. Mend that instead.";
    WaiverUnused = "FY0418", "A waiver names no VM.",
        "No plan has such a VM, so the waiver changes nothing. Remove it, or mend the name: `PLAN/VM`, or the VM's name in any plan.";
}

impl Code {
    /// Finds a code by what is printed, in either case.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_each_is_found() {
        let texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(texts.is_sorted_by(|left, right| left < right), "a code stands twice: {texts:?}");
        for code in Code::ALL {
            assert_eq!(Code::find(&code.as_str().to_lowercase()), Some(*code));
            assert!(code.title().ends_with('.') && code.page().ends_with('.'), "{code}");
        }
    }
}
