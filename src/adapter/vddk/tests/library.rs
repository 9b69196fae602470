//! Which libraries are loaded, and which are not.

use std::fs;
use std::process::Command;

use expect_test::expect;

use super::Outcome;
use super::bench::{Bench, COOKIE, OTHER, died, make_decoy, said};

#[test]
fn disks_of_any_size_are_copied_by_any_version() {
    let gibibytes = |count: u64| count << 30;
    for capacity in [512, 65_536 - 512, 65_536, 65_536 + 512, (1 << 20) + 1536, (9 << 20) + 512] {
        let bench = Bench::new(capacity, &[0, capacity - 512]);
        assert_eq!(bench.copies(), "8");
    }
    let mut bench = Bench::small();
    for (version, without) in [
        (9, vec![]),
        (7, vec![]),
        (6, vec![]),
        (6, vec!["VixDiskLib_QueryAllocatedBlocks", "VixDiskLib_FreeBlockList"]),
        (6, vec!["VixDiskLib_FreeBlockList", "VixDiskLib_AllocateConnectParams"]),
    ] {
        bench.config.pose_as = version;
        bench.config.without = without.into_iter().map(str::to_owned).collect();
        let _ = fs::remove_dir_all(bench.at("lib64"));
        assert_eq!(bench.copies(), version.to_string());
    }
    // Windows of allocation are 32 GiB; this one has 65, and an end that is no chunk.
    let places = [0, gibibytes(32) - 100_000, gibibytes(64), gibibytes(2048) - 99, gibibytes(2050)];
    Bench::new(gibibytes(2050) + 300_032, &places).copies();
}

#[test]
fn a_session_saves_a_login_and_several_disks_are_read_one_after_another() {
    let mut bench = Bench::small();
    bench.errand.password = "unused".to_owned();
    bench.errand.session = Some(COOKIE.to_owned());
    bench.errand.snapshot = Some("snapshot-9".to_owned());
    bench.errand.transports = Some("nbd:nbdssl".to_owned());
    bench.copies();
    bench.errand.snapshot = None;
    bench.errand.before = Some(OTHER.to_owned());
    bench.copies();
    assert!(bench.is_same("before.raw"));
}

#[test]
fn what_is_no_library_is_named() {
    let mut bench = Bench::small();
    let check = |outcome: Outcome, bench: &Bench, expected: expect_test::Expect| {
        expected.assert_eq(&said(outcome).replace(bench.errand.folder.to_str().unwrap(), "/vddk"));
    };
    check(
        bench.run(),
        &bench,
        expect![[r#"
        stall: there is no VDDK in /vddk: neither it nor its folder lib64 holds libvixDiskLib.so.9, .8, .7 or .6
        hint: unpack VMware's VDDK for Linux, 6.7 or newer, and name its folder vmware-vix-disklib-distrib
    "#]],
    );
    fs::create_dir(bench.at("lib64")).unwrap();
    fs::write(bench.at("lib64/libvixDiskLib.so.8"), "no library").unwrap();
    check(
        bench.run(),
        &bench,
        expect![[r#"
        stall: /vddk/lib64/libvixDiskLib.so.8 cannot be loaded: /vddk/lib64/libvixDiskLib.so.8: file too short
        hint: unpack VMware's VDDK for Linux on x86-64 again, all of it: it needs the other files of its lib64
    "#]],
    );
    bench.config.without = vec!["VixDiskLib_Wait".to_owned()];
    bench.install();
    check(
        bench.run(),
        &bench,
        expect![[r#"
        stall: /vddk/lib64/libvixDiskLib.so.8 has no VixDiskLib_Wait, so it is older than VDDK 6.5 or no VDDK
        hint: take VMware's VDDK 6.7 or newer
    "#]],
    );
    // One that is whole beside them is found.
    bench.config.without.clear();
    bench.config.pose_as = 6;
    assert_eq!(bench.copies(), "6");
}

/// The worker finds VMware's own copies of these beside the library, as `LD_LIBRARY_PATH` says, and must not load them.
#[test]
fn nothing_else_of_the_librarys_folder_is_loaded() {
    let bench = Bench::small();
    bench.install();
    let names = ["libssl.so.3", "libssl.so.1.1", "libcrypto.so.3", "libcrypto.so.1.1", "libz.so.1"];
    let decoys = names.map(|name| bench.at("lib64").join(name));
    make_decoy(&decoys[0]);
    for decoy in &decoys[1..] {
        fs::copy(&decoys[0], decoy).unwrap();
    }
    assert!(matches!(bench.run(), Outcome::Copied { .. }));
    for decoy in decoys {
        let loaded = Command::new("true").env("LD_PRELOAD", decoy).output().unwrap();
        assert_eq!(died(&loaded).0, Some(6), "the decoy bites");
    }
}
