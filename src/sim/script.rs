//! Random scripts: what people commit and do, and what nature does, while the controller works.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, Unit};
use proptest::prelude::*;

use super::repo::{CutoverIntent, Intent, MigrationIntent, is_manifest};
use super::{FaultPlan, Guest, SOURCE_PATH, SimVmSpec, SimWorld, TARGET_PATH, VmKind};
use crate::domain::id::{CommitId, MigrationName, TargetName, VmName};
use crate::domain::vm::Power;
use crate::port::Clock as _;

/// A whole run, as data.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The VMs at the source.
    pub(crate) vms: Vec<SimVmSpec>,
    /// What goes wrong.
    pub(crate) faults: FaultPlan,
    /// What happens, in order.
    pub(crate) events: Vec<Nature>,
}

/// One thing that happens. A VM is named by its number, taken modulo how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Somebody commits.
    Commit(Edit),
    /// The branch is moved back by one commit.
    Rewind,
    /// The branch is moved to its newest commit again.
    Forward,
    /// The repository cannot be reached, or can again.
    Repo(bool),
    /// The source does not answer, or does again.
    Source(bool),
    /// The target does not answer, or does again.
    Target(bool),
    /// The target is full, or not any more.
    TargetFull(bool),
    /// The target starts VMs, or nothing.
    TargetStarts(bool),
    /// The state folder is full, or not any more.
    JournalFull(bool),
    /// The brake is put on, or off.
    Hold(bool),
    /// A VM goes off by itself.
    GuestOff(usize),
    /// A person powers a VM on.
    PersonPowersOn(usize),
    /// A guest changes its manners.
    Guest(usize, Guest),
    /// A VM is not in the inventory, or is again.
    Present(usize, bool),
    /// Another controller marks a VM, or takes its mark away.
    ForeignMark(usize, bool),
    /// Something else takes a VM's name on the target, or goes.
    ForeignName(usize, bool),
    /// Time passes.
    Tick(u16),
    /// The clock is set forward.
    ClockForward,
    /// Workers run.
    Work(u8),
    /// The controller is killed between two calls.
    Crash,
    /// The machine loses power.
    PowerCut,
    /// A person accepts the commit that the branch has now.
    Adopt,
}

impl Nature {
    /// Names its kind, for counts.
    pub(crate) fn name(&self) -> String {
        let text = format!("{self:?}");
        let text = text.trim_start_matches("Commit(");
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
        format!("nature {}", &text[..end])
    }
}

/// What a commit changes. Plans are named by number; migrations by how long ago they were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Writes a plan.
    Plan(u8, PlanModel),
    /// Deletes a plan.
    DropPlan(u8),
    /// Adds a migration of a plan.
    Migrate(u8),
    /// Adds one that moves again what was moved.
    Again(u8),
    /// Deletes a migration.
    DropMigration(u8),
    /// Cancels a VM of a migration.
    Cancel(u8, usize),
    /// Takes a cancellation back.
    Uncancel(u8),
    /// Says when a migration's VMs are cut over.
    Cutover(u8, When),
    /// Opens the window for so many minutes of each hour.
    Window(u8),
    /// Breaks the window's file.
    BreakWindow,
    /// Breaks a plan's file.
    BreakPlan(u8),
    /// Breaks a migration's file.
    BreakMigration(u8),
    /// Mends all files.
    Mend,
    /// Removes every file.
    Empty,
    /// Brings them back.
    Restore,
    /// Changes only a file that is no manifest.
    Unrelated,
}

/// When a migration's VMs are cut over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Nothing is said.
    Unsaid,
    /// `now`
    Now,
    /// `never`
    Never,
    /// So many minutes from the commit on, or before it.
    In(i16),
}

/// What a plan says.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that it says or not")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanModel {
    /// Its VMs, by number.
    pub(crate) vms: BTreeSet<usize>,
    /// Whether power is cut after a minute.
    pub(crate) force: bool,
    /// Whether partial disks go.
    pub(crate) delete: bool,
    /// Whether VMs run on the target.
    pub(crate) power: &'static str,
    /// How much is compared.
    pub(crate) verify: &'static str,
    /// Whether its guests are converted.
    pub(crate) convert: bool,
    /// Whether it names the window.
    pub(crate) window: bool,
}

#[derive(Clone, Debug)]
struct MigrationModel {
    plan: u8,
    again: bool,
    cancel: BTreeSet<usize>,
    cutover: CutoverIntent,
    /// Whether a time was ever said: taking it away postpones.
    timed: bool,
}

