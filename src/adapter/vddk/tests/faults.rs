//! What goes wrong, and what a person reads then.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use expect_test::{Expect, expect};
use vddk_stub::config::{Does, Fault, On};

use super::ERRAND;
use super::Outcome;
use super::bench::Bench;
use crate::adapter::worker::Subprocesses;
use crate::copy::protocol::{CopyJob, FromWorker, Job, News};
use crate::domain::id::{MigrationName, RunId, SourceVm};
use crate::domain::unit::Bytes;
use crate::manifest::document::Verify;
use crate::port::Workers as _;

fn fault(on: On, nth: u64, times: u64, does: Does) -> Fault {
    Fault { on, nth, times, does }
}

/// Copies with something that is wrong, and checks what is said.
#[track_caller]
fn check(wrong: impl FnOnce(&mut Bench), expected: Expect) {
    let mut bench = Bench::small();
    wrong(&mut bench);
    expected.assert_eq(&bench.fails());
}

/// Copies with something that passes.
#[track_caller]
fn passes(wrong: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::small();
    wrong(&mut bench);
    bench.copies();
}

#[test]
fn the_mistakes_of_operators_are_named() {
    check(
        |bench| bench.errand.thumbprint = "00:11".to_owned(),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 1 (FAIL: Unknown error); it last logged `SSL: the thumbprint does not match the certificate`
        hint: this is nearly always a wrong thumbprint: 00:11 is not SHA-1 of the certificate of vc.example (`openssl s_client -connect vc.example:443 </dev/null | openssl x509 -noout -fingerprint -sha1`)
    "#]],
    );
    check(
        |bench| bench.errand.password = "canary wrong".to_owned(),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered ConnectEx with error 35 (AUTHENTICATION_FAIL: Insufficient permissions in the host operating system); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: check the credentials of ferry at vc.example:443
    "#]],
    );
    check(
        |bench| bench.errand.session = Some("canary-old".to_owned()),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered ConnectEx with error 35 (AUTHENTICATION_FAIL: Insufficient permissions in the host operating system); it last logged `stub of VDDK 8 started`, `login with vmware_soap_session=…`
        hint: check the credentials of ferry at vc.example:443
    "#]],
    );
    check(
        |bench| bench.errand.vm = "vm-13".to_owned(),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-13 on vc.example:443: VDDK answered ConnectEx with error 4000 (VM_NOT_FOUND: words for 4000); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: vm-13 is no VM of vc.example: the same one has another id at its vCenter than at its ESXi host
    "#]],
    );
    check(
        |bench| bench.errand.snapshot = Some("snapshot-8".to_owned()),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 at snapshot-8 on vc.example:443: VDDK answered ConnectEx with error 13003 (SNAPSHOT_NOTFOUND: words for 13003); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: the disk, or its snapshot, is not what it was: begin again
    "#]],
    );
    check(
        |bench| bench.errand.disk = "[ds1] moved.vmdk".to_owned(),
        expect![[r#"
        stall: cannot open `[ds1] moved.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 4 (FILE_NOT_FOUND: words for 4); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: the disk, or its snapshot, is not what it was: begin again
    "#]],
    );
    let mut bench = Bench::small();
    bench.errand.vm = "vm\0".to_owned();
    assert!(bench.fails().contains("ConnectEx with error 3 (INVALID_ARG: a text holds a NUL)"));
}

#[test]
fn errors_of_the_server_stop_with_what_to_do() {
    let opens = |code| {
        move |bench: &mut Bench| bench.config.faults.push(fault(On::Open, 1, 9, Does::Error(code)))
    };
    check(
        opens(3014),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 3014 (HOST_USER_PERMISSIONS: words for 3014); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: give ferry the privileges VirtualMachine.Provisioning.DiskRandomRead and VirtualMachine.Provisioning.GetVmFiles
    "#]],
    );
    check(
        opens(17_002),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 17002 (words for 17002); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: the disk is encrypted: decrypt it, or give the user the privileges of the Cryptographer group
    "#]],
    );
    check(
        opens(3046),
        expect![[r#"
        again: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 3046 (TOO_MANY_LOGONS: words for 3046); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: the session ended, or too many are open: close those that nobody uses
    "#]],
    );
    check(
        opens(16_064),
        expect![[r#"
        stall: cannot open `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443: VDDK answered Open with error 16064 (DISK_NOLICENSE: words for 16064); it last logged `stub of VDDK 8 started`, `login with password …`
        hint: the log of VDDK may tell more (`--log debug`); its `bin64/vixDiskCheck` reads the same disk without ferry
    "#]],
    );
    let reads = |code| {
        move |bench: &mut Bench| bench.config.faults.push(fault(On::Read, 3, 99, Does::Error(code)))
    };
    check(
        reads(7),
        expect![[r#"
        stall: cannot read `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443 at byte N: VDDK answered ReadAsync with error 7 (FILE_ERROR); it last logged `stub of VDDK 8 started`, `login with password …`, `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`
        hint: the log of VDDK may tell more (`--log debug`); its `bin64/vixDiskCheck` reads the same disk without ferry
    "#]],
    );
    check(
        reads(16_007),
        expect![[r#"
        stall: cannot read `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443 at byte N: VDDK answered ReadAsync with error 16007 (DISK_OUTOFRANGE); it last logged `stub of VDDK 8 started`, `login with password …`, `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`
        hint: the disk, or its snapshot, is not what it was: begin again
    "#]],
    );
}

#[test]
fn a_lost_connection_is_made_again_and_what_was_on_its_way_is_asked_again() {
    passes(|bench| bench.config.faults.push(fault(On::Read, 5, 1, Does::Lose)));
    passes(|bench| bench.config.faults.push(fault(On::Read, 5, 1, Does::Error(36))));
    passes(|bench| {
        bench.config.round_trip_micros = 2000;
        bench.config.faults.push(fault(On::Read, 2, 1, Does::Lose));
        bench.config.faults.push(fault(On::Open, 2, 1, Does::Error(14_009)));
        bench.config.faults.push(fault(On::Connect, 3, 1, Does::Error(18_000)));
    });
    passes(|bench| bench.config.faults.push(fault(On::Query, 2, 1, Does::Lose)));
    passes(|bench| bench.config.faults.push(fault(On::Open, 1, 2, Does::Error(30_028))));
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    check(
        |bench| {
            bench.config.faults.push(fault(On::Read, 1, 1, Does::Lose));
            bench.config.faults.push(fault(On::Connect, 2, 99, Does::Error(14_009)));
        },
        expect![[r#"
            again: cannot read `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443 at byte N: VDDK answered ConnectEx with error 14009 (HOST_NETWORK_CONN_REFUSED: words for 14009); it last logged `stub of VDDK 8 started`, `login with password …`, `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`
            hint: see whether vc.example:443, and port 902 of the ESXi hosts, are reached from here, and whether they are well
        "#]],
    );
    check(
        |bench| bench.config.faults.push(fault(On::Read, 1, 999, Does::Lose)),
        expect![[r#"
        again: cannot read `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443 at byte N: VDDK answered ReadAsync with error 14011 (HOST_TCP_CONN_LOST); it last logged `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`, `login with password …`, `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`
        hint: see whether vc.example:443, and port 902 of the ESXi hosts, are reached from here, and whether they are well
    "#]],
    );
}

#[test]
fn another_size_after_a_loss_is_refused() {
    check(
        |bench| {
            bench.errand.resized = Some(1 << 20);
            bench.config.faults.push(fault(On::Read, 2, 1, Does::Lose));
        },
        expect![[r#"
            stall: cannot read `[ds1] web01/web01.vmdk` of vm-12 on vc.example:443 at byte N: the disk had 33555968 bytes and has 1048576 now; it last logged `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`, `login with password …`, `NBD_ClientOpen: opened [ds1] web01/web01.vmdk`
            hint: the disk, or its snapshot, is not what it was: begin again
        "#]],
    );
}

#[test]
fn a_server_without_memory_is_asked_for_less() {
    for memory in [3 << 20, 1 << 19, 1 << 16] {
        passes(|bench| {
            bench.config.round_trip_micros = 1000;
            bench.config.nfc_memory_bytes = memory;
        });
    }
    let mut bench = Bench::small();
    bench.config.nfc_memory_bytes = 1 << 15;
    let said = bench.fails();
    assert!(said.starts_with("again: cannot read `[ds1] web01/web01.vmdk`"), "{said}");
    assert!(said.contains("error 2 (OUT_OF_MEMORY); it last logged `NFC error 5"), "{said}");
    assert!(said.contains("let fewer disks be copied from it at once"), "{said}");
}

#[test]
fn what_is_not_told_of_allocation_is_read() {
    for (nth, times) in [(1, 99), (2, 1)] {
        passes(|bench| bench.config.faults.push(fault(On::Query, nth, times, Does::Error(6))));
    }
}

/// VDDK's own checksum is none: only who reads a second time sees it.
#[test]
fn a_flipped_bit_is_another_disk() {
    let mut bench = Bench::small();
    let Outcome::Copied { root, .. } = bench.copy() else { panic!("nothing is wrong") };
    bench.config.faults.push(fault(On::Read, 3, 1, Does::Flip));
    let Outcome::Copied { root: flipped, .. } = bench.copy() else { panic!("nobody sees it") };
    assert_ne!(root, flipped);
    assert!(!bench.is_same("target.raw"));
}

#[test]
fn what_is_never_answered_is_said_until_the_worker_is_ended() {
    for (on, nth, expected) in [
        (On::Open, 1, r#"what="open a disk" seconds="#),
        (On::Query, 2, r#"what="tell what is allocated" seconds="#),
        (On::Read, 3, r#"what="read" offset="#),
    ] {
        let mut bench = Bench::small();
        bench.config.faults.push(fault(on, nth, 1, Does::Hang));
        let mut worker = bench.start();
        let log = BufReader::new(worker.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let line = std::iter::from_fn(|| lines.recv_timeout(Duration::from_mins(1)).ok())
            .find(|line| line.contains("waiting for VDDK") && line.contains(expected))
            .expect("it is said within a minute");
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert!(line.contains(" WARN "), "{line}");
    }
}

#[test]
fn a_crash_of_the_library_ends_the_worker_and_nothing_else() {
    for on in [On::Open, On::Read] {
        let mut bench = Bench::small();
        bench.config.faults.push(fault(on, 1, 1, Does::Crash));
        bench.install();
        // A controller listens to its output as long as it is open.
        let script = format!(
            "#!/bin/sh\nexport {ERRAND}={} LD_LIBRARY_PATH={}\nexec {} --exact adapter::vddk::tests::errand --nocapture 3>&1 >/dev/null\n",
            bench.errand().display(),
            bench.at("lib64").display(),
            std::env::current_exe().unwrap().display()
        );
        fs::write(bench.at("worker"), script).unwrap();
        fs::set_permissions(bench.at("worker"), fs::Permissions::from_mode(0o755)).unwrap();
        let (wake, woken) = channel();
        let workers = Subprocesses::new(
            bench.at("worker"),
            Box::new(move || wake.send(()).unwrap_or_default()),
        );
        let job = CopyJob {
            run: RunId {
                vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
                migration: MigrationName::new("m"),
                attempt: 1,
            },
            disks: Vec::new(),
            verify: Verify::None,
            allow_paths: Vec::new(),
            memory: Bytes::mib(1),
            checkpoint_every: Bytes(1),
            access: None,
        };
        workers.start(Job::Copy(job)).unwrap();
        woken.recv_timeout(Duration::from_mins(1)).unwrap();
        let said = workers.take().pop().map(|event| event.said);
        let Some(FromWorker::Said { news: News::Failed(fault), .. }) = said else {
            panic!("{said:?}")
        };
        let logged = match on {
            On::Open => "VDDK logged line=\\\"login with password …\\\"`",
            On::Connect | On::Query | On::Read => " tells=true`",
        };
        let text = fault.text;
        assert!(text.starts_with("the worker ended unexpectedly: signal: 6 (SIGABRT)"), "{text}");
        assert!(text.ends_with(logged), "{text}");
    }
}
