//! The campaign: the real controller in the simulated world, under random scripts and faults. After each event the named
//! invariants hold; when everything is calm again, all that is left waits for a stated reason and a pass changes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;

use jiff::SignedDuration;
use proptest::test_runner::{Config as Runner, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::controller::{Config, Controller, ControllerError, Pass};
use crate::copy::engine::PIECE_BYTES_MAX;
use crate::copy::protocol::ConvertTools;
use crate::decide::{CutoverLimits, Limits, Standing};
use crate::domain::id::Instance;
use crate::domain::unit::Bytes;
use crate::execute::{WorkerMeans, execute};
use crate::journal::phase::{Phase, name_of};
use crate::journal::record::Entry;
use crate::planted::{Bug, plant};
use crate::sim::count::Counts;
use crate::sim::script::{Edit, Manifests, Nature, PlanModel, Script, When, scripts};
use crate::sim::{FaultPlan, SimVmSpec, SimWorld, invariant};

/// Events of one script.
const EVENTS: usize = 300;

/// Scripts of an ordinary run: some ten seconds.
const CASES: u32 = 32;

/// From so many scripts on, everything that can go wrong has to have gone wrong.
const CASES_FOR_COUNTS: u32 = 2_000;

/// The facts of attempts: each is journaled in some script.
const FACTS: [&str; 38] = [
    "Began",
    "ClaimIntended",
    "Claimed",
    "Unclaimable",
    "PowerRemembered",
    "PowerOffIntended",
    "ShutdownRequested",
    "ForceIntended",
    "SourceOff",
    "AreaIntended",
    "DisksCreated",
    "AreaAdopted",
    "Checkpointed",
    "DiskCopied",
    "DiskVerified",
    "ConversionIntended",
    "Converted",
    "DiskCommitted",
    "CreateIntended",
    "VmCreated",
    "NotStarted",
    "StartIntended",
    "Started",
    "MarkedMigrated",
    "Completed",
    "UndoBegan",
    "RemovalIntended",
    "AreaRemoved",
    "PowerOnIntended",
    "SourceOn",
    "ClaimReleased",
    "Undone",
    "Tried",
    "Stalled",
    "Resumed",
    "Timed",
    "NowSeen",
    "Cutover",
];

/// Effects that fail one by one, in each way: those of one VM from its claim to its start.
const EFFECTS: usize = 14;

/// Calls of the controller that fail one by one: those of its first passes, in which everything is begun.
const CALLS: usize = 60;

/// How many passes a calm world may need until nothing moves: an attempt has about twenty steps, and the longest pause is
/// ten minutes.
const CALM_PASSES: usize = 400;

/// How long a calm world waits between two passes.
const CALM_PAUSE: SignedDuration = SignedDuration::from_secs(45);

/// Times and windows as by default; a window is not demanded, so that scripts without one move as well.
fn cutover_limits() -> CutoverLimits {
    CutoverLimits { require_window: false, ..CutoverLimits::default() }
}

pub(super) fn config() -> Config {
    Config {
        instance: Instance::new("sim"),
        limits: Limits { vms_in_flight: 3, converting: 1, cutover: cutover_limits() },
        manifests: crate::manifest::parse::Limits::default(),
        copy: WorkerMeans {
            allow_paths: Vec::new(),
            memory: Bytes(u64::from(PIECE_BYTES_MAX)),
            checkpoint_every: Bytes::mib(1),
            convert: ConvertTools::default(),
        },
        report_interval: SignedDuration::from_secs(60),
    }
}

/// How the life of one controller ended.
enum End {
    /// It was killed, or ended by itself with an error, and is started again.
    Dead,
    /// A person has to do something while no controller runs.
    Interlude(Nature),
    /// The script is over.
    Through,
}

struct Campaign {
    world: SimWorld,
    manifests: Manifests,
    events: std::vec::IntoIter<Nature>,
    counts: Counts,
}

/// Plays a script to its end.
fn play(script: Script) -> Result<Counts, String> {
    let Script { vms, faults, events } = script;
    let world = SimWorld::new(&vms, faults);
    let manifests = Manifests::new(&vms, &world);
    let counts = Counts::default();
    let mut campaign = Campaign { world, manifests, events: events.into_iter(), counts };
    loop {
        match campaign.live()? {
            End::Dead => {}
            End::Interlude(event) => campaign.happen(&event),
            End::Through => break,
        }
        campaign.world.restart();
    }
    campaign.calm_down()?;
    let Campaign { world, mut counts, .. } = campaign;
    for record in world.records() {
        counts.event(match &record.entry {
            Entry::Run { fact, .. } => format!("fact {}", name_of(fact)),
            Entry::Repo(fact) => {
                let text = format!("{fact:?}");
                format!("fact {}", text.split(' ').next().unwrap_or_default())
            }
        });
    }
    counts.add(&world.counts());
    Ok(counts)
}

impl Campaign {
    fn happen(&mut self, event: &Nature) {
        self.counts.event(event.name());
        self.manifests.happen(event, &self.world);
    }

    /// Starts a controller and lets it live until it dies or the script is over.
    fn live(&mut self) -> Result<End, String> {
        let world = self.world.clone();
        let mut journal = world.journal();
        let mut controller = match Controller::new(world.ports(), &mut journal, config()) {
            Ok(started) => started,
            Err(error) => {
                wrong(&error)?;
                world.restart();
                return Ok(End::Dead);
            }
        };
        loop {
            let Some(event) = self.events.next() else { return Ok(End::Through) };
            if event == Nature::Adopt {
                return Ok(End::Interlude(event));
            }
            self.happen(&event);
            let lives = step(&world, &mut controller)?.is_some();
            // What a dead controller believed counts no more.
            let held = if lives {
                invariant::check(&world, controller.progress())
            } else {
                world.progress().and_then(|folded| invariant::check(&world, &folded))
            };
            held.map_err(|why| format!("after {event:?} at {world:?}: {why}"))?;
            if !lives {
                return Ok(End::Dead);
            }
        }
    }

    /// Nothing goes wrong any more and people do their part: everything comes to rest, and stays.
    fn calm_down(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        world.calm();
        self.manifests.settle(&world);
        world.restart();
        let mut journal = world.journal();
        let mut controller = Controller::new(world.ports(), &mut journal, config())
            .map_err(|error| format!("a calm world has no controller: {error:?}"))?;
        let mut quiet = 0;
        let mut last = Pass::default();
        for count in 0..CALM_PASSES {
            world.advance(CALM_PAUSE);
            world.tick_workers(usize::MAX);
            if count >= CALM_PASSES / 4 {
                people_shut_down(&world, &controller);
            }
            let commits = world.status_commits();
            let pass = step(&world, &mut controller)?.ok_or("a calm world kills its controller")?;
            invariant::check(&world, controller.progress())
                .map_err(|why| format!("in a calm world: {why}"))?;
            let still = !pass.active() && world.status_commits() == commits;
            quiet = if still { quiet + 1 } else { 0 };
            last = pass;
            if quiet == 3 {
                return self.at_rest(&controller, &last);
            }
        }
        Err(format!("a calm world does not come to rest: {:?}", last.stands))
    }

    fn at_rest(&mut self, controller: &Controller<'_>, last: &Pass) -> Result<(), String> {
        for run in controller.progress().moving() {
            let id = run.begun.run();
            let stand = last.stands.iter().find(|stand| stand.vm.as_ref() == Some(&id.vm));
            match stand.map(|stand| &stand.state) {
                Some(Standing::Waiting(wait)) => {
                    self.counts.event(format!("rest {}", first_word(wait)));
                }
                other => return Err(format!("{id} rests and says no reason: {other:?}")),
            }
        }
        for run in controller.progress().newest() {
            match &run.phase {
                Phase::Completed { .. } => self.counts.event("rest completed"),
                Phase::Undone { .. } => self.counts.event("rest undone"),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A VM whose guest ignored the request, or that somebody powered on again before its going off was seen, is shut down by
/// hand: without `force` an attempt waits for that.
fn people_shut_down(world: &SimWorld, controller: &Controller<'_>) {
    for run in controller.progress().moving() {
        if let Phase::ShuttingDown { .. } = run.phase {
            world.person_powers_off(&run.begun.instructions().vm.name);
        }
    }
}

/// Makes a pass and carries out what follows from it. Returns `None` where the controller has to be started again.
pub(super) fn step(
    world: &SimWorld,
    controller: &mut Controller<'_>,
) -> Result<Option<Pass>, String> {
    let mut pass = match controller.pass() {
        Ok(pass) => pass,
        Err(error) => return wrong(&error).map(|()| None),
    };
    controller.report(&mut pass);
    if world.crashed() {
        return Ok(None);
    }
    for run in controller.progress().moving() {
        let id = run.begun.run();
        if pass.stands.iter().all(|stand| stand.vm.as_ref() != Some(&id.vm)) {
            return Err(format!("{id} moves and says no reason"));
        }
    }
    for task in &pass.tasks {
        let result = execute(&world.ports(), &task.run, &task.action, &config().copy);
        if world.crashed() {
            return Ok(None);
        }
        match controller.done(&task.action.run, result) {
            Ok(()) => {}
            // What was found out is found out again.
            Err(ControllerError::Journal { .. }) if !world.crashed() => {}
            Err(error) => return wrong(&error).map(|()| None),
        }
    }
    Ok(Some(pass))
}

/// Tells an error of the world from one of ours.
fn wrong(error: &ControllerError) -> Result<(), String> {
    match error {
        ControllerError::Journal { .. } => Ok(()),
        ControllerError::Fold { .. }
        | ControllerError::Illegal { .. }
        | ControllerError::Unsettled => Err(format!("a bug of ours: {error:?}")),
    }
}

fn first_word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}

/// How many scripts are played: few in an ordinary run, as many as `PROPTEST_CASES` says in CI.
fn cases() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "proptest's own variable, read as it reads it")]
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|count| count.parse().ok()).unwrap_or(CASES)
}