/// What the repository holds, as people mean it.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    names: Vec<(String, bool)>,
    plans: BTreeMap<u8, PlanModel>,
    migrations: BTreeMap<u32, MigrationModel>,
    good_plans: BTreeMap<u8, PlanModel>,
    good_migrations: BTreeMap<u32, MigrationModel>,
    broken_plans: BTreeSet<u8>,
    broken_migrations: BTreeSet<u32>,
    open_min: u8,
    good_open_min: u8,
    broken_window: bool,
    next_migration: u32,
    empty: bool,
    unrelated: u32,
    newest: Option<CommitId>,
}

impl Manifests {
    /// Knows the VMs and commits the providers.
    pub(crate) fn new(vms: &[SimVmSpec], world: &SimWorld) -> Self {
        let names = vms.iter().map(|vm| (vm.name.clone(), vm.unsupported)).collect();
        let mut manifests = Self {
            names,
            plans: BTreeMap::new(),
            migrations: BTreeMap::new(),
            good_plans: BTreeMap::new(),
            good_migrations: BTreeMap::new(),
            broken_plans: BTreeSet::new(),
            broken_migrations: BTreeSet::new(),
            open_min: 60,
            good_open_min: 60,
            broken_window: false,
            next_migration: 0,
            empty: false,
            unrelated: 0,
            newest: None,
        };
        manifests.commit(world);
        manifests
    }

    /// Lets an event happen. Events of the controller's process itself are its runner's.
    pub(crate) fn happen(&mut self, event: &Nature, world: &SimWorld) {
        let name = |vm: usize| self.names[vm % self.names.len()].0.clone();
        match event {
            Nature::Commit(edit) => {
                self.edit(edit, world.now());
                self.commit(world);
            }
            Nature::Rewind => {
                world.rewind();
            }
            Nature::Forward => world.force(self.newest.clone()),
            Nature::Repo(reachable) => world.repo_reachable(*reachable),
            Nature::Source(answers) => world.source_gap(!answers),
            Nature::Target(answers) => world.target_gap(!answers),
            Nature::TargetFull(full) => world.target_full(*full),
            Nature::TargetStarts(starts) => world.target_starts(*starts),
            Nature::JournalFull(full) => world.journal_full(*full),
            Nature::Hold(engaged) => world.hold(*engaged),
            Nature::GuestOff(vm) => world.person_powers_off(&name(*vm)),
            Nature::PersonPowersOn(vm) => world.person_powers_on(&name(*vm)),
            Nature::Guest(vm, guest) => world.guest(&name(*vm), *guest),
            Nature::Present(vm, present) => world.vm_present(&name(*vm), *present),
            Nature::ForeignMark(vm, held) => world.foreign_claim(&name(*vm), *held),
            Nature::ForeignName(vm, stands) => {
                world.foreign_on_target(&TargetName::new(name(*vm)), *stands);
            }
            Nature::Tick(seconds) => world.advance(SignedDuration::from_secs(i64::from(*seconds))),
            Nature::ClockForward => world.set_clock_forward(SignedDuration::from_hours(2)),
            Nature::Work(budget) => world.tick_workers(usize::from(*budget)),
            Nature::Crash => world.crash(),
            Nature::PowerCut => world.power_cut(),
            Nature::Adopt => world.adopt(),
        }
    }

    /// Lets everything be as a patient operator would leave it.
    pub(crate) fn settle(&mut self, world: &SimWorld) {
        for (name, _) in &self.names {
            world.vm_present(name, true);
            world.foreign_claim(name, false);
            world.foreign_on_target(&TargetName::new(name.clone()), false);
            world.guest(name, Guest::Obeys(10));
        }
        // People give a time to what was postponed or missed.
        for model in self.migrations.values_mut().filter(|model| model.timed) {
            model.cutover = CutoverIntent::Now;
        }
        (self.open_min, self.broken_window) = (60, false);
        self.commit(world);
        world.adopt();
    }

    fn nth_migration(&self, back: u8) -> Option<u32> {
        let count = self.migrations.len();
        let index = usize::from(back).checked_rem(count)?;
        self.migrations.keys().rev().nth(index).copied()
    }

