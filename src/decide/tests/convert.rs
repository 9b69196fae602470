//! The conversion of guests: between the copy and the VM, one after another.

use expect_test::expect;

use super::*;
use crate::domain::window::{Rule, Window};
use crate::observed::TargetVm;

/// VMs whose disks are copied and whose guests are to be converted.
fn copied(names: &[&str]) -> Bench {
    let mut bench = Bench::ova(names);
    bench.convert = true;
    bench.target.free = Bytes::mib(2048);
    bench.settle();
    for name in names {
        bench.fact_of(name, Fact::PowerRemembered { power: Power::Off });
    }
    bench.settle();
    for name in names {
        bench.fact_of(name, disks());
        let (disk, root) = (DiskKey::new("disk1"), "r".to_owned());
        bench.fact_of(name, Fact::DiskCopied { disk, written: Bytes(1), root });
        bench.later(1);
    }
    bench
}

impl Bench {
    fn fact_of(&mut self, vm: &str, fact: Fact) -> &mut Self {
        let run = self.progress.moving().map(|run| run.begun.run()).find(|run| vm_of(run) == vm);
        let run = run.unwrap().clone();
        self.progress.apply(self.now, &Entry::Run { run, fact }).unwrap();
        self
    }
}

#[test]
fn a_guest_is_converted_between_its_copy_and_its_vm() {
    let mut bench = copied(&["web01"]);
    check(bench.settle(), expect!["web01 do ConfirmForConversion (cleared)"]);
    bench.fact(Fact::ConversionIntended);
    check(bench.settle(), expect!["web01 do StartConversion (cleared)"]);
    bench.worker = Some(WorkerState::Running);
    check(bench.settle(), expect!["web01 waits Converting"]);
    bench.fact(Fact::Converted { warnings: vec!["no agent".to_owned()] });
    check(bench.settle(), expect!["web01 waits Converting"]);
    bench.worker = None;
    check(bench.settle(), expect!["web01 do StartConversion (cleared)"]);
    bench.fact(Fact::DiskCommitted { disk: DiskKey::new("disk1") });
    check(bench.settle(), expect!["web01 do ConfirmCopy (cleared)"]);
    bench.fact(Fact::CreateIntended);
    check(bench.settle(), expect!["web01 do CreateVm (cleared)"]);
}

