//! Carries out one action and returns the facts that turned out true. It knows how to look again and how to repeat, not
//! whether: that was decided.

use crate::copy::protocol::{ConvertDisk, ConvertJob, ConvertTools, CopyJob, DiskJob, Job};
use crate::decide::{Action, Effect, Warrant};
use crate::desired::Network;
use crate::domain::id::Token;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Claim, Disk, Power, Vm};
use crate::journal::phase::{Area, Kept, Phase};
use crate::journal::progress::Run;
use crate::journal::record::{Abandon, DiskCopy, Fact, Mend};
use crate::manifest::document::{NetworkType, Verify};
use crate::observed::TargetVm;
use crate::planted::{Bug, planted};
use crate::port::{Blueprint, PortError, PoweredOn, World};

/// What every worker may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerMeans {
    /// Files that images may be opened below.
    pub allow_paths: Vec<String>,
    /// The bound on buffers of one worker.
    pub memory: Bytes,
    /// How much of a disk is copied between two checkpoints.
    pub checkpoint_every: Bytes,
    /// What guests are converted with.
    pub convert: ConvertTools,
}

/// Carries out an action of an attempt, as it stands. Facts come back even where nothing was left to do.
pub fn execute(
    world: &World<'_>,
    run: &Run,
    action: &Action,
    means: &WorkerMeans,
) -> Result<Vec<Fact>, PortError> {
    match &action.warrant {
        Warrant::Cleared(cleared) => {
            assert!(cleared.vm().id == action.run.vm, "a VM is moved by its own clearance");
            // The brake may have been put on since it was decided (safety rule 17).
            if world.hold.engaged() {
                return Ok(Vec::new());
            }
        }
        Warrant::Begun(begun) => {
            assert!(*begun.run() == action.run, "an attempt is ended by its own beginning");
        }
    }
    let at = Place { world, run };
    match &action.effect {
        Effect::Claim { token, ours } => at.claim(token, ours),
        Effect::RememberPower => Ok(vec![Fact::PowerRemembered { power: at.source()?.power }]),
        Effect::ShutDown => at.shut_down(),
        Effect::AwaitOff => at.await_off(),
        Effect::PowerOff => at.power_off(),
        Effect::CreateDisks { token } => at.create_disks(token),
        Effect::StartWorker => at.start_worker(means),
        Effect::StopWorker => world.workers.stop(run.begun.run()).map(|()| Vec::new()),
        Effect::EndWorker => at.end_worker(),
        Effect::ConfirmForConversion => at.confirm(Fact::ConversionIntended),
        Effect::StartConversion => at.start_conversion(means),
        Effect::ConfirmCopy => at.confirm(Fact::CreateIntended),
        Effect::CreateVm => at.create_vm(),
        Effect::ConfirmStart { token } => at.confirm(Fact::StartIntended { token: token.clone() }),
        Effect::Start => at.start(),
        Effect::Mark => at.mark(),
        Effect::Remove => at.remove(),
        Effect::PowerOn => at.power_on(),
        Effect::Release => at.release(),
    }
}

/// One attempt and the world that it is carried out in.
struct Place<'a> {
    world: &'a World<'a>,
    run: &'a Run,
}