    fn edit(&mut self, edit: &Edit, now: Timestamp) {
        match edit {
            Edit::Plan(plan, model) => {
                self.plans.insert(*plan, model.clone());
            }
            Edit::DropPlan(plan) => {
                self.plans.remove(plan);
                self.broken_plans.remove(plan);
            }
            Edit::Migrate(plan) | Edit::Again(plan) => {
                let again = matches!(edit, Edit::Again(_));
                let (cancel, cutover) = (BTreeSet::new(), CutoverIntent::AtOnce);
                let model = MigrationModel { plan: *plan, again, cancel, cutover, timed: false };
                self.migrations.insert(self.next_migration, model);
                self.next_migration += 1;
            }
            Edit::DropMigration(back) => {
                if let Some(number) = self.nth_migration(*back) {
                    self.migrations.remove(&number);
                    self.broken_migrations.remove(&number);
                }
            }
            Edit::Cancel(back, vm) => {
                let vm = vm % self.names.len();
                let number = self.nth_migration(*back);
                if let Some(model) = number.and_then(|number| self.migrations.get_mut(&number)) {
                    let listed = self.plans.get(&model.plan).is_some_and(|p| p.vms.contains(&vm));
                    if listed {
                        model.cancel.insert(vm);
                    }
                }
            }
            Edit::Uncancel(back) => {
                let number = self.nth_migration(*back);
                if let Some(model) = number.and_then(|number| self.migrations.get_mut(&number)) {
                    model.cancel.clear();
                }
            }
            Edit::Cutover(back, when) => self.cut_over(*back, *when, now),
            Edit::Window(minutes) => {
                (self.open_min, self.broken_window) = (*minutes, false);
            }
            Edit::BreakWindow => self.broken_window = true,
            Edit::BreakPlan(plan) => {
                if self.plans.contains_key(plan) {
                    self.broken_plans.insert(*plan);
                }
            }
            Edit::BreakMigration(back) => {
                self.broken_migrations.extend(self.nth_migration(*back));
            }
            Edit::Mend => {
                self.broken_plans.clear();
                self.broken_migrations.clear();
                self.broken_window = false;
            }
            Edit::Empty => self.empty = true,
            Edit::Restore => self.empty = false,
            Edit::Unrelated => self.unrelated += 1,
        }
    }

    fn cut_over(&mut self, back: u8, when: When, now: Timestamp) {
        let number = self.nth_migration(back);
        let Some(model) = number.and_then(|number| self.migrations.get_mut(&number)) else {
            return;
        };
        model.timed |= when != When::Unsaid;
        model.cutover = match when {
            When::Unsaid => CutoverIntent::AtOnce,
            When::Now => CutoverIntent::Now,
            When::Never => CutoverIntent::Never,
            When::In(minutes) => {
                let at = now + SignedDuration::from_mins(i64::from(minutes));
                CutoverIntent::At(at.round(Unit::Second).expect("a second of then"))
            }
        };
    }

    fn commit(&mut self, world: &SimWorld) {
        self.remember_good();
        let mut files = BTreeMap::new();
        let intent = if self.empty {
            Intent::default()
        } else {
            files.insert("providers.yaml".to_owned(), providers().into_bytes());
            let window = if self.broken_window {
                "kind: CutoverWindow: {\n".to_owned()
            } else {
                window_text(self.open_min)
            };
            files.insert("window.yaml".to_owned(), window.into_bytes());
            for (plan, model) in &self.plans {
                let text = if self.broken_plans.contains(plan) {
                    "apiVersion: [\n".to_owned()
                } else {
                    self.plan_text(*plan, model)
                };
                files.insert(format!("plans/plan-{plan}.yaml"), text.into_bytes());
            }
            for (number, model) in &self.migrations {
                let text = if self.broken_migrations.contains(number) {
                    "kind: {Migration\n".to_owned()
                } else {
                    self.migration_text(*number, model)
                };
                files.insert(format!("migrations/m-{number}.yaml"), text.into_bytes());
            }
            self.intent()
        };
        files.insert("README.md".to_owned(), format!("{}\n", self.unrelated).into_bytes());
        self.newest = Some(world.commit(files, intent));
    }

    /// A file that is gone is forgotten, one that is whole counts, and one that is broken counts as it was.
    fn remember_good(&mut self) {
        if self.empty {
            return;
        }
        if !self.broken_window {
            self.good_open_min = self.open_min;
        }
        self.good_plans.retain(|plan, _| self.plans.contains_key(plan));
        self.good_migrations.retain(|number, _| self.migrations.contains_key(number));
        for (plan, model) in &self.plans {
            if !self.broken_plans.contains(plan) {
                self.good_plans.insert(*plan, model.clone());
            }
        }
        for (number, model) in &self.migrations {
            if !self.broken_migrations.contains(number) {
                self.good_migrations.insert(*number, model.clone());
            }
        }
    }

