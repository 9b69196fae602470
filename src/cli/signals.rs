//! Signals that ask the process to end. The first one is heard and waited for, the second one ends it.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Exit, tell};

/// Calls `stop` at the first interrupt or request to end, and ends the process at the second.
pub(super) fn watch(stop: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot watch for signals")?;
    let mut signals = {
        let _guard = runtime.enter();
        let of = |kind| signal(kind).context("cannot watch for signals");
        (of(SignalKind::interrupt())?, of(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            for count in 0.. {
                tokio::select! {
                    _ = signals.0.recv() => {}
                    _ = signals.1.recv() => {}
                }
                if count > 0 {
                    end();
                }
                tell("stopping: nothing new begins, copies stop at their next checkpoint; once more ends at once");
                stop();
            }
        });
    });
    Ok(())
}

#[expect(clippy::exit, reason = "a person asked twice; the journal makes ending anywhere safe")]
fn end() {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