impl Place<'_> {
    /// Looks at the source VM. One that is gone stalls the attempt: nothing is concluded from its absence.
    fn source(&self) -> Result<Vm, PortError> {
        let begun = &self.run.begun;
        let site = &begun.instructions().desired.source_site;
        self.world.source.look(site, &begun.run().vm)?.ok_or_else(|| {
            PortError::lasting(
                format!("{} is not at its source any more", begun.instructions().vm.name),
                "bring it back, or take its entry out of the plan",
                Mend::Source,
            )
        })
    }

    fn area(&self) -> Result<&Area, PortError> {
        self.run.phase.made().ok_or_else(|| out_of_phase(self.run))
    }

    fn claim(&self, token: &Token, ours: &[Token]) -> Result<Vec<Fact>, PortError> {
        let begun = &self.run.begun;
        let (site, vm) = (&begun.instructions().desired.source_site, &begun.run().vm);
        match self.source()?.claim {
            Claim::Impossible => return Err(out_of_phase(self.run)),
            Claim::Held(held) if held == token.as_str() => return Ok(vec![Fact::Claimed]),
            Claim::Held(held) | Claim::Migrated(held) => {
                let Some(own) = ours.iter().find(|own| own.as_str() == held) else {
                    return Err(PortError::lasting(
                        format!(
                            "the source carries the mark {held}, which this journal did not write"
                        ),
                        "find out which controller claims it; `ferry claim release` takes the mark away",
                        Mend::Person,
                    ));
                };
                self.world.source.release(site, vm, own)?;
            }
            Claim::Free => {}
        }
        self.world.source.claim(site, vm, token)?;
        Ok(vec![Fact::Claimed])
    }

    fn shut_down(&self) -> Result<Vec<Fact>, PortError> {
        let begun = &self.run.begun;
        if self.world.hold.engaged() {
            return self.await_off();
        }
        let seen = self.source()?;
        if seen.power == Power::Off {
            return Ok(vec![Fact::SourceOff]);
        }
        self.is_claimed(&seen)?;
        let desired = &begun.instructions().desired;
        self.world.source.shut_down(&desired.source_site, &begun.run().vm)?;
        let patience = jiff::SignedDuration::from_secs(i64::from(desired.shutdown_timeout_s));
        let deadline = self.world.clock.now().saturating_add(patience);
        let deadline = deadline.unwrap_or(jiff::Timestamp::MAX);
        Ok(vec![Fact::ShutdownRequested { deadline }])
    }

    fn await_off(&self) -> Result<Vec<Fact>, PortError> {
        Ok(match self.source()?.power {
            Power::Off => vec![Fact::SourceOff],
            Power::On => Vec::new(),
        })
    }

    /// The mark may have been taken away while the attempt waited, and somebody else's may stand there (safety rule 4).
    fn is_claimed(&self, seen: &Vm) -> Result<(), PortError> {
        let Phase::ShuttingDown { claim, .. } = &self.run.phase else {
            return Err(out_of_phase(self.run));
        };
        let ours = match (claim, &seen.claim) {
            (None, Claim::Impossible) => true,
            (Some(token), Claim::Held(held)) => token.as_str() == held,
            (None | Some(_), _) => false,
        };
        if ours {
            return Ok(());
        }
        Err(PortError::lasting(
            "the source does not carry this attempt's mark any more, so it is not taken down",
            "find out who took the mark away; a new Migration claims it again",
            Mend::Person,
        ))
    }

    fn power_off(&self) -> Result<Vec<Fact>, PortError> {
        let begun = &self.run.begun;
        if self.world.hold.engaged() {
            return self.await_off();
        }
        let seen = self.source()?;
        if seen.power == Power::On {
            self.is_claimed(&seen)?;
            let site = &begun.instructions().desired.source_site;
            self.world.source.power_off(site, &begun.run().vm)?;
        }
        self.await_off()
    }

    fn create_disks(&self, area: &Token) -> Result<Vec<Fact>, PortError> {
        let instructions = self.run.begun.instructions();
        let site = &instructions.desired.target_site;
        let name = &instructions.target_name;
        let disks = self.world.target.create_disks(site, area, name, &instructions.vm)?;
        Ok(vec![Fact::DisksCreated { disks }])
    }

    fn start_worker(&self, means: &WorkerMeans) -> Result<Vec<Fact>, PortError> {
        let instructions = self.run.begun.instructions();
        // A snapshot that somebody took before the power-off would leave what is read behind, and be gone when the copy is
        // confirmed. What a file holds is compared by its reader.
        if instructions.vm.claim != Claim::Impossible
            && let Some(text) = self.changed(&self.source()?)
        {
            return Ok(vec![voided(text)]);
        }
        let verify = instructions.desired.verify;
        let left =
            |copy: &&DiskCopy| copy.root.is_none() || (verify != Verify::None && !copy.verified);
        let job = |copy: &DiskCopy| {
            let disk = instructions.vm.disks.iter().find(|disk| disk.key == copy.disk)?.clone();
            let (target, checkpoint) = (copy.target.clone(), copy.checkpoint.clone());
            Some(DiskJob { disk, target, checkpoint, copied: copy.root.clone() })
        };
        let disks = self.area()?.disks.iter().filter(left).map(job).collect::<Option<_>>();
        self.world.workers.start(Job::Copy(CopyJob {
            run: self.run.begun.run().clone(),
            disks: disks.ok_or_else(|| out_of_phase(self.run))?,
            verify,
            allow_paths: means.allow_paths.clone(),
            memory: means.memory,
            checkpoint_every: means.checkpoint_every,
            access: self.world.source.access(&instructions.desired.source_site)?,
        }))?;
        Ok(Vec::new())
    }

    fn start_conversion(&self, means: &WorkerMeans) -> Result<Vec<Fact>, PortError> {
        let Phase::Converting { area, uncommitted } = &self.run.phase else {
            return Err(out_of_phase(self.run));
        };
        let disk = |copy: &DiskCopy| ConvertDisk {
            disk: copy.disk.clone(),
            target: copy.target.clone(),
            committed: uncommitted.as_ref().is_some_and(|left| !left.contains(&copy.disk)),
        };
        self.world.workers.start(Job::Convert(ConvertJob {
            run: self.run.begun.run().clone(),
            name: self.run.begun.instructions().target_name.to_string(),
            disks: area.disks.iter().map(disk).collect(),
            converted: uncommitted.is_some(),
            allow_paths: means.allow_paths.clone(),
            tools: means.convert.clone(),
        }))?;
        Ok(Vec::new())
    }

    fn end_worker(&self) -> Result<Vec<Fact>, PortError> {
        self.world.workers.stop(self.run.begun.run())?;
        Err(PortError::passing(
            "the worker said nothing for minutes and was ended",
            "look at the kernel's log for a storage that hangs",
        ))
    }

    /// Looks whether the copy still is what the source holds (safety rule 9): off all the time, the same disks. Only then the
    /// intent holds.
    fn confirm(&self, intent: Fact) -> Result<Vec<Fact>, PortError> {
        let begun = &self.run.begun;
        let instructions = begun.instructions();
        let off = &self.area()?.off;
        let seen = self.source()?;
        let disturbed = if planted(Bug::ConfirmsBlindly) {
            None
        } else if let Some(text) = self.changed(&seen) {
            Some(text)
        } else {
            let site = &instructions.desired.source_site;
            match self.world.source.powered_on_since(site, &begun.run().vm, off.since)? {
                PoweredOn::Never => None,
                PoweredOn::Yes => Some("the source was powered on after it was copied"),
                PoweredOn::Unknown => Some("the source cannot tell whether it was powered on"),
            }
        };
        Ok(vec![disturbed.map_or(intent, voided)])
    }

    /// Says what keeps the disks of the source from being those that the attempt was begun with, off.
    fn changed(&self, seen: &Vm) -> Option<&'static str> {
        if seen.power == Power::On {
            return Some("the source runs, so its disks change while they are copied");
        }
        let same = same_disks(seen, &self.run.begun.instructions().vm);
        (!same).then_some("the source's disks are not those that the migration was begun with")
    }

    fn create_vm(&self) -> Result<Vec<Fact>, PortError> {
        let instructions = self.run.begun.instructions();
        let area = self.area()?;
        let name = &instructions.target_name;
        let nics = nics(&self.run.begun)?;
        let blueprint = Blueprint { name, vm: &instructions.vm, nics };
        self.world.target.create_vm(&instructions.desired.target_site, &area.token, &blueprint)?;
        Ok(vec![Fact::VmCreated])
    }

    fn start(&self) -> Result<Vec<Fact>, PortError> {
        let instructions = self.run.begun.instructions();
        let (site, name) = (&instructions.desired.target_site, &instructions.target_name);
        let area = &self.area()?.token;
        let running = match self.world.target.look(site, name)? {
            Some(vm) if vm.made_by.as_ref() == Some(area) => vm.power == Some(Power::On),
            Some(_) | None => {
                return Err(PortError::lasting(
                    format!("{name} on the target is not the VM that was made there"),
                    "find out who moved or replaced it; Ferry starts nothing else",
                    Mend::Target,
                ));
            }
        };
        if !running && !planted(Bug::StartsBlindly) {
            self.source_is_off()?;
        }
        let power = if running { Power::On } else { self.world.target.start(site, area, name)? };
        match power {
            Power::On => Ok(vec![Fact::Started]),
            Power::Off => Err(PortError::passing(
                format!("{name} was started and is not running"),
                "look at the target's log of that VM",
            )),
        }
    }

    /// Between the intent and the start a crash may have lain, and somebody may have powered the source on meanwhile.
    fn source_is_off(&self) -> Result<(), PortError> {
        if self.run.begun.instructions().vm.claim == Claim::Impossible {
            return Ok(());
        }
        match self.source()?.power {
            Power::Off => Ok(()),
            Power::On => Err(PortError::lasting(
                "the source was powered on again, so its copy on the target is not started",
                "shut the source down and the copy is started without what was written meanwhile, or keep the source and \
                 delete the copy by hand",
                Mend::Source,
            )),
        }
    }

    fn mark(&self) -> Result<Vec<Fact>, PortError> {
        let begun = &self.run.begun;
        let site = &begun.instructions().desired.source_site;
        if let Some(token) = &self.area()?.off.claim {
            self.world.source.mark_migrated(site, &begun.run().vm, token)?;
        }
        Ok(vec![Fact::MarkedMigrated])
    }

    fn remove(&self) -> Result<Vec<Fact>, PortError> {
        let kept = self.run.to_remove().ok_or_else(|| out_of_phase(self.run))?;
        let Kept { area, disks: _, of: _, site, name } = kept;
        let stands = self.world.target.look(site, name)?;
        let runs = stands
            .is_some_and(|vm| vm.made_by.as_ref() == Some(area) && vm.power == Some(Power::On));
        if runs {
            return Err(PortError::lasting(
                format!("{name} runs on the target although Ferry did not start it"),
                "stop it and take its data along, or take over by hand",
                Mend::Target,
            ));
        }
        self.world.target.remove(site, area, name)?;
        Ok(vec![Fact::AreaRemoved])
    }

    fn power_on(&self) -> Result<Vec<Fact>, PortError> {
        let Phase::Undoing(undo) = &self.run.phase else { return Err(out_of_phase(self.run)) };
        let begun = &self.run.begun;
        let instructions = begun.instructions();
        if self.source()?.power == Power::On {
            // It may still obey the shutdown that it was asked for.
            let recalled = undo.watch_until.is_none_or(|until| self.world.clock.now() >= until);
            return Ok(if recalled { vec![Fact::SourceOn] } else { Vec::new() });
        }
        let (site, name) = (&instructions.desired.target_site, &instructions.target_name);
        let stands = self.world.target.look(site, name)?;
        // What no attempt of ours made is no copy of this VM.
        let ours = |vm: &TargetVm| vm.made_by.as_ref() == self.run.area();
        if stands.is_some_and(|vm| ours(&vm) && vm.power == Some(Power::On)) {
            return Err(PortError::lasting(
                format!("{name} runs on the target, so its source stays off"),
                "stop it on the target, or power the source on by hand",
                Mend::Target,
            ));
        }
        self.world.source.power_on(&instructions.desired.source_site, &begun.run().vm)?;
        match self.source()?.power {
            Power::On => Ok(vec![Fact::SourceOn]),
            Power::Off => Err(PortError::passing(
                "the source was powered on and is still off",
                "look at the source's own log of that VM",
            )),
        }
    }

    fn release(&self) -> Result<Vec<Fact>, PortError> {
        let Phase::Undoing(undo) = &self.run.phase else { return Err(out_of_phase(self.run)) };
        let begun = &self.run.begun;
        if let Some(token) = &undo.claim {
            let site = &begun.instructions().desired.source_site;
            // A VM that is certainly gone took its mark along.
            if self.world.source.look(site, &begun.run().vm)?.is_some() {
                self.world.source.release(site, &begun.run().vm, token)?;
            }
        }
        Ok(vec![Fact::ClaimReleased])
    }
}

