//! What `ferry status` prints of reports and of the journal.

use expect_test::expect;

use super::*;
use crate::domain::id::Token;
use crate::domain::vm::Power;

#[test]
fn an_old_attempt_is_no_news_for_a_vm_that_waits_for_its_next() {
    let mut scene = Scene::new();
    scene.stands = vec![stand("done", Standing::Waiting(Wait::Slot { moving: 1 }))];
    let again = vm(&report(&scene.input()), "done");
    assert_eq!((again.status, again.attempt), (Word::Ready, None));
    let mut undone = undoing();
    undone.push(Fact::Undone);
    scene.progress = progress(&[("gone", &undone)]);
    scene.stands = vec![stand("gone", Standing::Resting(Rest::Canceled))];
    let canceled = vm(&report(&scene.input()), "gone");
    assert_eq!((canceled.status, canceled.attempt), (Word::Canceled, Some(1)));
}

#[test]
fn a_committed_report_reads_back_into_the_same_rows() {
    let scene = Scene::new();
    let files = report(&scene.input());
    let live = Overview::live(&scene.input(), at(100));
    let committed = Overview::committed(&files).unwrap();
    assert_eq!(committed.json(), live.json());
    let broken = BTreeMap::from([("vms/web/x.yaml".to_owned(), b"kind: [".to_vec())]);
    let error = Overview::committed(&broken).unwrap_err();
    assert!(error.to_string().contains("vms/web/x.yaml"));
}

#[test]
fn people_see_steps_progress_and_reasons() {
    let scene = Scene::new();
    let live = Overview::live(&scene.input(), at(100));
    expect![[r#"
        status       VM                   step          copied               time      waits for
        ~ Running    web/new
        + Ready      web/db                                                            all places for VMs
                                                                                       that move are taken
                                                                                       (3 VMs move now)
        + Ready      web/big                                                           the target has no
                                                                                       room for 4.0 TiB
                                                                                       (7.0 MiB are free)
        ~ Running    web/moving           DiskTransfer  512.0 MiB / 1.0 GiB  1 m 40 s  its disks are being
                                                                                       copied
        ✓ Completed  web/done                           1.0 GiB              11 s
        ~ Running    web/gone             DiskTransfer  512.0 MiB / 1.0 GiB  1 m 22 s
        ✗ Failed     web/broken           DiskTransfer  512.0 MiB / 1.0 GiB  1 m 15 s  the disk cannot be
                                                                                       read
        + Ready      web/idle                                                          no Migration runs
                                                                                       its plan
        ! Not ready  web/lost                                                          network `w\u{1b}[2J
                                                                                       \u{202e}|<b>@all\n[
                                                                                       x](http://e)` is
                                                                                       not mapped
        ! Not ready  web/w\u{1b}[2J\u{20                                               `archive` holds no
                     2e}|<b>@all\n[x](ht                                               VM `w\u{1b}[2J\u{20
                     tp://e)                                                           2e}|<b>@all\n[x](ht
                                                                                       tp://e)`

        1 of 10 migrated · 3 moving · 3 ready · 2 not ready · 1 failed
    "#]].assert_eq(&live.text(100, Why::Brief));
    let moving = live.clone().only(&PlanName::new("web"), Some(&VmName::new("moving")));
    expect![[r#"
        status     VM          step          copied               time      waits for
        ~ Running  web/moving  DiskTransfer  512.0 MiB / 1.0 GiB  1 m 40 s  its disks are being copied

        ~ Running web/moving
          why: its disks are being copied
          ✓ Initialize             4 s
          ~ DiskTransfer           for 1 m 36 s now
          · Cutover                to come
          · Verify                 to come
          · ImageConversion        not needed
          · VirtualMachineCreation to come
          disk vmdisk1: 512.0 MiB of 1.0 GiB copied, 90.0 MiB written
          copy: estimated ≈ 3 s (default 110.0 MiB/s)
    "#]]
    .assert_eq(&moving.text(100, Why::Told));
    assert!(live.clone().only(&PlanName::new("none"), None).is_empty());
    for width in [40, 80] {
        for why in [Why::Brief, Why::Told] {
            let longest = live.text(width, why).lines().map(|line| line.chars().count()).max();
            assert!(longest.unwrap() <= usize::from(width));
        }
    }
}

#[test]
fn the_journal_alone_tells_where_attempts_stand() {
    let mut scene = Scene::new();
    scene.wanted.plans.clear();
    scene.verdicts.clear();
    scene.stands = Vec::new();
    expect![[r#"
        status       VM          step          copied          time      waits for
        ✓ Completed  web/done                  1.0 GiB         11 s
        ~ Running    web/gone    DiskTransfer  512.0 MiB /     1 m 22 s
                                               1.0 GiB
        ~ Running    web/broken  DiskTransfer  512.0 MiB /     1 m 15 s  its disks are
                                               1.0 GiB                   being copied
        ~ Running    web/moving  DiskTransfer  512.0 MiB /     1 m 40 s  its disks are
                                               1.0 GiB                   being copied

        1 of 4 migrated · 3 moving
    "#]]
    .assert_eq(&Overview::live(&scene.input(), at(100)).text(80, Why::Brief));
}

#[test]
fn a_vm_that_was_not_started_says_how_it_is() {
    let mut facts = completed();
    let power = facts.iter().position(|fact| matches!(fact, Fact::PowerRemembered { .. })).unwrap();
    let deadline = at(9);
    facts.splice(
        power..=power,
        [
            Fact::PowerRemembered { power: Power::On },
            Fact::PowerOffIntended { token: Token::new("off") },
            Fact::ShutdownRequested { deadline },
            Fact::SourceOff,
        ],
    );
    let made = facts.iter().position(|fact| *fact == Fact::VmCreated).unwrap();
    facts.insert(made + 1, Fact::NotStarted);
    let mut scene = Scene::new();
    scene.progress = progress(&[("done", &facts)]);
    scene.stands = vec![stand("done", Standing::Resting(Rest::Completed))];
    let files = report(&scene.input());
    let done = vm(&files, "done");
    let found = done.conditions.iter().find(|it| it.kind == ConditionType::NotStarted).unwrap();
    assert_eq!((found.status, found.reason.as_str()), (Holds::True, "TargetStartsNothing"));
    assert_eq!(found.message, "virsh -c qemu:///system create /srv/vms/done/domain.xml");
    expect!["migrated to done in 15 s, 280.0 MiB written, not started there"]
        .assert_eq(&done.result.unwrap());
    let why = Overview::live(&scene.input(), at(100)).text(100, Why::Told);
    let line = why.lines().find(|line| line.contains("not started: ")).unwrap();
    expect!["not started: run `virsh -c qemu:///system create /srv/vms/done/domain.xml`"]
        .assert_eq(line.trim());
    let page = text(&files, "plans/web.md");
    expect![[r#"
        : Completed

        - **result:** migrated to done in 15 s, 280.0 MiB written, not started there
        - **not started:** run virsh -c qemu:&#8203;///system create /srv/vms/done/domain.xml
    "#]]
    .assert_eq(page.split_once("\n## done").unwrap().1);
}
