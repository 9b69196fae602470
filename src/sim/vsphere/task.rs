//! Tasks: queued, running, done after a time that the scenario sets, and gone some time later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::fault::Fault;
use super::methods::{Call, Reply};
use super::reconfigure::Change;
use super::value::{Data, Ref, Value, int, time, word};
use super::world::{Due, World};

/// A task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) me: Ref,
    entity: Ref,
    entity_name: String,
    method: &'static str,
    description: &'static str,
    pub(super) state: State,
    progress: Option<u8>,
    result: Value,
    error: Option<Fault>,
    queued: Timestamp,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    cancelable: bool,
    canceled: bool,
    work: Option<Work>,
    number: u32,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Running,
    Success,
    Error,
}

impl State {
    pub(super) fn is_open(self) -> bool {
        match self {
            Self::Queued | Self::Running => true,
            Self::Success | Self::Error => false,
        }
    }
}

/// What a task does at its end.
#[derive(Debug)]
pub(super) enum Work {
    PowerOn,
    PowerOff,
    Reconfigure(Box<Change>),
    CreateSnapshot {
        name: String,
        description: String,
        quiesce: bool,
    },
    RemoveSnapshot {
        snapshot: Ref,
        with_children: bool,
        consolidate: bool,
    },
    Consolidate,
    /// It ends with the export that it stands for.
    Export,
    /// It ends in this fault, by script.
    Fail(Fault),
}

/// All tasks that can be asked about.
pub(super) type Tasks = BTreeMap<Arc<str>, Task>;

impl Task {
    /// Returns the property `info`.
    pub(super) fn info(&self, user: &str) -> Data {
        let state = match self.state {
            State::Queued => "queued",
            State::Running => "running",
            State::Success => "success",
            State::Error => "error",
        };
        Data::new("TaskInfo")
            .with("key", self.me.id.to_string())
            .with("task", &self.me)
            .with("name", self.method)
            .with("descriptionId", self.description)
            .with("entity", &self.entity)
            .with("entityName", &self.entity_name)
            .with("state", word("TaskInfoState", state))
            .with("cancelled", self.canceled)
            .with("cancelable", self.cancelable)
            .with("error", self.error.as_ref().map(Fault::localized))
            .any("result", self.result.clone())
            .with("progress", self.progress.map(int))
            .sub("reason", Data::new("TaskReasonUser").with("userName", user.to_owned()))
            .with("queueTime", time(self.queued))
            .with("startTime", self.started.map(time))
            .with("completeTime", self.completed.map(time))
            .with("eventChainId", int(self.number))
    }
}

impl World {
    /// Finds the task that holds a VM.
    pub(super) fn open_task(&self, vm: &Ref) -> Option<Ref> {
        let machine = self.inventory.vm(&vm.id)?;
        let open = |task: &&Ref| self.tasks.get(&task.id).is_some_and(|task| task.state.is_open());
        machine.recent_tasks.iter().find(open).cloned()
    }

    /// Starts a task of a VM; a VM has one at a time.
    pub(super) fn start_task(
        &mut self,
        call: &Call<'_>,
        vm: &Ref,
        (method, description): (&'static str, &'static str),
        work: Work,
    ) -> Result<Ref, Fault> {
        if let Some(task) = self.open_task(vm) {
            let message = "Another task is already in progress.";
            return Err(Fault::new("TaskInProgress", message).with("task", task));
        }
        let number = self.next();
        let id = if self.scenario.esxi {
            format!("haTask-{}-vim.{description}-{number}", vm.id)
        } else {
            format!("task-{number}")
        };
        let me = Ref::new("Task", &id);
        let tasks = &self.scenario.tasks;
        let running = tasks.methods.get(method).unwrap_or(&tasks.running).0;
        let queued = tasks.queued.0;
        let is_export = matches!(work, Work::Export);
        let task = Task {
            me: me.clone(),
            entity: vm.clone(),
            entity_name: self.inventory.get(&vm.id).map(|o| o.name.clone()).unwrap_or_default(),
            method,
            description,
            state: State::Queued,
            progress: None,
            result: Value::Unset,
            error: None,
            queued: self.now,
            started: None,
            completed: None,
            cancelable: matches!(work, Work::CreateSnapshot { .. } | Work::Fail(_)),
            canceled: false,
            work: Some(call.task.clone().map_or(work, Work::Fail)),
            number,
        };
        self.tasks.insert(me.id.clone(), task);
        if let Some(machine) = self.inventory.change_vm(&vm.id) {
            machine.recent_tasks.push(me.clone());
        }
        self.plan(queued, Due::TaskRuns(me.clone()));
        if !is_export {
            for quarter in 1..4_u8 {
                let part = running * u32::from(quarter) / 4;
                self.plan(queued + part, Due::TaskGoesOn(me.clone(), quarter * 25));
            }
            self.plan(queued + running, Due::TaskEnds(me.clone()));
        }
        Ok(me)
    }