/// Ends an attempt whose copy is void.
fn voided(text: &str) -> Fact {
    let remedy = "keep the source off during a migration; a new Migration copies it again";
    let fault = PortError::lasting(text, remedy, Mend::Person).fault;
    Fact::UndoBegan { why: Abandon::Failed(fault) }
}

/// Tells whether a VM has the same disks: keys, places and capacities. How much of them is stored may change meanwhile.
fn same_disks(one: &Vm, other: &Vm) -> bool {
    let of = |vm: &Vm| -> Vec<_> {
        let same = |disk: &Disk| (disk.key.clone(), disk.source.clone(), disk.capacity);
        vm.disks.iter().map(same).collect()
    };
    of(one) == of(other)
}

/// Lists the network cards that are kept. That each network is mapped was a condition for beginning.
fn nics(begun: &crate::journal::phase::Begun) -> Result<Vec<(Network, Option<String>)>, PortError> {
    let instructions = begun.instructions();
    let mut nics = Vec::new();
    for nic in &instructions.vm.nics {
        let mapped = instructions.desired.networks.as_ref().and_then(|map| map.get(&nic.network));
        let Some(network) = mapped else {
            return Err(PortError::lasting(
                format!("the network {} is not mapped", nic.network),
                "add it to the plan's NetworkMapping",
                Mend::Person,
            ));
        };
        match network.kind {
            NetworkType::Ignored => {}
            NetworkType::Pod | NetworkType::Multus => nics.push((network.clone(), nic.mac.clone())),
        }
    }
    Ok(nics)
}

/// An action that does not fit its attempt any more: the facts moved on meanwhile. It is decided again.
fn out_of_phase(run: &Run) -> PortError {
    PortError::passing(
        format!("the step does not fit the phase {}", run.phase.name()),
        "nothing: it is decided again",
    )
}