    fn intent(&self) -> Intent {
        let mut intent = Intent::default();
        let name = |vm: &usize| VmName::new(self.names[*vm].0.clone());
        for (number, model) in &self.good_migrations {
            let migration = MigrationName::new(format!("m-{number}"));
            let plan = self.good_plans.get(&model.plan);
            let listed = plan.map(|plan| plan.vms.iter().map(name).collect());
            let movable = plan
                .map(|plan| plan.vms.iter().filter(|vm| !self.names[**vm].1).map(name).collect());
            let movable = movable.unwrap_or_default();
            intent.canceled.extend(model.cancel.iter().map(|vm| (migration.clone(), name(vm))));
            let bounded = plan.is_some_and(|plan| plan.window).then_some(self.good_open_min);
            let open_min = if self.broken_window { Some(0) } else { bounded };
            let cutover = match model.cutover {
                CutoverIntent::AtOnce if model.timed => CutoverIntent::Never,
                cutover => cutover,
            };
            let asked = MigrationIntent { listed, movable, cutover, open_min };
            intent.migrations.insert(migration, asked);
        }
        intent
    }

    fn plan_text(&self, plan: u8, model: &PlanModel) -> String {
        let PlanModel { vms, force, delete, power, verify, convert, window } = model;
        let vms: Vec<String> =
            vms.iter().map(|vm| format!("{{name: {}}}", self.names[*vm].0)).collect();
        let (vms, skip) = (vms.join(", "), !convert);
        let on_failure = if *delete { "delete" } else { "keep" };
        let window = if *window { "\n  window: hourly" } else { "" };
        document(
            "Plan",
            &format!("plan-{plan}"),
            &format!(
                "provider: {{source: source, destination: target}}\n  map: {{network: networks}}\n  vms: [{vms}]\n  \
                 skipGuestConversion: {skip}\n  shutdown: {{timeout: 1m, force: {force}}}\n  onFailure: {on_failure}\n  \
                 targetPowerState: \"{power}\"\n  verify: \"{verify}\"{window}"
            ),
        )
    }

    fn migration_text(&self, number: u32, model: &MigrationModel) -> String {
        let MigrationModel { plan, again, cancel, cutover, timed: _ } = model;
        let listed = |vms: &mut dyn Iterator<Item = &usize>| -> String {
            vms.map(|vm| self.names[*vm].0.clone()).collect::<Vec<_>>().join(", ")
        };
        let none = BTreeSet::new();
        let plan_vms = self.plans.get(plan).map_or(&none, |plan| &plan.vms);
        let again = if *again { listed(&mut plan_vms.iter()) } else { String::new() };
        let cancel = listed(&mut cancel.iter().filter(|vm| plan_vms.contains(vm)));
        let cutover = match cutover {
            CutoverIntent::AtOnce => String::new(),
            CutoverIntent::Now => "\n  cutover: now".to_owned(),
            CutoverIntent::Never => "\n  cutover: never".to_owned(),
            CutoverIntent::At(at) => format!("\n  cutover: \"{at:.0}\""),
        };
        document(
            "Migration",
            &format!("m-{number}"),
            &format!("plan: plan-{plan}\n  again: [{again}]\n  cancel: [{cancel}]{cutover}"),
        )
    }
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: ferry.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n"
    )
}

fn window_text(open_min: u8) -> String {
    let rule = format!("{{schedule: \"0 * * * *\", duration: {open_min}m, timeZone: Etc/UTC}}");
    document("CutoverWindow", "hourly", &format!("allow: [{rule}]"))
}

fn providers() -> String {
    let source = format!("type: ova\n  ova: {{path: {SOURCE_PATH}}}");
    let target = format!("type: local\n  local: {{path: {TARGET_PATH}}}");
    let networks = "provider: {source: source, destination: target}\n  map: [{source: {name: VM Network}, destination: {type: pod}}]";
    [
        document("Provider", "source", &source),
        document("Provider", "target", &target),
        document("NetworkMapping", "networks", networks),
    ]
    .join("---\n")
}

