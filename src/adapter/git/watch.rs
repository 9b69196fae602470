//! Watches a repository's refs and says "look". What changed is found by looking, never by the event.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// How long to gather events before looking: a `git push` or `git commit` is a burst of them.
pub(super) const GATHER: Duration = Duration::from_millis(300);

/// The repository cannot be watched. The timer still finds what changes, later.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot watch {path} (a commit is found by the timer only); if the machine is out of watches, raise the sysctl fs.inotify.max_user_watches"
)]
pub struct WatchError {
    /// What was to be watched.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: notify::Error,
}

/// A watch; it ends when it is dropped.
pub struct Watch {
    /// Dropped first: that ends the thread's channel.
    watcher: Option<RecommendedWatcher>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches the folder that holds the refs. A change of `status` alone, which is a report of ours, is not told.
    pub fn start(
        folder: &Path,
        watched: &str,
        status: &str,
        look: impl Fn() + Send + 'static,
    ) -> Result<Self, WatchError> {
        let failed = |source| WatchError { path: folder.to_owned(), source };
        // inotify reports paths as they were given; links in them are resolved here, once.
        let folder = folder.canonicalize().map_err(|error| failed(notify::Error::io(error)))?;
        let filter = Filter::new(&folder, watched, status);
        let (events, gathered) = channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if filter.concerns(&event) {
                // The receiver is gone only while the watch is dropped.
                let _ = events.send(());
            }
        })
        .map_err(failed)?;
        watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(failed)?;
        watcher.watch(&folder.join("refs"), RecursiveMode::Recursive).map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("git-watch".to_owned())
            .spawn(move || gather(&gathered, look))
            .map_err(|error| failed(notify::Error::io(error)))?;
        Ok(Self { watcher: Some(watcher), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the callback was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Calls `look` once a burst, and always after its last event.
fn gather(events: &Receiver<()>, look: impl Fn()) {
    while events.recv().is_ok() {
        std::thread::sleep(GATHER);
        while events.try_recv().is_ok() {}
        look();
    }
}

/// Tells events that may mean a new commit from the rest.
struct Filter {
    head: PathBuf,
    packed: PathBuf,
    refs: PathBuf,
    watched: PathBuf,
    status: PathBuf,
}

impl Filter {
    fn new(folder: &Path, watched: &str, status: &str) -> Self {
        Self {
            head: folder.join("HEAD"),
            packed: folder.join("packed-refs"),
            refs: folder.join("refs"),
            watched: folder.join(watched),
            status: folder.join(status),
        }
    }

    fn concerns(&self, event: &notify::Result<Event>) -> bool {
        match event {
            // An error (a queue that ran over) may hide anything.
            Err(_) => true,
            Ok(event) if event.need_rescan() => true,
            // Reading raises these; looking would wake itself.
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
            Ok(event) => event.paths.iter().any(|path| self.concerns_path(path)),
        }
    }

    fn concerns_path(&self, path: &Path) -> bool {
        if path == self.head || path == self.packed {
            return true;
        }
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        // The folders on the way to the status branch appear with its first commit. On the way to the watched branch they
        // count: a ref may be made in a new folder before that is watched itself.
        let leads_to_status = self.status.starts_with(path) && !self.watched.starts_with(path);
        path.starts_with(&self.refs) && !is_lock && !leads_to_status
    }
}