#[test]
fn as_many_guests_are_converted_at_once_as_the_settings_say() {
    let mut bench = copied(&["web01", "web02", "web03"]);
    for name in ["web02", "web03", "web01"] {
        bench.fact_of(name, Fact::ConversionIntended).later(1);
    }
    check(
        bench.settle(),
        expect![[r#"
        web02 do StartConversion (cleared)
        web01 waits Converter { at: 3 }
        web03 waits Converter { at: 2 }"#]],
    );
    // One that policy holds back keeps no place from others.
    bench.blocked = Some("web02");
    check(
        bench.settle(),
        expect![[r#"
        web03 do StartConversion (cleared)
        web01 waits Converter { at: 2 }
        web02 waits Blocked"#]],
    );
    bench.blocked = None;
    // One that failed keeps no place while it rests.
    let fault = fault(Disposition::Stall(Mend::Person));
    bench.fact_of("web02", Fact::Tried(fault.clone())).fact_of("web02", Fact::Stalled(fault));
    check(
        bench.settle(),
        expect![[r#"
        web03 do StartConversion (cleared)
        web01 waits Converter { at: 2 }
        web02 waits Stalled(Fault { text: "it broke", remedy: "mend it", disposition: Stall(Person) })"#]],
    );
}

#[test]
fn a_conversion_is_stopped_with_the_process_and_by_the_brake() {
    let mut bench = copied(&["web01"]);
    bench.fact(Fact::ConversionIntended);
    bench.worker = Some(WorkerState::Running);
    for brake in [Brake::Stopping, Brake::Held] {
        bench.brake = brake;
        check(bench.settle(), expect!["web01 do StopWorker (begun)"]);
    }
    bench.worker = None;
    check(bench.settle(), expect!["web01 waits Brake"]);
}

#[test]
fn a_disk_that_was_converted_is_never_taken_for_a_copy() {
    for (converted, adopted) in [(false, "AreaAdopted"), (true, "RemovalIntended")] {
        let mut bench = copied(&["web01"]);
        bench.fact(Fact::ConversionIntended);
        if converted {
            bench.fact(Fact::Converted { warnings: Vec::new() });
        }
        let settled = bench.again();
        assert!(settled.starts_with(&format!("web01 {adopted}")), "{converted}: {settled}");
    }
}

#[test]
fn a_window_holds_the_conversion_as_well() {
    let rule = Rule::new("0 12 * * *", SignedDuration::from_mins(20), "Etc/UTC", None).unwrap();
    let window = Window { name: "noon".to_owned(), allow: vec![rule], deny: Vec::new() };
    let mut bench = Bench::ova(&["web01"]);
    bench.calendar = Arc::new(Calendar::new(vec![window], None));
    assert!(bench.settle().starts_with("web01 Began"));
    let mut converted = Bench { convert: true, calendar: bench.calendar, ..Bench::ova(&["web01"]) };
    check(
        converted.settle(),
        expect![[
            r#"web01 waits Window { by: "25 m 1 s do not fit before the window closes", opens: None }"#
        ]],
    );
}

#[test]
fn nothing_is_converted_in_a_vm_that_was_made() {
    for (convert, adopted) in [(false, "AreaAdopted"), (true, "RemovalIntended")] {
        let mut bench = copied(&["web01"]);
        let area = bench.progress.moving().next().unwrap().area().unwrap().clone();
        let made = TargetVm { made_by: Some(area), power: None };
        bench.target.vms.insert(TargetName::new("web01"), made);
        bench.fact(Fact::UndoBegan { why: Abandon::Canceled }).fact(Fact::Undone);
        bench.convert = convert;
        bench.request("m2");
        bench.settle();
        bench.fact(Fact::PowerRemembered { power: Power::Off });
        let settled = bench.settle();
        assert!(settled.starts_with(&format!("web01 {adopted}")), "{convert}: {settled}");
    }
}

#[test]
fn a_guest_begins_where_there_is_room_for_its_conversion() {
    let mut bench = Bench { convert: true, ..Bench::ova(&["web01", "web02"]) };
    bench.target.free = Bytes::mib(1024);
    check(
        bench.settle(),
        expect![[r#"
        web01 waits Space { needed: Bytes(1077936128), free: Bytes(1073741824) }
        web02 waits Space { needed: Bytes(1077936128), free: Bytes(1073741824) }"#]],
    );
    // Only one is converted at a time.
    bench.target.free = Bytes::mib(1024 + 6);
    check(
        bench.settle(),
        expect![[r#"
        web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)
        web02 waits Space { needed: Bytes(4194304), free: Bytes(2097152) }"#]],
    );
    // What is copied and committed takes its room of what is free.
    let mut bench = copied(&["web01"]);
    bench.vms.push(vm("web02", Power::Off, Claim::Impossible));
    bench.target.free = Bytes::mib(1024 + 2);
    check(
        bench.settle(),
        expect![[r#"
        web01 do ConfirmForConversion (cleared)
        web02 waits Space { needed: Bytes(4194304), free: Bytes(0) }"#]],
    );
    bench.fact_of("web01", Fact::ConversionIntended);
    bench.fact_of("web01", Fact::Converted { warnings: Vec::new() });
    check(
        bench.settle(),
        expect![[r#"
        web01 do StartConversion (cleared)
        web02 waits Space { needed: Bytes(4194304), free: Bytes(0) }"#]],
    );
    bench.fact_of("web01", Fact::DiskCommitted { disk: DiskKey::new("disk1") });
    bench.target.free = Bytes::mib(1024 + 4);
    check(
        bench.settle(),
        expect![[r#"
        web01 do ConfirmCopy (cleared)
        web02 waits Space { needed: Bytes(1077936128), free: Bytes(1073741825) }"#]],
    );
}
