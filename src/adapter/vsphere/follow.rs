//! Wakes whoever looks when something changed at a server, so that nobody needs to ask all the time. What changed is not kept:
//! the next look reads it.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::adapter::vsphere::Server;
use crate::adapter::vsphere::collector::{Watch, Wish};
use crate::adapter::vsphere::link::Failure;

/// What changes with everything that counts: the configuration's version, power, the state of tasks and snapshots.
const WISH: Wish = Wish {
    kind: "VirtualMachine",
    paths: &["config.changeVersion", "name", "parent", "runtime.powerState", "snapshot"],
};

/// How long one question waits for news.
const WAIT: Duration = Duration::from_mins(1);

/// How long the next change is not asked for: a busy server changes all the time.
const REST: Duration = Duration::from_secs(1);

/// How long a server that does not answer is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// Calls the waker after every change, for as long as the server is used.
pub(super) fn follow(server: &Arc<Server>, waker: Arc<dyn Fn() + Send + Sync>) {
    let server = Arc::downgrade(server);
    thread::spawn(move || {
        let mut watch = None;
        while let Some(changed) = news(&server, &mut watch) {
            match changed {
                Ok(true) => {
                    waker();
                    thread::sleep(REST);
                }
                Ok(false) => {}
                // A look that fails for the same reason tells a person.
                Err(_) => thread::sleep(PAUSE),
            }
        }
    });
}

/// Waits for a change; `None` where the server is not used any more.
fn news(server: &Weak<Server>, watch: &mut Option<Watch>) -> Option<Result<bool, Failure>> {
    let server = server.upgrade()?;
    let session = &server.session;
    let mut watching = match watch.take() {
        Some(watching) => watching,
        None => match Watch::all(session, &[WISH]) {
            Ok(new) => new,
            Err(failure) => return Some(Err(failure)),
        },
    };
    match watching.changes(session, WAIT) {
        Ok(changes) => {
            *watch = Some(watching);
            Some(Ok(!changes.is_empty()))
        }
        Err(failure) => {
            watching.end(session);
            Some(Err(failure))
        }
    }
}
