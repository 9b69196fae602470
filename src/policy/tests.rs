use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use jiff::Timestamp;

use super::sample::{
    at, clear, desired, entry, first, occupy, seen, source, vm, wanted, wish, world,
};
use super::*;
use crate::desired::{Network, Selector, Site};
use crate::domain::id::{CommitId, JournalId, MigrationName, RunId};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Claim, DiskFormat, Firmware, Nic, Power};
use crate::journal::progress::Progress;
use crate::journal::record::{Entry, Fact, Instructions, RECORD_VERSION, Record};
use crate::manifest::diagnostic::Severity;
use crate::manifest::document::{ImageFormat, NetworkType, PlanType, TargetPowerState};

mod speaks;

use speaks::{Change, SPEAKS};

fn shown(verdict: &Verdict) -> String {
    let outcome = match &verdict.outcome {
        Outcome::Cleared(cleared) => format!("cleared as {}", cleared.target_name()),
        Outcome::Blocked => "blocked".to_owned(),
        Outcome::Unknown(gap) => format!("unknown: {} ({})", gap.reason, gap.remedy),
    };
    let findings = verdict.findings.iter().map(|finding| {
        let hint = finding.hint.as_deref().unwrap_or("-");
        format!("  {} {}: {} [{hint}]\n", finding.severity, finding.code, finding.text)
    });
    format!("{}: {outcome}\n{}", verdict.key, findings.collect::<String>())
}

fn check(verdicts: &[Verdict], expected: Expect) {
    expected.assert_eq(&verdicts.iter().map(shown).collect::<String>());
}

fn judge(desired: Desired, vm: Vm) -> Verdict {
    let mut wanted = wanted(&[("web", &["web-01"])]);
    first(&mut wanted).vms[0].desired = Some(Arc::new(desired));
    clear(&wanted, &world(vec![vm])).remove(0)
}

fn network(desired: &mut Desired, kind: NetworkType) {
    let networks = Arc::make_mut(desired.networks.as_mut().unwrap());
    networks.insert("VM Network".into(), Network { kind, name: None });
}

#[test]
fn each_rule_speaks_where_it_should_and_is_silent_elsewhere() {
    let silent = judge(desired("web", "web-01"), vm("web-01"));
    assert_eq!(silent.findings, []);
    for (id, change, text) in SPEAKS {
        let (mut desired, mut vm) = (desired("web", "web-01"), vm("web-01"));
        desired.selector = Selector::Id(vm.id.to_string());
        change(&mut desired, &mut vm);
        let verdict = judge(desired, vm);
        let found: Vec<_> = verdict.findings.iter().filter(|found| found.code == *id).collect();
        assert_eq!(found.len(), 1, "{id}: {verdict:?}");
        assert_eq!(found[0].text, *text);
        let page = concerns().into_iter().find(|page| page.id == *id).unwrap();
        assert_eq!(found[0].severity, page.category, "{id}");
        let blocks = page.category == Severity::Critical;
        assert_eq!(matches!(verdict.outcome, Outcome::Blocked), blocks, "{id}");
    }
}

