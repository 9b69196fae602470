use std::fmt::Write as _;

use expect_test::expect;

use super::*;
use crate::decide::{Rest, Standing, Wait};
use crate::domain::id::VmName;
use crate::domain::unit::Bytes;
use crate::journal::record::{Abandon, Fact};
use crate::policy::sample::at;
use crate::preview::tests::{CANARY, Scene, completed, copying, fault, progress, stand, undoing};
use crate::status::document::{
    ConditionType, Holds, PlanReport, Step, StepName, StepStatus, VmReport, Word,
};

fn text(files: &BTreeMap<String, Vec<u8>>, path: &str) -> String {
    String::from_utf8(files[path].clone()).unwrap()
}

fn vm(files: &BTreeMap<String, Vec<u8>>, name: &str) -> VmReport {
    serde_yaml::from_slice(&files[&format!("vms/web/{name}.yaml")]).unwrap()
}

#[test]
fn a_plan_has_a_document_for_tools() {
    let scene = Scene::new();
    let files = report(&scene.input());
    expect![[r#"
        apiVersion: ferry.dev/v1alpha1
        kind: PlanReport
        metadata:
          name: web
        instance: prod
        source: archive
        target: rack
        type: cold
        status: Running
        totals:
          vms: 10
          migrated: 1
          moving: 3
          ready: 3
          notReady: 2
          failed: 1
          resting: 0
          provisioned: 4405562703872
          written: 293601280
        conditions:
        - type: Ready
          status: 'False'
          reason: SomeVms
          message: not so for 2 of 10 VMs
        - type: Running
          status: 'True'
          reason: SomeVms
          message: so for 3 of 10 VMs
          lastTransitionTime: 2026-09-21T14:13:20Z
        - type: Succeeded
          status: 'False'
          reason: SomeVms
          message: not so for 9 of 10 VMs
        - type: Failed
          status: 'False'
          reason: NoVm
    "#]]
    .assert_eq(text(&files, "plans/web.yaml").split_once("vms:\n").unwrap().0);
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of it is the text that is expected")]
fn a_plan_lists_its_vms() {
    let scene = Scene::new();
    let files = report(&scene.input());
    expect![[r#"
        - name: new
          status: Running
          target: new
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 0
          digest: 7f19ea016df8620bf22560529afb48a4
        - name: db
          status: Ready
          waits: all places for VMs that move are taken
          target: db
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 2
          digest: ac7da45d43aa78ac747b139030dbb9e5
        - name: big
          status: Ready
          waits: the target has no room for 4.0 TiB
          target: big
          provisioned: 4398046511104
          estimateSeconds: 38131
          concerns: 0
          digest: f6d7921c40b8428406b0c97f59b697e4
        - name: moving
          status: Running
          attempt: 1
          step: DiskTransfer
          waits: its disks are being copied
          target: moving
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 0
          digest: d1
        - name: done
          status: Completed
          attempt: 1
          target: done
          provisioned: 1073741824
          written: 293601280
          estimateSeconds: 3
          tookMs: 11000
          concerns: 0
          digest: d1
        - name: gone
          status: Running
          attempt: 1
          step: DiskTransfer
          target: gone
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 0
          digest: d1
        - name: broken
          status: Failed
          attempt: 1
          step: DiskTransfer
          waits: the disk cannot be read
          target: broken
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 0
          digest: d1
        - name: idle
          status: Ready
          waits: no Migration runs its plan
          target: idle
          provisioned: 1073741824
          estimateSeconds: 3
          concerns: 0
          digest: 48eb01d42ab0cb707681407f91b7d625
        - name: lost
          status: Not ready
          waits: network `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)` is not mapped
          concerns: 1
          digest: 3f26545c3f6078278c4e3e5ea58aa89e
        - name: w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)
          status: Not ready
          waits: '`archive` holds no VM `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)`'
          concerns: 1
    "#]]
    .assert_eq(text(&files, "plans/web.yaml").split_once("vms:\n").unwrap().1);
}

#[test]
fn a_plan_has_a_page_for_people() {
    let scene = Scene::new();
    let files = report(&scene.input());
    expect![[r#"
        # web: Running

        **1 of 10 migrated · 3 moving · 3 ready · 2 not ready · 1 failed** · 4.0 TiB provisioned, 280.0 MiB written

        Cold, from archive to rack · instance prod

        | | VM | status | on the target | provisioned / written | took | estimate | concerns | waits for |
        |---|---|---|---|---|---|---|---|---|
        | ~ | new | Running | new | 1.0 GiB / – |  | ≈ 3 s |  |  |
        | + | db | Ready | db | 1.0 GiB / – |  | ≈ 3 s | 2 | all places for VMs that move are taken |
        | + | big | Ready | big | 4.0 TiB / – |  | ≈ 10 h 35 m |  | the target has no room for 4.0 TiB |
        | ~ | moving | Running, DiskTransfer | moving | 1.0 GiB / – |  | ≈ 3 s |  | its disks are being copied |
        | ✓ | done | Completed | done | 1.0 GiB / 280.0 MiB | 11 s | ≈ 3 s |  |  |
        | ~ | gone | Running, DiskTransfer | gone | 1.0 GiB / – |  | ≈ 3 s |  |  |
        | ✗ | broken | Failed, DiskTransfer | broken | 1.0 GiB / – |  | ≈ 3 s |  | the disk cannot be read |
        | + | idle | Ready | idle | 1.0 GiB / – |  | ≈ 3 s |  | no Migration runs its plan |
        | ! | lost | Not ready |  |  |  |  | 1 | network \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` is not mapped |
        | ! | w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) | Not ready |  |  |  |  | 1 | \`archive\` holds no VM \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` |

        ✓ Completed · \~ Running · \+ Ready · \! Not ready · ✗ Failed

        ## big: Ready

        - **why:** the target has no room for 4.0 TiB
        - **to do:** Make room on the target

        ## broken: Failed

        - **why:** the disk cannot be read
        - **to do:** Mount it

        ## lost: Not ready

        - **Critical** plans/web.yaml:12:5: network \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` is not mapped (plan.network.unmapped) … **to do:** Add an entry for the network to the NetworkMapping (\`type: ignored\` leaves the card out)

        ## w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e): Not ready

        - **Critical** plans/web.yaml:12:5: \`archive\` holds no VM \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` (source.vm.absent) … **to do:** The source holds \`new\`, \`db\`, \`big\`, \`moving\`, \`done\` and 4 more
    "#]].assert_eq(&text(&files, "plans/web.md"));
    let _: PlanReport = serde_yaml::from_slice(&files["plans/web.yaml"]).unwrap();
}

#[test]
fn the_folder_says_what_is_held_and_what_is_broken() {
    let mut scene = Scene::new();
    let mut renderer = Renderer::default();
    renderer.report(&scene.input());
    let revision = renderer.revision();
    scene.held = Some("4 active Migrations vanished in <c0ffee>");
    scene.wanted.findings[0].severity = crate::manifest::diagnostic::Severity::Critical;
    let files = renderer.report(&scene.input()).clone();
    assert_eq!(renderer.revision(), revision + 2, "only the two documents of the folder change");
    expect![[r#"
        # prod

        At commit 0123456789abcdef0123456789abcdef01234567.

        > **Held:** 4 active Migrations vanished in &lt;c0ffee&gt;

        ## What is wrong with manifests

        - **Critical** plans/web.yaml:3:5: \`colour\` is no field of a Plan, w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) (FY0100) … **to do:** did you mean \`color\`?

        ## Plans

        | | plan | status | VMs |
        |---|---|---|---|
        | ~ | [web](plans/web.md) | Running | 1 of 10 migrated · 3 moving · 3 ready · 2 not ready · 1 failed |

        \~ Running
    "#]].assert_eq(&text(&files, "README.md"));
    expect![[r#"
        apiVersion: ferry.dev/v1alpha1
        kind: InstanceReport
        instance: prod
        observedCommit: 0123456789abcdef0123456789abcdef01234567
        held: 4 active Migrations vanished in <c0ffee>
        plans:
        - name: web
          status: Running
          totals:
            vms: 10
            migrated: 1
            moving: 3
            ready: 3
            notReady: 2
            failed: 1
            resting: 0
            provisioned: 4405562703872
            written: 293601280
        findings:
        - id: FY0100
          category: Critical
          assessment: '`colour` is no field of a Plan, w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)'
          remedy: did you mean `color`?
          place:
            file: plans/web.yaml
            line: 3
            column: 5
    "#]]
    .assert_eq(&text(&files, "instance.yaml"));
    let shown = Overview::committed(&files).unwrap().text(100, Why::Brief);
    let live = Overview::live(&scene.input(), at(100)).text(100, Why::Brief);
    let head = |text: &str| text.split_once("\n\n").unwrap().0.to_owned();
    assert_eq!(head(&shown), head(&live));
    expect![[r#"
        held: 4 active Migrations vanished in <c0ffee>
        ! Critical: plans/web.yaml:3:5: `colour` is no field of a Plan,
        w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e) [FY0100] … hint: did you mean `color`?"#]]
    .assert_eq(&head(&live));
}

#[test]
fn times_are_rounded_down_and_durations_are_not() {
    let exact = at(3) + jiff::SignedDuration::from_millis(999);
    assert_eq!(pipeline::whole(exact), at(3));
    assert_eq!(pipeline::between(at(2), exact), 1999);
    let held =
        vm::condition(ConditionType::Ready, Holds::True, "Began", String::new(), Some(exact));
    assert_eq!(held.last_transition_time, Some(at(3)));
}

#[test]
fn the_report_of_an_attempt_that_failed_says_how_far_it_came() {
    let mut facts = copying();
    facts.extend([Fact::UndoBegan { why: Abandon::Failed(fault()) }, Fact::Undone]);
    let mut scene = Scene::new();
    scene.progress = progress(&[("gone", &facts)]);
    scene.stands = vec![stand("gone", Standing::Resting(Rest::Failed(fault())))];
    let failed = vm(&report(&scene.input()), "gone");
    expect![[r#"Some("failed: the disk cannot be read; undone, its disks stay for the next attempt") Some("Mount it")"#]].assert_eq(&format!("{:?} {:?}", failed.result, failed.remedy));
    let disk = &failed.disks[0];
    expect!["Some(Bytes(536870912)) Some(Bytes(94371840)) None"]
        .assert_eq(&format!("{:?} {:?} {:?}", disk.copied, disk.written, disk.root));
    assert_eq!((failed.took_ms, failed.actual), (Some(7000), None));
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of it is the text that is expected")]
fn a_vm_has_an_import_with_its_steps_and_disks() {
    let scene = Scene::new();
    let files = report(&scene.input());
    expect![[r#"
        apiVersion: ferry.dev/v1alpha1
        kind: VirtualMachineImport
        metadata:
          name: done
          plan: web
        instance: prod
        source:
          provider: archive
          id: ova:00007bbc/done
        target:
          provider: rack
          name: done
        migration: go
        attempt: 1
        digest: d1
        observedCommit: c0ffee
        status: Completed
        result: migrated to done in 11 s, 280.0 MiB written
        phase: Completed
        provisioned: 1073741824
        stored: 314572800
        estimate:
          seconds: 3
          basis: default 110.0 MiB/s
        actual:
          seconds: 3
          basis: 'measured: DiskTransfer, comparing included'
        tookMs: 11000
        conditions:
        - type: Ready
          status: 'True'
          reason: Began
          lastTransitionTime: 2026-09-21T14:13:26Z
        - type: Running
          status: 'False'
          reason: Ended
          lastTransitionTime: 2026-09-21T14:13:37Z
        - type: Succeeded
          status: 'True'
          reason: Completed
          lastTransitionTime: 2026-09-21T14:13:37Z
        - type: Failed
          status: 'False'
          reason: NoFailure
        pipeline:
        - name: Initialize
          status: Completed
          started: 2026-09-21T14:13:26Z
          finished: 2026-09-21T14:13:30Z
          tookMs: 4000
        - name: DiskTransfer
          status: Completed
          started: 2026-09-21T14:13:30Z
          finished: 2026-09-21T14:13:33Z
          tookMs: 3000
        - name: Cutover
          status: Completed
          started: 2026-09-21T14:13:33Z
          finished: 2026-09-21T14:13:34Z
          tookMs: 1000
        - name: Verify
          status: Completed
          finished: 2026-09-21T14:13:33Z
        - name: ImageConversion
          status: Skipped
        - name: VirtualMachineCreation
          status: Completed
          started: 2026-09-21T14:13:34Z
          finished: 2026-09-21T14:13:37Z
          tookMs: 3000
        disks:
        - disk: vmdisk1
          capacity: 1073741824
          stored: 314572800
          copied: 1073741824
          written: 293601280
          root: beefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeef
          verified: true
    "#]]
    .assert_eq(&text(&files, "vms/web/done.yaml"));
}

#[test]
fn a_blocked_vm_says_what_stands_against_it() {
    let scene = Scene::new();
    let files = report(&scene.input());
    expect![[r#"
        apiVersion: ferry.dev/v1alpha1
        kind: VirtualMachineImport
        metadata:
          name: lost
          plan: web
        instance: prod
        source:
          provider: archive
          id: ova:00007bbc/lost
        target:
          provider: rack
        migration: go
        digest: 3f26545c3f6078278c4e3e5ea58aa89e
        status: Not ready
        waits: findings stand against it
        conditions:
        - type: Ready
          status: 'False'
          reason: Blocked
          message: network `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)` is not mapped
        - type: Running
          status: 'False'
          reason: NotBegun
        - type: Succeeded
          status: 'False'
          reason: NotCompleted
        - type: Failed
          status: 'False'
          reason: NoFailure
        concerns:
        - id: plan.network.unmapped
          category: Critical
          assessment: network `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)` is not mapped
          remedy: 'Add an entry for the network to the NetworkMapping (`type: ignored` leaves the card out)'
          place:
            file: plans/web.yaml
            line: 12
            column: 5
    "#]].assert_eq(&text(&files, "vms/web/lost.yaml"));
    assert_eq!(files.keys().filter(|path| path.starts_with("vms/web/")).count(), 10);
}

#[test]
fn words_and_conditions_follow_the_journal() {
    let files = report(&Scene::new().input());
    let words: Vec<(&str, Word)> =
        ["new", "db", "moving", "done", "gone", "broken", "idle", "lost"]
            .map(|name| (name, vm(&files, name).status))
            .to_vec();
    assert_eq!(
        words,
        [
            ("new", Word::Running),
            ("db", Word::Ready),
            ("moving", Word::Running),
            ("done", Word::Completed),
            ("gone", Word::Running),
            ("broken", Word::Failed),
            ("idle", Word::Ready),
            ("lost", Word::NotReady),
        ]
    );
    let done = vm(&files, "done");
    let succeeded =
        done.conditions.iter().find(|found| found.kind == ConditionType::Succeeded).unwrap();
    // Six facts of `moving` come before, then twelve of its own.
    assert_eq!(succeeded.last_transition_time, Some(at(17)));
}

fn shown(steps: &[Step]) -> String {
    let step = |step: &Step| format!("{}={} ", step.name.as_str(), step.status.as_str());
    steps.iter().map(step).collect()
}

#[test]
fn each_phase_belongs_to_a_step() {
    let facts = completed();
    let mut lines = String::new();
    for count in 0..=facts.len() {
        let progress = progress(&[("done", &facts[..count])]);
        let run = progress.newest().next().unwrap();
        let steps = pipeline::steps(run);
        let _ = writeln!(lines, "{}: {}", run.phase.name(), shown(&steps));
        for pair in steps.iter().filter(|step| step.name != StepName::Verify) {
            assert!(pair.started <= pair.finished || pair.finished.is_none());
        }
    }
    expect![[r#"
        Begun: Initialize=Running DiskTransfer=Pending Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Claimed: Initialize=Running DiskTransfer=Pending Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Off: Initialize=Running DiskTransfer=Pending Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Preparing: Initialize=Running DiskTransfer=Pending Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Copying: Initialize=Completed DiskTransfer=Running Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Copying: Initialize=Completed DiskTransfer=Running Cutover=Pending Verify=Pending ImageConversion=Skipped VirtualMachineCreation=Pending 
        Copying: Initialize=Completed DiskTransfer=Running Cutover=Pending Verify=Running ImageConversion=Skipped VirtualMachineCreation=Pending 
        Copied: Initialize=Completed DiskTransfer=Completed Cutover=Running Verify=Completed ImageConversion=Skipped VirtualMachineCreation=Pending 
        Creating: Initialize=Completed DiskTransfer=Completed Cutover=Completed Verify=Completed ImageConversion=Skipped VirtualMachineCreation=Running 
        Settling: Initialize=Completed DiskTransfer=Completed Cutover=Completed Verify=Completed ImageConversion=Skipped VirtualMachineCreation=Running 
        Settling: Initialize=Completed DiskTransfer=Completed Cutover=Completed Verify=Completed ImageConversion=Skipped VirtualMachineCreation=Running 
        Completed: Initialize=Completed DiskTransfer=Completed Cutover=Completed Verify=Completed ImageConversion=Skipped VirtualMachineCreation=Completed 
    "#]].assert_eq(&lines);
    let mut undone = undoing();
    undone.push(Fact::Undone);
    let progress = progress(&[("gone", &undone)]);
    let run = progress.newest().next().unwrap();
    expect!["Initialize=Completed DiskTransfer=Canceled Cutover=Skipped Verify=Skipped ImageConversion=Skipped VirtualMachineCreation=Skipped "]
        .assert_eq(&shown(&pipeline::steps(run)));
    let mut stalled = copying();
    stalled.push(Fact::Stalled(fault()));
    let progress = crate::preview::tests::progress(&[("x", &stalled)]);
    let steps = pipeline::steps(progress.newest().next().unwrap());
    assert_eq!(steps[1].status, StepStatus::Failed);
}

#[test]
fn what_changes_all_the_time_stays_out() {
    let mut scene = Scene::new();
    let mut renderer = Renderer::default();
    let before = renderer.report(&scene.input()).clone();
    assert_eq!(report(&scene.input()), before);
    let revision = renderer.revision();
    // More of a disk is copied, places and room change, a retry comes nearer.
    let mut facts = copying();
    if let Some(Fact::Checkpointed(checkpoint)) = facts.last_mut() {
        checkpoint.read = Bytes::mib(200);
    }
    let mut all = copying();
    all.push(facts.pop().unwrap());
    scene.progress = progress(&[
        ("moving", &copying()),
        ("done", &completed()),
        ("gone", &undoing()),
        ("broken", &copying()),
    ]);
    scene.stands[1].state = Standing::Waiting(Wait::Slot { moving: 4 });
    scene.stands[2].state =
        Standing::Waiting(Wait::Space { needed: Bytes::mib(4 << 20), free: Bytes::mib(8) });
    assert_eq!(renderer.report(&scene.input()), &before);
    assert_eq!(renderer.revision(), revision);
    let progress = progress(&[("moving", &all)]);
    let run = progress.newest().next().unwrap();
    let view = View {
        instance: &scene.instance,
        stand: &scene.stands[3],
        verdict: None,
        desired: None,
        run: Some(run),
    };
    assert_eq!(view.report().disks[0].written, None);
}

#[test]
fn a_renderer_that_remembers_renders_what_one_without_memory_does() {
    let mut scene = Scene::new();
    let mut renderer = Renderer::default();
    let mut pass = |scene: &Scene| {
        let fresh = report(&scene.input());
        assert_eq!(renderer.report(&scene.input()), &fresh);
        renderer.revision()
    };
    let first = pass(&scene);
    assert_eq!(pass(&scene), first);
    scene.commit = CommitId::new("f".repeat(40));
    let commit = pass(&scene);
    assert_eq!(commit, first + 2, "only the documents of the instance name the commit");
    scene.stands[0].state = Standing::Waiting(Wait::Stalled(fault()));
    assert!(pass(&scene) > commit);
    scene.stands.pop();
    crate::policy::sample::first(&mut scene.wanted).vms.pop();
    let fewer = pass(&scene);
    scene.wanted.plans.clear();
    scene.stands = Vec::new();
    assert!(pass(&scene) > fewer);
    assert!(renderer.files.len() == INSTANCE_PATHS.len() && renderer.vms.is_empty());
    scene = Scene::new();
    scene.instance = Instance::new("other");
    assert!(text(renderer.report(&scene.input()), "plans/web.yaml").contains("instance: other"));
}

#[test]
fn nothing_hostile_comes_through_any_document() {
    let scene = Scene::new();
    let files = report(&scene.input());
    let live = Overview::live(&scene.input(), at(100));
    let mut all: Vec<String> = files
        .into_iter()
        .flat_map(|(path, bytes)| [path, String::from_utf8(bytes).unwrap()])
        .collect();
    let paths = all.iter().filter(|text| text.starts_with("vms/") && text.contains('%')).count();
    assert_eq!(paths, 1);
    all.extend([live.text(300, Why::Told), live.json()]);
    assert!(all.iter().any(|text| text.contains("u{1b}")), "the canary must be there");
    for text in all {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }
    let page = crate::status::report(&scene.input())["plans/web.md"].clone();
    let page = String::from_utf8(page).unwrap();
    assert!(!page.contains("<b>") && !page.contains("@all") && CANARY.contains("@all"));
}

mod rows;