/// Plays so many scripts of one seed: the same ones in every run, so that a failure comes again.
fn campaign(cases: u32, seed: u8) -> (Counts, Result<(), String>) {
    let total = RefCell::new(Counts::default());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(
        Runner { cases, failure_persistence: None, ..Runner::default() },
        random,
    );
    let result = runner.run(&scripts(EVENTS), |script| {
        let counts = play(script).map_err(TestCaseError::fail)?;
        total.borrow_mut().add(&counts);
        Ok(())
    });
    (total.into_inner(), result.map_err(|error| error.to_string()))
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let cases = cases();
    let halves = std::thread::scope(|scope| {
        let other = scope.spawn(|| campaign(cases / 2, 1));
        [campaign(cases.div_ceil(2), 2), other.join().unwrap()]
    });
    let mut total = Counts::default();
    for (counts, result) in halves {
        total.add(&counts);
        if let Err(error) = result {
            panic!("{error}");
        }
    }
    if cases < CASES_FOR_COUNTS {
        return;
    }
    write!(std::io::stderr(), "{cases} scripts of {EVENTS} events\n{total}").unwrap();
    let mut missing = total.missing();
    missing.extend(
        FACTS.map(|fact| format!("fact {fact}")).into_iter().filter(|fact| total.events(fact) == 0),
    );
    assert_eq!(missing, Vec::<String>::new(), "never happened");
}

