//! The loop: one event at a time, applied without waiting; effects run on threads of their own and come back as events.

use std::thread;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::controller::{Controller, ControllerError, Pass, Task, span};
use crate::decide::{Standing, Wait};
use crate::domain::id::RunId;
use crate::execute::{WorkerMeans, execute};
use crate::journal::record::Fact;
use crate::port::{PortError, World};

/// How often a pass looks while something moves: a guest that went off or a worker that ended is seen that soon.
const LOOK_BUSY: SignedDuration = SignedDuration::from_secs(2);

/// How often a pass looks while nothing moves. Changes in git come sooner, as events.
const LOOK_IDLE: SignedDuration = SignedDuration::from_secs(30);

/// How long the loop goes on after it was told to stop, for VMs between power-off and the point of no return (safety rule
/// 17).
const STOP_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// How long the loop rests after the journal refused a record.
const JOURNAL_PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// What wakes the loop.
#[derive(Debug)]
pub enum Event {
    /// Something may have changed.
    Look,
    /// A worker said something.
    Heard,
    /// An action ended.
    Done(RunId, Result<Vec<Fact>, PortError>),
    /// The process is asked to end.
    Stop,
}

/// Until when the loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it is told to stop.
    Stopped,
    /// Until nothing is left that could be done now (`run --once`).
    Idle,
}

/// Who watches the loop: the terminal.
pub trait Watcher {
    /// A pass was made.
    fn passed(&mut self, controller: &Controller<'_>, pass: &Pass);
    /// Workers went on.
    fn heard(&mut self, controller: &Controller<'_>);
}

/// Runs the loop and returns the last pass. Events come from outside through a clone of `sender`, which is used for the ends
/// of actions, too.
pub fn run(
    controller: &mut Controller<'_>,
    world: &World<'_>,
    means: &WorkerMeans,
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    until: Until,
    watcher: &mut dyn Watcher,
) -> Result<Pass, ControllerError> {
    let (sender, mut receiver) = events;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime =
        runtime.expect("a runtime of one thread with a timer needs nothing of the system");
    thread::scope(|scope| {
        let spawn = |task: Task| {
            let sender = sender.clone();
            scope.spawn(move || {
                let Task { action, run } = task;
                let _within = span(&run).entered();
                tracing::debug!(effect = action.effect.name(), "action begins");
                let result = execute(world, &run, &action, means);
                tracing::debug!(effect = action.effect.name(), "action ends");
                // The loop has ended if nobody listens any more; what was found out is found out again.
                let _ = sender.send(Event::Done(action.run, result));
            });
        };
        runtime.block_on(serve(controller, world, &mut receiver, until, watcher, &spawn))
    })
}

async fn serve(
    controller: &mut Controller<'_>,
    world: &World<'_>,
    events: &mut UnboundedReceiver<Event>,
    until: Until,
    watcher: &mut dyn Watcher,
    spawn: &dyn Fn(Task),
) -> Result<Pass, ControllerError> {
    let mut state =
        Loop { in_flight: 0, stop_by: None, due: world.clock.now(), last: Pass::default() };
    loop {
        let now = world.clock.now();
        if now >= state.due {
            match controller.pass() {
                Ok(mut pass) => {
                    for task in pass.tasks.drain(..) {
                        state.in_flight += 1;
                        spawn(task);
                    }
                    controller.report(&mut pass);
                    watcher.passed(controller, &pass);
                    state.due = next_look(now, &pass, state.in_flight);
                    state.last = pass;
                }
                Err(error @ ControllerError::Journal { .. }) if state.in_flight > 0 => {
                    tracing::error!(error = ?error, "the journal is not written");
                    state.due = after(now, JOURNAL_PAUSE);
                }
                Err(error) => return Err(error),
            }
            if state.ended(until, now) {
                controller.publish(&mut state.last);
                return Ok(state.last);
            }
        }
        let event = next_event(events, world.clock.now(), state.due).await;
        state.apply(event, controller, world, watcher)?;
    }
}

/// Waits for an event, or until a look is due: the only await.
async fn next_event(
    events: &mut UnboundedReceiver<Event>,
    now: Timestamp,
    due: Timestamp,
) -> Option<Event> {
    let pause = due.duration_since(now).try_into().unwrap_or(std::time::Duration::ZERO);
    tokio::time::timeout(pause, events.recv()).await.ok().flatten()
}

struct Loop {
    in_flight: usize,
    stop_by: Option<Timestamp>,
    due: Timestamp,
    last: Pass,
}

impl Loop {
    fn apply(
        &mut self,
        event: Option<Event>,
        controller: &mut Controller<'_>,
        world: &World<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<(), ControllerError> {
        let now = world.clock.now();
        match event {
            None => {}
            Some(Event::Look) => self.due = now,
            Some(Event::Heard) => {
                if controller.hear()? {
                    self.due = now;
                }
                watcher.heard(controller);
            }
            Some(Event::Done(run, result)) => {
                self.in_flight -= 1;
                // An action that found nothing out is not asked again at once.
                let idle = matches!(&result, Ok(facts) if facts.is_empty());
                self.due = if idle { self.due.min(after(now, LOOK_BUSY)) } else { now };
                match controller.done(&run, result) {
                    // What was found out is found out again.
                    Err(error @ ControllerError::Journal { .. }) => {
                        tracing::error!(error = ?error, "the journal is not written");
                        self.due = after(now, JOURNAL_PAUSE);
                    }
                    other => other?,
                }
            }
            Some(Event::Stop) => {
                controller.stop();
                self.stop_by = Some(after(now, STOP_PATIENCE));
                self.due = now;
            }
        }
        Ok(())
    }

    fn ended(&self, until: Until, now: Timestamp) -> bool {
        let idle = self.in_flight == 0 && !self.last.active();
        match (until, self.stop_by) {
            (_, Some(by)) => idle || now >= by,
            (Until::Idle, None) => idle,
            (Until::Stopped, None) => false,
        }
    }
}

fn after(now: Timestamp, pause: SignedDuration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// `ferry hold off` is a file that goes away, which no event tells: under the brake it is looked for as if something moved.
fn next_look(now: Timestamp, pass: &Pass, in_flight: usize) -> Timestamp {
    let braked = pass.stands.iter().any(|stand| stand.state == Standing::Waiting(Wait::Brake));
    let moving = in_flight > 0 || braked || pass.active();
    let look = after(now, if moving { LOOK_BUSY } else { LOOK_IDLE });
    // A moment that has passed brings nothing that this very pass did not see.
    pass.wake.filter(|wake| *wake > now).map_or(look, |wake| wake.min(look))
}