/// Makes scripts: one to four VMs, and so many events.
pub(crate) fn scripts(events: usize) -> impl Strategy<Value = Script> {
    let vms = prop::collection::vec(shape(), 1..=4).prop_map(|shapes| {
        let named = shapes.into_iter().enumerate();
        named.map(|(index, vm)| SimVmSpec { name: format!("vm-{index}"), ..vm }).collect()
    });
    // The first events make something move.
    let opening = (all_vms(), prop::collection::vec(nature(), events)).prop_map(|(plan, rest)| {
        let mut events =
            vec![Nature::Commit(Edit::Plan(0, plan)), Nature::Commit(Edit::Migrate(0))];
        events.extend(rest);
        events
    });
    (vms, faults(events), opening).prop_map(|(vms, faults, events)| script(vms, faults, events))
}

fn script(vms: Vec<SimVmSpec>, faults: FaultPlan, mut events: Vec<Nature>) -> Script {
    let count = vms.len();
    for event in &mut events {
        if let Nature::Commit(Edit::Plan(_, model)) = event {
            model.vms.retain(|vm| *vm < count);
            if model.vms.is_empty() {
                model.vms.insert(0);
            }
        }
    }
    Script { vms, faults, events }
}

fn faults(events: usize) -> impl Strategy<Value = FaultPlan> {
    // A controller makes some ten calls for each event, a worker as many, of which about one in fifty goes wrong; of the
    // effects, which are about as many as a third of the events, one in ten does.
    let wrong =
        |calls: usize, most: usize| prop::collection::btree_map(0..calls, 0..60_u8, 0..=most);
    let many = || wrong(events * 12, events / 2);
    (many(), wrong(events / 3, events / 15), many(), any::<u64>())
        .prop_map(|(calls, effects, data, seed)| FaultPlan { calls, effects, data, seed })
}

fn shape() -> impl Strategy<Value = SimVmSpec> {
    let leaf = prop_oneof![1 => Just(0_u8), 2 => 1..=255_u8];
    let disks = prop::collection::vec(prop::collection::vec(leaf, 1..=24), 1..=2);
    let kind = prop_oneof![
        2 => Just(VmKind::Archive),
        4 => (prop_oneof![3 => Just(Power::On), 1 => Just(Power::Off)], guest())
            .prop_map(|(power, guest)| VmKind::Powered { power, guest }),
    ];
    let unsupported = prop_oneof![9 => Just(false), 1 => Just(true)];
    (kind, disks, unsupported).prop_map(|(kind, disks, unsupported)| SimVmSpec {
        name: String::new(),
        kind,
        disks,
        unsupported,
    })
}

/// A guest obeys at once, in time, too late (the plans give it a minute), or never.
fn guest() -> impl Strategy<Value = Guest> {
    prop_oneof![
        4 => (0..=50_u32).prop_map(Guest::Obeys),
        1 => (60..=110_u32).prop_map(Guest::Obeys),
        1 => Just(Guest::Ignores),
    ]
}

fn all_vms() -> impl Strategy<Value = PlanModel> {
    plan().prop_map(|model| PlanModel { vms: (0..4).collect(), convert: false, ..model })
}

