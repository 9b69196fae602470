//! What VDDK logs: handed on, without secrets, and kept for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use vddk_sys::Level;
use zeroize::Zeroizing;

/// How many lines are kept.
const LINES_MAX: usize = 20;

/// How many of them stand in an error: what led to it is at the end.
const TOLD: usize = 3;

/// The longest line that is kept, in characters.
const LINE_MAX: usize = 300;

/// Lines about a service of VMware's that has nothing to do with disks, at whatever level.
const NOISE: [&str; 2] = ["Get CEIP status failed", "VDDK_PhoneHome:"];

/// What an ESXi host without memory for another request says, and only here: the code of the error is one of many.
const NO_MEMORY: &str = "NFC error 5";

/// What follows such a word is nobody's business.
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r#"(?i)((?:vmware_soap_session|session ?(?:id|key)|cookie|ticket(?: ?id)?|password|passwd)["']?\s*[=:]\s*)\S+"#;
    Regex::new(pattern).expect("it is a pattern")
});

/// The log of the library.
#[derive(Default)]
pub(super) struct Log {
    /// What was logged last; a line that only repeats the one before it is not kept.
    lines: Mutex<VecDeque<(Level, String)>>,
    secrets: Mutex<Vec<Zeroizing<String>>>,
    without_memory: AtomicU64,
}

impl Log {
    /// Never shows this text.
    pub(super) fn hide(&self, secret: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !secrets.iter().any(|known| known.as_str() == secret) {
            secrets.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// Hears a line, on any thread of VDDK's.
    pub(super) fn hear(&self, level: Level, line: &str) {
        let line = self.scrubbed(line);
        let noise = NOISE.iter().any(|noise| line.contains(noise));
        match level {
            _ if line.is_empty() => return,
            _ if noise => {
                tracing::debug!(line, "VDDK logged");
                return;
            }
            Level::Info => tracing::debug!(line, "VDDK logged"),
            Level::Warning | Level::Panic => tracing::warn!(line, "VDDK logged"),
        }
        if line.contains(NO_MEMORY) {
            self.without_memory.fetch_add(1, Ordering::SeqCst);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.back().is_some_and(|(_, last)| *last == line) {
            return;
        }
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back((level, line));
    }

    /// Counts how often the server had no memory.
    pub(super) fn without_memory(&self) -> u64 {
        self.without_memory.load(Ordering::SeqCst)
    }

    /// Returns the end of an error's text: the last warnings, or what else was logged where there are none.
    pub(super) fn told(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let warned = lines.iter().any(|(level, _)| *level != Level::Info);
        let telling = lines.iter().filter(|(level, _)| !warned || *level != Level::Info);
        let last: Vec<&str> = telling.rev().take(TOLD).map(|(_, line)| line.as_str()).collect();
        let last: Vec<String> = last.iter().rev().map(|line| format!("`{line}`")).collect();
        if last.is_empty() {
            String::new()
        } else {
            format!("; it last logged {}", last.join(", "))
        }
    }

    /// Makes a line fit for eyes.
    fn scrubbed(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in self.secrets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line = line.replace(secret.as_str(), "…");
        }
        let line = SECRET.replace_all(&line, "${1}…");
        let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
        line.trim().chars().take(LINE_MAX).map(plain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_without_secrets_noise_and_end() {
        let log = Log::default();
        assert_eq!(log.told(), "");
        log.hide("canary");
        for (line, kept) in [
            ("user root canary canary2 in", "user root … …2 in"),
            ("vmware_soap_session=\"abc\" next", "vmware_soap_session=… next"),
            ("Cookie: abc", "Cookie: …"),
            ("two\nlines\u{1b}[1m ", "two lines [1m"),
        ] {
            log.hear(Level::Info, line);
            assert_eq!(log.lines.lock().unwrap().back().unwrap().1, kept);
            log.hear(Level::Info, line);
        }
        log.hear(Level::Panic, "VDDK_PhoneHome: no");
        log.hear(Level::Warning, "");
        assert_eq!(log.lines.lock().unwrap().len(), 4);
        assert!(log.told().ends_with("`Cookie: …`, `two lines [1m`"), "{}", log.told());
        for nth in 0..100 {
            log.hear(Level::Warning, &format!("{nth} {}", "x".repeat(1000)));
        }
        let lines = log.lines.lock().unwrap();
        assert_eq!((lines.len(), lines[19].1.len()), (LINES_MAX, LINE_MAX));
        drop(lines);
        assert_eq!(log.without_memory(), 0);
        for line in ["a", "b", "NFC error 5: Failed to allocate", "c"] {
            log.hear(Level::Warning, line);
            log.hear(Level::Info, "all is well");
        }
        assert_eq!(log.without_memory(), 1);
        assert_eq!(log.told(), "; it last logged `b`, `NFC error 5: Failed to allocate`, `c`");
    }
}