/// Returns what a bug breaks.
fn broken_by(bug: Bug) -> &'static str {
    match bug {
        Bug::CheckpointBeforeSync => "no checkpoint before durability",
        Bug::ConfirmsBlindly => "target equals source",
        Bug::StartsBlindly => "never on at both ends",
        Bug::OneTokenForAllSteps => "nothing twice",
        Bug::PowersOnUnasked => "intent before effect",
        Bug::ForgetsFailures => "fold is stepwise",
        Bug::ClearsWhatIsBlocked => "nothing unvalidated moves",
        Bug::FollowsRewoundBranch => "absence never acts",
        Bug::UndoLeavesSourceOff => "source restored",
        Bug::UndoLeavesArea => "no leftovers",
        Bug::ForgetsOrphans => "says no reason",
        Bug::ReportsTheTime => "does not come to rest",
        Bug::IgnoresWindows => "only in its window",
        Bug::CatchesUpCutovers => "missed is missed",
        Bug::ForgetsConversion => "no checkpoint before durability",
    }
}

/// A script in which all goes well, and the same with one thing that happens, or one call that fails, at each point.
fn disturbed() -> impl Iterator<Item = Script> {
    let vms = vec![
        SimVmSpec::powered("vm-0", &[&[1, 2, 0, 3, 4, 5, 6, 7, 8]]),
        SimVmSpec::archive("vm-1", &[&[9, 0, 9, 9, 9]]),
        SimVmSpec { unsupported: true, ..SimVmSpec::powered("vm-2", &[&[1]]) },
    ];
    let plan = PlanModel {
        vms: [0, 1, 2].into(),
        force: false,
        delete: true,
        power: "auto",
        verify: "changed",
        convert: false,
        window: true,
    };
    let late = timed(&plan);
    let converted = converted(&plan);
    let mut well = vec![
        Nature::Commit(Edit::Plan(0, plan)),
        Nature::Commit(Edit::Migrate(0)),
        Nature::Commit(Edit::Unrelated),
    ];
    for _ in 0..12 {
        well.extend([Nature::Tick(40), Nature::Work(4)]);
    }
    let script =
        move |events: Vec<Nature>, faults: FaultPlan| Script { vms: vms.clone(), faults, events };
    let happens = [
        Nature::PersonPowersOn(0),
        Nature::Rewind,
        Nature::Commit(Edit::Cancel(0, 0)),
        Nature::Commit(Edit::DropPlan(0)),
    ];
    let (base, at) = (well.clone(), 3..well.len());
    let events = happens.into_iter().flat_map(move |event| {
        let base = base.clone();
        at.clone().map(move |at| {
            let mut events = base.clone();
            events.insert(at, event.clone());
            events
        })
    });
    let events = events.map(|events| (events, FaultPlan::default()));
    let first = std::iter::once((well.clone(), FaultPlan::default()));
    let one = |at: usize, number: u8| BTreeMap::from([(at, number)]);
    let calls = (0..CALLS).map(move |at| FaultPlan { calls: one(at, 0), ..FaultPlan::default() });
    let effects = (0..EFFECTS).flat_map(move |at| {
        (0..5).map(move |number| FaultPlan { effects: one(at, number), ..FaultPlan::default() })
    });
    let faults = calls.chain(effects).map(move |faults| (well.clone(), faults));
    let late = late.into_iter().chain(converted);
    let late = late.map(|events| (events, FaultPlan::default()));
    let all = first.chain(events).chain(faults).chain(late);
    all.map(move |(events, faults)| script(events, faults))
}