fn plan() -> impl Strategy<Value = PlanModel> {
    let vms = prop::collection::btree_set(0..4_usize, 1..=4);
    let power = prop_oneof![3 => Just("auto"), 1 => Just("on"), 1 => Just("off")];
    let verify = prop_oneof![2 => Just("changed"), 1 => Just("full"), 1 => Just("none")];
    let convert = prop_oneof![2 => Just(false), 1 => Just(true)];
    let window = prop_oneof![2 => Just(false), 1 => Just(true)];
    (vms, any::<bool>(), any::<bool>(), power, verify, convert, window).prop_map(
        |(vms, force, delete, power, verify, convert, window)| PlanModel {
            vms,
            force,
            delete,
            power,
            verify,
            convert,
            window,
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (0..2_u8, plan()).prop_map(|(number, plan)| Edit::Plan(number, plan)),
        1 => (0..2_u8).prop_map(Edit::DropPlan),
        5 => (0..2_u8).prop_map(Edit::Migrate),
        2 => (0..2_u8).prop_map(Edit::Again),
        2 => (0..3_u8).prop_map(Edit::DropMigration),
        3 => (0..2_u8, 0..4_usize).prop_map(|(back, vm)| Edit::Cancel(back, vm)),
        1 => (0..2_u8).prop_map(Edit::Uncancel),
        3 => (0..2_u8, when()).prop_map(|(back, when)| Edit::Cutover(back, when)),
        1 => prop_oneof![Just(20_u8), Just(40), Just(60)].prop_map(Edit::Window),
        1 => Just(Edit::BreakWindow),
        1 => (0..2_u8).prop_map(Edit::BreakPlan),
        1 => (0..2_u8).prop_map(Edit::BreakMigration),
        2 => Just(Edit::Mend),
        1 => Just(Edit::Empty),
        2 => Just(Edit::Restore),
        2 => Just(Edit::Unrelated),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        1 => Just(When::Unsaid),
        2 => Just(When::Now),
        1 => Just(When::Never),
        4 => (-30..30_i16).prop_map(When::In),
    ]
}

fn nature() -> impl Strategy<Value = Nature> {
    // What goes away comes back three times as often as it goes.
    let back = || prop_oneof![3 => Just(true), 1 => Just(false)];
    let gone = || prop_oneof![3 => Just(false), 1 => Just(true)];
    let vm = || 0..4_usize;
    prop_oneof![
        30 => prop_oneof![Just(1_u16), Just(5), Just(20), Just(70), Just(400)].prop_map(Nature::Tick),
        30 => prop_oneof![1..=4_u8, 5..=40_u8].prop_map(Nature::Work),
        8 => edit().prop_map(Nature::Commit),
        1 => prop_oneof![Just(Nature::Rewind), Just(Nature::Forward), Just(Nature::Adopt)],
        2 => Just(Nature::Forward),
        2 => back().prop_map(Nature::Repo),
        2 => back().prop_map(Nature::Source),
        2 => back().prop_map(Nature::Target),
        2 => gone().prop_map(Nature::TargetFull),
        2 => back().prop_map(Nature::TargetStarts),
        2 => gone().prop_map(Nature::JournalFull),
        2 => gone().prop_map(Nature::Hold),
        2 => vm().prop_map(Nature::GuestOff),
        2 => vm().prop_map(Nature::PersonPowersOn),
        1 => (vm(), guest()).prop_map(|(vm, guest)| Nature::Guest(vm, guest)),
        2 => (vm(), back()).prop_map(|(vm, present)| Nature::Present(vm, present)),
        2 => (vm(), gone()).prop_map(|(vm, held)| Nature::ForeignMark(vm, held)),
        2 => (vm(), gone()).prop_map(|(vm, stands)| Nature::ForeignName(vm, stands)),
        1 => Just(Nature::ClockForward),
        2 => Just(Nature::Crash),
        1 => Just(Nature::PowerCut),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse::{Limits, parse_file};

    #[test]
    fn the_manifests_are_good_ones() {
        let vms = [SimVmSpec::archive("vm-0", &[&[1]]), SimVmSpec::archive("vm-1", &[&[1]])];
        let world = SimWorld::new(&vms, FaultPlan::default());
        let mut manifests = Manifests::new(&vms, &world);
        let model = PlanModel {
            vms: [0, 1].into(),
            force: true,
            delete: true,
            power: "off",
            verify: "full",
            convert: false,
            window: true,
        };
        let mut edit = |edit| manifests.edit(&edit, world.now());
        edit(Edit::Plan(0, model));
        edit(Edit::Again(0));
        edit(Edit::Cancel(0, 1));
        edit(Edit::Cutover(0, When::In(5)));
        manifests.commit(&world);
        let state = world.lock();
        let commit = &state.repo.commits[state.repo.head.as_ref().unwrap()];
        for (path, bytes) in commit.files.iter().filter(|(path, _)| is_manifest(path)) {
            let parsed = parse_file(path, bytes, &Limits::default());
            assert_eq!(parsed.findings, [], "{}", String::from_utf8_lossy(bytes));
            assert!(!parsed.documents.is_empty());
        }
        assert_eq!(commit.intent.canceled.len(), 1);
    }

    #[test]
    fn a_broken_file_asks_for_what_it_said_before() {
        let vms = [SimVmSpec::archive("vm-0", &[&[1]])];
        let world = SimWorld::new(&vms, FaultPlan::default());
        let mut manifests = Manifests::new(&vms, &world);
        manifests.edit(&Edit::Migrate(0), world.now());
        manifests.commit(&world);
        let before = manifests.intent();
        manifests.edit(&Edit::BreakMigration(0), world.now());
        manifests.edit(&Edit::Cancel(0, 0), world.now());
        manifests.commit(&world);
        assert_eq!(manifests.intent(), before);
        manifests.edit(&Edit::DropMigration(0), world.now());
        manifests.commit(&world);
        assert_eq!(manifests.intent(), Intent::default());
    }
}
