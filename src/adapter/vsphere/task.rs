//! Long work of the server: a task that is followed until it ends, and the events that tell what happened meanwhile.

use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use crate::adapter::clock::SystemClock;
use crate::adapter::vsphere::collector::{Watch, Wish};
use crate::adapter::vsphere::link::Failure;
use crate::adapter::vsphere::session::{Session, time};
use crate::adapter::vsphere::soap::{Fault, Ref, Request};
use crate::domain::unit::lasting;
use crate::port::{Clock, PortError, PoweredOn};
use crate::xml::Element;

/// How long a task may take that changes a configuration or power.
const TASK_TIME: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// What is read of a task.
const WISH: Wish = Wish { kind: "Task", paths: &["info"] };

/// The events after which a VM ran.
const ON: [&str; 4] =
    ["VmPoweredOnEvent", "DrsVmPoweredOnEvent", "VmResettingEvent", "VmStartingEvent"];

/// How long the work that a VM is busy with is waited for: what a killed worker was exporting is given up by the server after five
/// minutes, and until then the VM can neither be exported nor started.
const BUSY_TIME: jiff::SignedDuration = jiff::SignedDuration::from_mins(6);

/// How long a busy VM is left alone.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

impl Session {
    /// Begins an export, once its VM is not busy with other work. (What changes power or a configuration is never asked for
    /// again without another look.)
    pub(super) fn begin(&self, request: &Request, what: &str) -> Result<Ref, Failure> {
        let clock = SystemClock::start();
        loop {
            match self.made(request, what) {
                Err(Failure::Fault(fault))
                    if fault.kind == "TaskInProgress" && clock.elapsed() < BUSY_TIME =>
                {
                    tracing::info!(method = request.method, "the VM is busy: waiting");
                    thread::sleep(BUSY_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// Calls a method that begins a task and waits until that ends. Where the server forgot the task meanwhile, it fails: the next
    /// look at the VM tells what became of it.
    pub(super) fn carry_out(&self, request: &Request, tried: &str) -> Result<(), PortError> {
        let failed = |failure: Failure| self.failed(tried, &failure);
        let task = self.made(request, "which task it began").map_err(failed)?;
        let ended = Watch::until(self, WISH, &task, TASK_TIME, |known| {
            let info = known.get("info")?;
            match info.text_of("state") {
                Some("success") => Some(Ok(())),
                Some("error") => Some(Err(match info.child("error").map(Fault::localized) {
                    Some(fault) => self.refused(tried, &fault),
                    None => self.incomplete("why its task failed"),
                })),
                Some(_) | None => None,
            }
        });
        ended.map_err(failed)?.unwrap_or_else(|| {
            Err(PortError::passing(
                format!("{} did not {tried} within {}", self.link.origin(), lasting(TASK_TIME)),
                "look at the task in vCenter; a VM that asks a question waits for its answer there",
            ))
        })
    }

    /// Tells whether the event log still knows something of a VM from before a moment: its power-off, or Ferry's mark.
    fn remembers(&self, events: &Ref, vm: &Ref, end: Timestamp) -> Result<bool, PortError> {
        let request = Request::new("QueryEvents", events).with("filter", |filter| {
            filter
                .with("entity", |entity| entity.reference("entity", vm).text("recursion", "self"))
                .with("time", |time| time.text("endTime", end))
        });
        let answer = self.call(&request);
        let answer = answer.map_err(|failure| self.failed("tell its events", &failure))?;
        Ok(answer.child("returnval").is_some())
    }

    /// Asks the event log whether a VM ran at any moment since one of this machine's clock.
    pub(super) fn powered_on_since(
        &self,
        vm: &Ref,
        since: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        let service = self.service()?;
        let Some(events) = service.event_manager else { return Ok(PoweredOn::Unknown) };
        let failed = |failure: Failure| self.failed("tell its events", &failure);
        let ask = Request::new("CurrentTime", &Ref::new("ServiceInstance", "ServiceInstance"));
        let there = self.call(&ask).map_err(failed)?;
        let there = there.child("returnval").and_then(time);
        let there = there.ok_or_else(|| self.incomplete("its time"))?;
        // Both clocks now, so that the moment is one of the server's.
        let ahead = there.duration_since(SystemClock::start().now());
        let begin = since.saturating_add(ahead).unwrap_or(since);
        let request = Request::new("QueryEvents", &events).with("filter", |filter| {
            let filter = filter
                .with("entity", |entity| entity.reference("entity", vm).text("recursion", "self"))
                .with("time", |time| time.text("beginTime", begin));
            ON.iter().fold(filter, |filter, kind| filter.text("eventTypeId", kind))
        });
        match self.call(&request) {
            Ok(answer) => {
                let at = |event: &Element| event.child("createdTime").and_then(time);
                let ran =
                    answer.all("returnval").any(|event| at(event).is_none_or(|at| at >= begin));
                // A vCenter keeps its events; a host forgets them when its services start again.
                Ok(if ran {
                    PoweredOn::Yes
                } else if service.is_vcenter || self.remembers(&events, vm, begin)? {
                    PoweredOn::Never
                } else {
                    PoweredOn::Unknown
                })
            }
            Err(Failure::Fault(fault))
                if ["NotSupported", "MethodNotFound", "NoPermission"]
                    .contains(&fault.kind.as_str()) =>
            {
                Ok(PoweredOn::Unknown)
            }
            Err(failure) => Err(failed(failure)),
        }
    }
}