/// Scripts in which guests are converted: one in which all goes well, and others in which a VM is canceled meanwhile and begins
/// again.
fn converted(plan: &PlanModel) -> Vec<Vec<Nature>> {
    let commit = Nature::Commit;
    let plan = PlanModel { convert: true, delete: false, ..plan.clone() };
    let begin = [commit(Edit::Plan(0, plan)), commit(Edit::Migrate(0))];
    let work = |steps: usize| (0..steps).flat_map(|_| [Nature::Tick(5), Nature::Work(4)]);
    let well = begin.clone().into_iter().chain(work(40)).collect();
    let canceled = (5..25).map(|steps| {
        let again = [commit(Edit::Cancel(0, 1)), Nature::Tick(5), commit(Edit::Migrate(0))];
        begin.clone().into_iter().chain(work(steps)).chain(again).chain(work(40)).collect()
    });
    std::iter::once(well).chain(canceled).collect()
}

/// Scripts in which a migration comes when its window is closed, and when its time has passed.
fn timed(plan: &PlanModel) -> [Vec<Nature>; 2] {
    let commit = Nature::Commit;
    let wait = || (0..40).map(|_| Nature::Tick(100));
    let mut closed = vec![commit(Edit::Plan(0, plan.clone())), commit(Edit::Window(20))];
    closed.extend([Nature::Tick(1500), commit(Edit::Migrate(0))]);
    closed.extend(wait());
    let mut passed = vec![commit(Edit::Plan(0, plan.clone())), Nature::Hold(true)];
    passed.extend([commit(Edit::Migrate(0)), commit(Edit::Cutover(0, When::In(-30)))]);
    passed.push(Nature::Hold(false));
    passed.extend(wait());
    [closed, passed]
}

#[test]
fn one_thing_that_goes_wrong_is_borne_wherever_it_comes() {
    for script in disturbed() {
        play(script).unwrap();
    }
}

/// The last good version of a file counts while it is broken, also where only a person could say that the commit which brought
/// it counts.
#[test]
fn what_was_accepted_while_the_branch_could_not_be_asked_is_remembered() {
    let plan = PlanModel {
        vms: [0].into(),
        force: false,
        delete: false,
        power: "off",
        verify: "none",
        convert: false,
        window: false,
    };
    let events = vec![
        Nature::Commit(Edit::Plan(0, plan)),
        Nature::Tick(1),
        Nature::Repo(false),
        Nature::Commit(Edit::Migrate(0)),
        Nature::Adopt,
        Nature::Rewind,
        Nature::Repo(true),
        Nature::Tick(1),
        Nature::Tick(1),
        Nature::Commit(Edit::BreakMigration(0)),
        Nature::Adopt,
        Nature::Tick(5),
        Nature::Tick(5),
    ];
    let vms = vec![SimVmSpec::archive("vm-0", &[&[1, 2, 3]])];
    play(Script { vms, faults: FaultPlan::default(), events }).unwrap();
}

#[test]
fn every_planted_bug_is_caught_by_its_invariant() {
    for bug in Bug::ALL {
        plant(Some(bug));
        let caught = disturbed().find_map(|script| play(script).err());
        plant(None);
        let caught = caught.unwrap_or_default();
        assert!(caught.contains(broken_by(bug)), "{bug:?}: {caught}");
    }
    let caught: Vec<&str> = Bug::ALL.into_iter().map(broken_by).collect();
    for (name, _) in invariant::ALL {
        assert!(caught.contains(&name), "no bug breaks `{name}`");
    }
}