    pub(super) fn task_runs(&mut self, me: &Ref, progress: u8) {
        let now = self.now;
        if let Some(task) = self.tasks.get_mut(&me.id).filter(|task| task.state.is_open()) {
            task.state = State::Running;
            task.started.get_or_insert(now);
            task.progress = Some(progress);
            self.note();
        }
    }

    /// Does what a task is for, and ends it.
    pub(super) fn task_ends(&mut self, me: &Ref) {
        let Some(task) = self.tasks.get_mut(&me.id).filter(|task| task.state.is_open()) else {
            return;
        };
        let vm = task.entity.clone();
        let asks = |machine: &super::machine::Machine| machine.question.is_some();
        if self.inventory.vm(&vm.id).is_some_and(asks) {
            // The VM waits for an answer, and the task with it.
            self.plan(Duration::from_secs(1), Due::TaskEnds(me.clone()));
            return;
        }
        let result = match task.work.take() {
            None | Some(Work::Export) => Ok(Value::Unset),
            Some(Work::Fail(fault)) => Err(fault),
            Some(_) if self.inventory.vm(&vm.id).is_none() => Err(Fault::not_found(&vm)),
            Some(work) => self.perform(&vm, work),
        };
        self.end_task(me, result);
    }

    /// Ends a task.
    pub(super) fn end_task(&mut self, me: &Ref, result: Result<Value, Fault>) {
        let (now, keep) = (self.now, self.scenario.tasks.keep.0);
        let Some(task) = self.tasks.get_mut(&me.id).filter(|task| task.state.is_open()) else {
            return;
        };
        task.started.get_or_insert(now);
        task.completed = Some(now);
        match result {
            Ok(value) => {
                task.state = State::Success;
                task.result = value;
                task.progress = None;
            }
            Err(fault) => {
                task.state = State::Error;
                task.error = Some(fault);
            }
        }
        self.note();
        self.plan(keep, Due::TaskVanishes(me.clone()));
    }

    fn perform(&mut self, vm: &Ref, work: Work) -> Result<Value, Fault> {
        match work {
            Work::PowerOn => self.power_on(vm).map(|()| Value::Unset),
            Work::PowerOff => self.power_off(vm, false).map(|()| Value::Unset),
            Work::Reconfigure(change) => self.reconfigure(vm, *change).map(|()| Value::Unset),
            Work::CreateSnapshot { name, description, quiesce } => {
                self.create_snapshot(vm, name, description, quiesce).map(Value::from)
            }
            Work::RemoveSnapshot { snapshot, with_children, consolidate } => self
                .remove_snapshot(vm, &snapshot, with_children, consolidate)
                .map(|()| Value::Unset),
            Work::Consolidate => self.consolidate(vm).map(|()| Value::Unset),
            Work::Export | Work::Fail(_) => Ok(Value::Unset),
        }
    }

    pub(super) fn task_vanishes(&mut self, me: &Ref) {
        if let Some(task) = self.tasks.remove(&me.id)
            && let Some(machine) = self.inventory.change_vm(&task.entity.id)
        {
            machine.recent_tasks.retain(|recent| recent != me);
        }
    }
}

/// Answers `CancelTask`.
pub(super) fn cancel(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let task = world.tasks.get_mut(&call.this.id).ok_or_else(|| Fault::not_found(&call.this))?;
    if !task.state.is_open() {
        return Err(Fault::invalid_state("The task is done already."));
    }
    if !task.cancelable {
        return Err(Fault::new("NotSupported", "The task cannot be canceled."));
    }
    task.canceled = true;
    let message = "The task was canceled by a user.";
    world.end_task(&call.this, Err(Fault::new("RequestCanceled", message)));
    Ok(Reply::nothing())
}