#[test]
fn the_table_covers_every_page() {
    // These need a world rather than a VM; each has a test of its own.
    let elsewhere = [
        "ferry.rule.failed",
        "source.vm.absent",
        "source.vm.ambiguous",
        "target.converter.missing",
        "target.name.duplicate",
        "target.name.taken",
        "target.start.unavailable",
    ];
    let covered: BTreeSet<&str> = SPEAKS.iter().map(|(id, ..)| *id).chain(elsewhere).collect();
    let pages: Vec<String> = concerns().into_iter().map(|page| page.id).collect();
    assert_eq!(pages, covered.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_format_that_is_read_is_no_concern() {
    for format in [DiskFormat::StreamOptimized, DiskFormat::Blocks, DiskFormat::Empty] {
        let mut vm = vm("web-01");
        vm.disks[0].format = format;
        assert_eq!(judge(desired("web", "web-01"), vm).findings, []);
    }
}

#[test]
fn no_windows_is_seen_in_darwin() {
    let mut mac = vm("web-01");
    mac.os = Some("darwin23_64Guest".into());
    assert_eq!(judge(desired("web", "web-01"), mac).findings, []);
}

#[test]
fn an_entry_means_a_vm_by_name_path_or_identifier() {
    let other = vm("db-01");
    let observed = world(vec![vm("web-01"), other.clone()]);
    for selector in [
        Selector::Name("db-01".into()),
        Selector::Name("db-01.ova/db-01".into()),
        Selector::Id(other.id.to_string()),
    ] {
        let mut wanted = wanted(&[("web", &["x"])]);
        let entry = &mut first(&mut wanted).vms[0];
        wish(entry).selector = selector;
        assert_eq!(clear(&wanted, &observed)[0].vm, Some(other.id.clone()));
    }
}

#[test]
fn what_is_absent_or_ambiguous_is_said_with_a_way_out() {
    let mut twin = vm("web-02");
    twin.name = "web-01".into();
    let mut copy = vm("db-01");
    copy.path = "copy-of-db-01.ova/db-01".into();
    let observed = world(vec![vm("web-01"), twin, vm("db-01"), copy]);
    let wanted = wanted(&[("web", &["web-01", "db-1", "mail", "db-01"])]);
    check(
        &clear(&wanted, &observed),
        expect![[r"
            web/web-01: blocked
              Critical source.vm.ambiguous: `web-01` names 2 VMs of `archive`: `web-01.ova/web-01`, `web-02.ova/web-02` [Name one of them by its path or its `id`]
            web/db-1: blocked
              Critical source.vm.absent: `archive` holds no VM `db-1` [Did you mean `db-01`?]
            web/mail: blocked
              Critical source.vm.absent: `archive` holds no VM `mail` [The source holds `web-01`, `web-01`, `db-01`, `db-01`]
            web/db-01: cleared as db-01
        "]],
    );
}

#[test]
fn a_gap_or_an_old_look_proves_nothing() {
    let wanted = wanted(&[("web", &["web-01", "gone"])]);
    let gap = Gap { reason: "broken.ova is cut short".into(), remedy: "Copy it again".into() };
    let mut partly = world(vec![vm("web-01")]);
    source(&mut partly).gaps.push(gap.clone());
    check(
        &clear(&wanted, &partly),
        expect![[r"
            web/web-01: cleared as web-01
            web/gone: unknown: not found in what could be read of `archive`: broken.ova is cut short (Copy it again)
        "]],
    );
    let mut unread = world(vec![]);
    unread.sources.values_mut().for_each(|seen| seen.state = Err(gap.clone()));
    let mut blind = world(vec![vm("web-01")]);
    blind.targets.values_mut().for_each(|seen| seen.state = Err(gap.clone()));
    let mut never = world(vec![vm("web-01")]);
    never.targets.clear();
    let old = |observed: &Observed| Judge::new().clear(&wanted, observed, &BTreeSet::new(), at(61));
    for (verdicts, vm_known) in [
        (clear(&wanted, &unread), false),
        (clear(&wanted, &Observed::default()), false),
        (clear(&wanted, &blind), true),
        (clear(&wanted, &never), true),
        (old(&world(vec![vm("web-01")])), false),
    ] {
        assert!(matches!(verdicts[0].outcome, Outcome::Unknown(_)), "{verdicts:?}");
        assert_eq!(verdicts[0].vm.is_some(), vm_known);
        assert_eq!(verdicts[0].findings, []);
    }
}

#[test]
fn a_name_on_the_target_belongs_to_who_made_it() {
    let wanted = wanted(&[("web", &["web-01", "web-02", "db-01"])]);
    let mut observed = world(vec![vm("web-01"), vm("web-02"), vm("db-01")]);
    occupy(&mut observed, "web-01", None);
    occupy(&mut observed, "web-02", Some("theirs"));
    occupy(&mut observed, "db-01", Some("ours"));
    let ours = BTreeSet::from([Token::new("ours")]);
    check(
        &Judge::new().clear(&wanted, &observed, &ours, at(1)),
        expect![[r"
            web/web-01: blocked
              Critical target.name.taken: `web-01` stands on `rack` already and was not made by this instance [Set another `targetName`, or remove what stands there]
            web/web-02: blocked
              Critical target.name.taken: `web-02` stands on `rack` already and was not made by this instance [Set another `targetName`, or remove what stands there]
            web/db-01: cleared as db-01
        "]],
    );
}

#[test]
fn a_guest_is_converted_where_that_can_be_done() {
    let (mut linux, mut windows) = (vm("web-01"), vm("win-01"));
    linux.os = Some("debian12_64Guest".into());
    windows.os = Some("windows2019srv_64Guest".into());
    let mut wanted = wanted(&[("web", &["web-01", "win-01", "db-01"])]);
    for vm in &mut first(&mut wanted).vms[..2] {
        Arc::make_mut(vm.desired.as_mut().unwrap()).skip_guest_conversion = false;
    }
    let gap = |reason: &str| Some(Gap { reason: reason.into(), remedy: "install it".into() });
    let mut observed = world(vec![linux, windows, vm("db-01")]);
    let mut told = |missing, missing_for_windows| {
        let target = observed.targets.values_mut().next().unwrap().state.as_mut().unwrap();
        target.converter = ConverterState { missing, missing_for_windows };
        clear(&wanted, &observed)
    };
    assert!(told(None, None).iter().all(|verdict| matches!(verdict.outcome, Outcome::Cleared(_))));
    check(
        &told(None, gap("no virtio-win")),
        expect![[r#"
            web/web-01: cleared as web-01
              Warning guest.addresses.unkept: it is converted, and static addresses bound to the names of its network cards may be lost [Bind addresses to the card's MAC address in the guest before it is exported, or set them on the console afterwards; with DHCP nothing is to be done]
            web/win-01: blocked
              Critical target.converter.missing: no virtio-win [install it]
              Warning guest.addresses.unkept: it is converted, and static addresses bound to the names of its network cards may be lost [Bind addresses to the card's MAC address in the guest before it is exported, or set them on the console afterwards; with DHCP nothing is to be done]
            web/db-01: cleared as db-01
        "#]],
    );
    check(
        &told(gap("no virt-v2v-in-place"), gap("no virtio-win")),
        expect![[r#"
            web/web-01: blocked
              Critical target.converter.missing: no virt-v2v-in-place [install it]
              Warning guest.addresses.unkept: it is converted, and static addresses bound to the names of its network cards may be lost [Bind addresses to the card's MAC address in the guest before it is exported, or set them on the console afterwards; with DHCP nothing is to be done]
            web/win-01: blocked
              Critical target.converter.missing: no virt-v2v-in-place [install it]
              Warning guest.addresses.unkept: it is converted, and static addresses bound to the names of its network cards may be lost [Bind addresses to the card's MAC address in the guest before it is exported, or set them on the console afterwards; with DHCP nothing is to be done]
            web/db-01: cleared as db-01
        "#]],
    );
}

#[test]
fn a_target_that_starts_nothing_says_so_of_what_is_to_run() {
    let mut wanted = wanted(&[("web", &["web-01", "web-02", "db-01"])]);
    let entries = &mut first(&mut wanted).vms;
    wish(&mut entries[0]).power = TargetPowerState::On;
    wish(&mut entries[1]).power = TargetPowerState::Off;
    wish(&mut entries[0]).target_site = Site::folder("/srv/it's");
    let mut observed = world(vec![vm("web-01"), vm("web-02"), vm("db-01")]);
    assert!(clear(&wanted, &observed).iter().all(|verdict| !verdict.leaves_off()));
    observed.targets.values_mut().for_each(|seen| seen.state.as_mut().unwrap().starts = false);
    let verdicts = clear(&wanted, &observed);
    assert_eq!(verdicts.iter().map(Verdict::leaves_off).collect::<Vec<_>>(), [true, false, false]);
    check(
        &verdicts,
        expect![[r#"
            web/web-01: cleared as web-01
              Warning target.start.unavailable: `rack` starts no VMs, so `web-01` stays off there [Start it by hand afterwards, `virsh -c qemu:///system create '/srv/it'\''s/web-01/domain.xml'`; or set `libvirt.uri`]
            web/web-02: cleared as web-02
            web/db-01: cleared as db-01
        "#]],
    );
}

#[test]
fn two_vms_never_get_one_name_on_one_target() {
    let mut other = vm("Web 01");
    other.name = "Web 01".into();
    let observed = world(vec![vm("web-01"), other]);
    let mut twice = wanted(&[("a", &["web-01"]), ("b", &["Web 01", "web-01"])]);
    check(
        &clear(&twice, &observed),
        expect![[r"
            a/web-01: blocked
              Critical target.name.duplicate: `b/Web 01` gets the same name on the target, `web-01` [Set `targetName` in one of the entries]
            b/Web 01: blocked
              Critical target.name.duplicate: `a/web-01` gets the same name on the target, `web-01` [Set `targetName` in one of the entries]
              Warning ova.name.invalid: `Web 01` is called `web-01` on the target [Set `targetName` in its entry]
            b/web-01: cleared as web-01
        "]],
    );
    first(&mut twice).archived = true;
    Arc::make_mut(twice.plans.values_mut().last().unwrap()).vms.pop();
    assert!(
        clear(&twice, &observed).iter().all(|verdict| verdict.findings.iter().all(|f| !f.blocks()))
    );
}

#[test]
fn two_folders_of_one_libvirt_have_each_name_once() {
    let mut other = vm("Web 01");
    other.name = "Web 01".into();
    let mut observed = world(vec![vm("web-01"), other]);
    let mut wanted = wanted(&[("a", &["web-01"]), ("b", &["Web 01"])]);
    let entry = &mut Arc::make_mut(wanted.plans.values_mut().last().unwrap()).vms[0];
    let rack = ProviderName::new("rack-2");
    wish(entry).target = rack.clone();
    let seen = observed.targets.values().next().unwrap().clone();
    observed.targets.insert(rack, seen);
    for (starts, clash) in [(true, true), (false, false)] {
        for seen in observed.targets.values_mut() {
            seen.state.as_mut().unwrap().starts = starts;
        }
        let verdicts = clear(&wanted, &observed);
        let said = |verdict: &Verdict| {
            verdict.findings.iter().any(|found| found.code == "target.name.duplicate")
        };
        assert!(verdicts.iter().all(|verdict| said(verdict) == clash), "{verdicts:?}");
    }
}

#[test]
fn what_the_manifest_said_is_not_said_twice_and_never_cleared() {
    let mut wanted = wanted(&[("web", &["web-01"])]);
    let entry = &mut first(&mut wanted).vms[0];
    wish(entry).kind = PlanType::Warm;
    entry.findings.push(Finding {
        code: "FY0300".into(),
        severity: Severity::Critical,
        place: entry.place.clone(),
        text: "`type: warm` is not supported yet".into(),
        hint: None,
    });
    let observed = world(vec![vm("web-01")]);
    check(
        &clear(&wanted, &observed),
        expect![[r"
            web/web-01: blocked
              Critical FY0300: `type: warm` is not supported yet [-]
        "]],
    );
    let entry = &mut first(&mut wanted).vms[0];
    entry.desired = None;
    entry.findings.clear();
    assert_eq!(clear(&wanted, &observed)[0].outcome, Outcome::Blocked);
}

#[test]
fn the_digest_is_of_what_is_read_and_of_nothing_else() {
    let digest = |change: Change| {
        let (mut desired, mut vm) = (desired("web", "web-01"), vm("web-01"));
        desired.selector = Selector::Id(vm.id.to_string());
        change(&mut desired, &mut vm);
        judge(desired, vm).digest.unwrap()
    };
    let base = digest(|_, _| {});
    // It is another one only where the rules are, or `ENGINE`: else what was reviewed stays reviewed.
    assert_eq!(base.as_str(), "9e9477d0157ace7009a0b80464300a85");
    let same: &[Change] = &[
        |desired, _| desired.place.line = 99,
        |desired, _| desired.key.plan = crate::domain::id::PlanName::new("renamed"),
        |_, vm| vm.power = Power::On,
        |_, vm| vm.claim = Claim::Held("token".into()),
        |_, vm| vm.path = "moved.ova/web-01".into(),
        |_, vm| vm.disks[0].stored = None,
        |_, vm| vm.disks[0].source.0 = "/srv/ova/moved.ova".into(),
        |desired, _| {
            let network = Network { kind: NetworkType::Pod, name: None };
            Arc::make_mut(desired.networks.as_mut().unwrap()).insert("other".into(), network);
        },
    ];
    for (number, change) in same.iter().enumerate() {
        assert_eq!(digest(*change), base, "{number}");
    }
    let other: &[Change] = &[
        |desired, _| desired.target_name = Some(TargetName::new("other")),
        |desired, _| desired.power = TargetPowerState::Off,
        |desired, _| desired.shutdown_force = true,
        |desired, _| desired.shutdown_timeout_s += 1,
        |desired, _| desired.verify = crate::manifest::document::Verify::Full,
        |desired, _| desired.on_failure = crate::manifest::document::OnFailure::Delete,
        |desired, _| network(desired, NetworkType::Ignored),
        |desired, _| {
            let disk_format = ImageFormat::Qcow2;
            desired.target_site = Site::Local { path: "/srv/vms".into(), disk_format };
        },
        |_, vm| vm.firmware = Some(Firmware::Bios),
        |_, vm| vm.secure_boot = true,
        |_, vm| vm.tpm = true,
        |_, vm| vm.cpus = Some(3),
        |_, vm| vm.cores_per_socket = Some(1),
        |_, vm| vm.memory = Some(Bytes::mib(1)),
        |_, vm| vm.disks[0].capacity += Bytes::mib(1),
        |_, vm| vm.nics[0].mac = None,
    ];
    let digests: BTreeSet<_> = other.iter().map(|change| digest(*change)).collect();
    assert_eq!(digests.len(), other.len());
    assert!(!digests.contains(&base));
}

#[test]
fn remembered_verdicts_are_those_that_are_made_anew() {
    let mut wanted = wanted(&[("web", &["web-01", "web-02"])]);
    let mut observed = world(vec![vm("web-01"), vm("web-02")]);
    let mut judge = Judge::new();
    let mut pass = |wanted: &Wanted, observed: &Observed| {
        let again = judge.clear(wanted, observed, &BTreeSet::new(), at(1));
        assert_eq!(again, clear(wanted, observed));
        again
    };
    let before = pass(&wanted, &observed);
    assert_eq!(pass(&wanted, &observed), before);
    seen(&mut observed, 0).firmware = None;
    let after = pass(&wanted, &observed);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    let entry = &mut first(&mut wanted).vms[0];
    entry.place.line = 40;
    wish(entry).place.line = 40;
    let moved = pass(&wanted, &observed);
    assert_eq!(moved[0].findings[0].place.line, 40);
    assert_eq!(moved[0].digest, after[0].digest);
    wish(&mut first(&mut wanted).vms[0]).selector = Selector::Name("web-02".into());
    assert_eq!(pass(&wanted, &observed)[0].vm, Some(vm("web-02").id));
    let twin = Vm { path: "other/web-02".into(), ..vm("web-02-b") };
    source(&mut observed).vms.push(Arc::new(Vm { name: "web-02".into(), ..twin }));
    assert_eq!(pass(&wanted, &observed)[0].findings[0].code, plan::VM_AMBIGUOUS.0);
    source(&mut observed).vms.pop();
    assert_eq!(pass(&wanted, &observed)[0].vm, Some(vm("web-02").id));
    // What could not be judged once is not taken for what it was before, however often it is asked.
    let twin = Arc::new(Vm { name: "web-02".into(), path: "other/web-02".into(), ..vm("web-2-b") });
    source(&mut observed).vms.push(twin);
    for _ in 0..3 {
        assert_eq!(pass(&wanted, &observed)[0].outcome, Outcome::Blocked);
    }
    let all = std::mem::take(&mut source(&mut observed).vms);
    for _ in 0..3 {
        assert_eq!(pass(&wanted, &observed)[0].outcome, Outcome::Blocked);
    }
    source(&mut observed).gaps.push(Gap { reason: "broken".into(), remedy: "mend it".into() });
    for _ in 0..3 {
        assert!(matches!(pass(&wanted, &observed)[0].outcome, Outcome::Unknown(_)));
    }
    *source(&mut observed) = SourceState { vms: all, ..SourceState::default() };
    let desired = first(&mut wanted).vms[0].desired.take();
    for _ in 0..3 {
        assert_eq!(pass(&wanted, &observed)[0].outcome, Outcome::Blocked);
    }
    first(&mut wanted).vms[0].desired = desired;
    wanted.plans.clear();
    assert_eq!(pass(&wanted, &observed), []);
    assert!(judge.entries.is_empty());
}

#[test]
fn what_was_said_elsewhere_is_not_asked_again_and_holds_for_its_digest_only() {
    let wanted = wanted(&[("web", &["web-01"])]);
    let mut observed = world(vec![vm("web-01")]);
    seen(&mut observed, 0).firmware = None;
    let mut judge = Judge::new();
    let verdicts = judge.clear(&wanted, &observed, &BTreeSet::new(), at(1));
    let json = serde_json::to_string(&judge.said()).unwrap();
    let told = |text: &str, observed: &Observed| {
        let mut judge = Judge::new();
        judge.recall(&serde_json::from_str(text).unwrap());
        judge.clear(&wanted, observed, &BTreeSet::new(), at(1))
    };
    assert_eq!(told(&json, &observed), verdicts);
    // What it says is what is said, as long as the digest is that of the VM.
    let altered = json.replace(&verdicts[0].findings[0].text, "recalled");
    assert_eq!(told(&altered, &observed)[0].findings[0].text, "recalled");
    seen(&mut observed, 0).memory = Some(Bytes::mib(4096));
    let changed = told(&altered, &observed);
    assert_eq!(changed[0].findings, verdicts[0].findings);
    assert_ne!(changed[0].digest, verdicts[0].digest);
}

fn begun(desired: Desired, vm: &Vm) -> Progress {
    let run = RunId { vm: vm.id.clone(), migration: MigrationName::new("m"), attempt: 1 };
    let instructions = Instructions {
        desired: Arc::new(desired),
        vm: Arc::new(vm.clone()),
        target_name: TargetName::new("given"),
        digest: Digest::new("d"),
        commit: CommitId::new("c"),
    };
    let entry = Entry::Run { run, fact: Fact::Began(Box::new(instructions)) };
    let record = Record { version: RECORD_VERSION, at: at(0), entry };
    Progress::fold(JournalId::new("j"), [&record]).unwrap()
}

#[test]
fn a_running_attempt_is_judged_by_its_instructions() {
    let moving = vm("web-01");
    let progress = begun(desired("web", "web-01"), &moving);
    let begun = &progress.newest().next().unwrap().begun;
    let judge =
        |observed: &Observed, now: Timestamp| Judge::new().judge_begun(begun, None, observed, now);
    // Another VM took the name meanwhile, and its own area stands on the target.
    let mut renamed = moving.clone();
    renamed.name = "old-name".into();
    let mut thief = vm("web-02");
    thief.name = "web-01".into();
    let mut observed = world(vec![thief.clone(), renamed]);
    occupy(&mut observed, "given", Some("whoever"));
    let verdict = judge(&observed, at(1));
    assert_eq!(verdict.vm, Some(moving.id.clone()));
    assert!(
        matches!(&verdict.outcome, Outcome::Cleared(cleared) if cleared.target_name().as_str() == "given")
    );
    occupy(&mut observed, "given", None);
    assert_eq!(judge(&observed, at(1)).findings[0].code, "target.name.taken");
    let mut gone = world(vec![thief]);
    assert_eq!(judge(&gone, at(1)).findings[0].code, "source.vm.absent");
    let gap = Gap { reason: "r".into(), remedy: "m".into() };
    source(&mut gone).gaps.push(gap);
    assert!(matches!(judge(&gone, at(1)).outcome, Outcome::Unknown(_)));
    assert!(matches!(judge(&observed, at(61)).outcome, Outcome::Unknown(_)));
}

#[test]
fn names_on_the_target_are_labels() {
    let label = |name: &str| target_name(name).map(|name| name.to_string());
    assert_eq!(label("web-01").as_deref(), Some("web-01"));
    assert_eq!(label("  Web__01 (copy)").as_deref(), Some("web-01-copy"));
    assert_eq!(label(&format!("{}-x", "a".repeat(62))).as_deref(), Some(&*"a".repeat(62)));
    assert_eq!(label("---"), None);
    assert_eq!(label("Ünïx").as_deref(), Some("n-x"));
}

#[test]
fn a_source_of_many_vms_is_judged_in_bounded_advice() {
    let mut wanted = wanted(&[("web", &[])]);
    let names: Vec<String> = (0..ADVICE_MAX + 5).map(|number| format!("vm-{number}")).collect();
    first(&mut wanted).vms = names.iter().map(|name| entry("web", name)).collect();
    let observed = world(vec![vm("other-machine")]);
    let verdicts = clear(&wanted, &observed);
    let advised = verdicts
        .iter()
        .filter(|v| v.findings[0].hint.as_deref() == Some("The source holds `other-machine`"))
        .count();
    assert_eq!(advised, ADVICE_MAX);
}
