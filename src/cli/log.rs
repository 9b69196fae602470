//! Logs: to stderr, between the bars where some are drawn.

use std::io::Write;
use std::sync::LazyLock;

use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The part of the terminal that bars are drawn in. There is one for the process, as there is one stderr.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// What is logged, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LogFlags {
    /// What is logged: `off`, `error`, `warn` (default), `info`, `debug`, `trace`, or a filter such as `warn,ferry=debug`.
    #[arg(long = "log", global = true, env = "FERRY_LOG", value_name = "LEVEL", value_parser = filter)]
    filter: Option<String>,
    /// How it is logged.
    #[arg(
        long = "log-format",
        global = true,
        env = "FERRY_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// A line for each event.
    #[default]
    Text,
    /// A JSON object for each event.
    Json,
}

/// Starts to log. A process logs in one way: where it does already, nothing changes.
pub(super) fn begin(flags: &LogFlags) {
    let LogFlags { filter, format } = flags;
    let filter = filter.as_deref().unwrap_or("warn");
    let filter = EnvFilter::try_new(filter).expect("the filter was checked as an argument");
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Between);
    let _ = match format {
        // What stderr does not take is left out where it is written.
        Format::Text => events.with_ansi(true).with_target(false).try_init(),
        Format::Json => events.with_ansi(false).json().flatten_event(true).try_init(),
    };
}

/// Returns the part of the terminal that bars are drawn in.
pub(super) fn screen() -> MultiProgress {
    SCREEN.clone()
}

/// Writes to stderr without tearing a bar.
pub(super) fn between(text: &[u8]) {
    SCREEN.suspend(|| {
        // A terminal that went away takes nothing with it but the text.
        let _ = anstream::stderr().write_all(text);
    });
}

/// Checks a filter. A word alone is a level: what else it may be would match nothing and say nothing.
fn filter(text: &str) -> Result<String, String> {
    if !text.contains(['=', ',', '[']) {
        text.parse::<LevelFilter>()
            .map_err(|_| "expected off, error, warn, info, debug, trace or a filter".to_owned())?;
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Makes the writer of one event.
#[derive(Clone, Copy, Debug)]
struct Between;

impl<'a> MakeWriter<'a> for Between {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One event, written as a whole.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            between(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_names_one() {
        for good in ["off", "warn", "INFO", "warn,ferry=debug", "ferry::controller=trace"] {
            assert_eq!(filter(good).as_deref(), Ok(good));
        }
        for bad in ["loud", "ferry=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
