//! What the converter says: steps, warnings, and why it failed.
//!
//! With `--machine-readable` virt-v2v writes each message twice: as one line of JSON, and as people read it. The JSON counts,
//! since it tells where a message ends; the words count where there is none.

use serde::Deserialize;

use crate::domain::text::visible;

/// The longest text that is kept, in characters.
const TEXT_MAX: usize = 500;

/// How many warnings are kept. A guest that gives more is told of by the log.
const WARNINGS_MAX: usize = 50;

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Messages come as JSON.
    structured: bool,
    /// The last error is not at its end.
    open: bool,
    /// The last line that is none of the converter's messages.
    aside: String,
    /// What it does.
    pub(super) step: String,
    /// What it warned of, each once.
    pub(super) warnings: Vec<String>,
    error: Option<String>,
    /// What it said of a guest that has no drivers for virtio although it converted it.
    pub(super) slow: Option<String>,
}

/// What the converter says where the guest gets no drivers for virtio: it ends well, and expects devices of another kind.
const SLOW: [&str; 2] = ["does not have virtio drivers", "slower emulated devices"];

/// Whether a line is worth a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It is.
    Text,
    /// It says in JSON what the next line says in words.
    Twin,
}

/// A message as JSON. Later versions may add fields.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

impl Words {
    /// Begins at a step that it does not tell itself.
    pub(super) fn new(step: &str) -> Self {
        Self { step: step.to_owned(), ..Self::default() }
    }

    /// Takes one line.
    pub(super) fn hear(&mut self, line: &str) -> Line {
        if SLOW.iter().any(|words| line.contains(words)) && !line.starts_with('{') {
            self.slow.get_or_insert_with(|| one_line(line));
        }
        if line.starts_with('{')
            && let Ok(Message { kind, message }) = serde_json::from_str(line)
        {
            self.structured = true;
            match kind.as_str() {
                "message" => self.step = one_line(&message),
                "warning" => self.warn(&message),
                "error" => self.error = Some(one_line(&message)),
                _ => {}
            }
            return Line::Twin;
        }
        self.plain(line);
        Line::Text
    }

    fn plain(&mut self, line: &str) {
        if let Some(step) = step(line) {
            self.open = false;
            if !self.structured {
                self.step = one_line(step);
            }
        } else if let Some((kind, text)) = message(line) {
            self.open = kind == "error";
            match kind {
                _ if self.structured => {}
                "error" => self.error = Some(one_line(text)),
                _ => self.warn(text),
            }
        } else if line.starts_with("If reporting bugs") {
            self.open = false;
        } else if self.open {
            if let Some(error) = self.error.as_mut().filter(|_| !self.structured) {
                *error = one_line(&format!("{error} {line}"));
            }
        } else if !line.trim().is_empty() && self.error.is_none() {
            self.aside = one_line(line);
        }
    }

    fn warn(&mut self, text: &str) {
        let text = one_line(text);
        if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Returns why it failed, in its own words.
    pub(super) fn failure(&self) -> String {
        match &self.error {
            // It points at what other programs wrote before.
            Some(error) if error.contains("above") && !self.aside.is_empty() => {
                clipped(&format!("{} ({error})", self.aside))
            }
            Some(error) => error.clone(),
            None if self.aside.is_empty() => "it did not say why".to_owned(),
            None => self.aside.clone(),
        }
    }
}

/// `[  13.0] Inspecting the source`
fn step(line: &str) -> Option<&str> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    time.trim().parse::<f64>().ok().map(|_| text)
}

/// `virt-v2v-in-place: warning: …`
fn message(line: &str) -> Option<(&str, &str)> {
    let (program, rest) = line.split_once(": ")?;
    let (kind, text) = rest.split_once(": ")?;
    let known = program.starts_with("virt-v2v") && ["warning", "error"].contains(&kind);
    known.then_some((kind, text))
}

/// Makes one line of a text that strangers may have written, of a bounded length.
fn one_line(text: &str) -> String {
    clipped(&visible(&text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(lines: &str) -> Words {
        let mut words = Words::default();
        for line in lines.lines() {
            words.hear(line);
        }
        words
    }

    /// As virt-v2v-in-place 2.2.0 wrote it, and the same without its JSON.
    const FAILED: &str = r#"{ "message": "Inspecting the source", "timestamp": "2026-11-28T10:01:26.4+00:00", "type": "message" }
[  13.8] Inspecting the source
{ "message": "no \u001b[31mgrub", "timestamp": "2026-11-28T10:01:27.8+00:00", "type": "warning" }
virt-v2v-in-place: warning: no grub
{ "message": "inspection could not detect the source guest.\n\nNo root device found.", "timestamp": "2026-11-28T10:01:27.8+00:00", "type": "error" }
virt-v2v-in-place: error: inspection could not detect the source guest.

No root device found.

If reporting bugs, run virt-v2v-in-place with debugging enabled and include the complete output:

  virt-v2v-in-place -v -x [...]"#;

    #[test]
    fn json_and_words_say_the_same() {
        let plain: Vec<_> = FAILED.lines().filter(|line| !line.starts_with('{')).collect();
        for (text, warning) in
            [(FAILED, "no \\u{1b}[31mgrub"), (plain.join("\n").as_str(), "no grub")]
        {
            let heard = words(text);
            assert_eq!(heard.step, "Inspecting the source");
            assert_eq!(heard.warnings, [warning]);
            assert_eq!(
                heard.failure(),
                "inspection could not detect the source guest. No root device found."
            );
        }
    }

    #[test]
    fn what_others_wrote_before_is_told_where_the_error_points_at_it() {
        let text = "qemu-nbd: Failed to open\nvirt-v2v-in-place: error: qemu-nbd did not start up. There may be errors printed above.";
        let failure = words(text).failure();
        assert!(failure.starts_with("qemu-nbd: Failed to open (qemu-nbd did not"), "{failure}");
        assert_eq!(words("supermin: no kernel\n\n").failure(), "supermin: no kernel");
        assert_eq!(words("").failure(), "it did not say why");
    }

    #[test]
    fn texts_and_their_number_are_bounded() {
        let long = format!("virt-v2v: warning: {}\n", "ä".repeat(9_000));
        let heard = words(&long.repeat(3));
        assert_eq!(heard.warnings.len(), 1);
        assert_eq!(heard.warnings[0].chars().count(), TEXT_MAX + 1);
        let many: Vec<_> = (0..99).map(|number| format!("virt-v2v: warning: {number}")).collect();
        assert_eq!(words(&many.join("\n")).warnings.len(), WARNINGS_MAX);
        for line in ["{}", "{ \"type\": 1 }", "[x] y", "[1] ", ": ", "a: b: c"] {
            assert_eq!(words(line).step, "", "{line}");
        }
    }
}
