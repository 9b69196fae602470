//! With a libvirt: its domains beside the folders, in every order that people and crashes can bring about.

use std::fs;

use super::*;

/// The UUID that is derived from the area of the tests.
const OWN: &str = "c44cbc34-d7af-83b9-b27e-329a6c281aa0";
const OTHER: &str = "11111111-d7af-83b9-b27e-329a6c281aa0";

/// What stands in the folder of a VM that was defined.
const HOSTED: [&str; 6] = [MADE[0], MADE[1], MADE[2], MADE[3], MADE[4], "web-01/libvirt.uri"];

fn look(bench: &Bench) -> Option<TargetVm> {
    bench.target.look(&bench.site, &bench.name).unwrap()
}

fn start(bench: &Bench) -> Result<Power, PortError> {
    bench.target.start(&bench.site, &bench.area, &bench.name)
}

fn ours(bench: &Bench, power: Power) -> TargetVm {
    TargetVm { made_by: Some(bench.area.clone()), power: Some(power) }
}

fn foreign(power: Power) -> TargetVm {
    TargetVm { made_by: None, power: Some(power) }
}

#[test]
fn a_vm_is_defined_and_started_and_every_effect_may_come_twice() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    assert!(bench.target.observe(&bench.site).unwrap().starts);
    let files = Bench::new();
    assert!(!files.target.observe(&files.site).unwrap().starts);
    bench.disks().unwrap();
    assert!(start(&bench).unwrap_err().to_string().contains("gone"));
    assert_eq!(fake.effects(), [""; 0]);
    for _ in 0..2 {
        bench.make_vm().unwrap();
        assert_eq!(look(&bench), Some(ours(&bench, Power::Off)));
    }
    assert_eq!(bench.listing(), HOSTED);
    assert_eq!(fake.effects(), ["define /dev/stdin"]);
    for _ in 0..2 {
        assert_eq!(start(&bench).unwrap(), Power::On);
        assert_eq!(look(&bench), Some(ours(&bench, Power::On)));
    }
    assert_eq!(fake.effects(), [format!("start {OWN}")]);
    let vms = bench.target.observe(&bench.site).unwrap().vms;
    assert_eq!(vms, BTreeMap::from([(bench.name.clone(), ours(&bench, Power::On))]));

    let error = bench.remove().unwrap_err();
    assert!(error.fault.text.contains("runs in test:///fake"), "{error}");
    assert!(error.fault.remedy.contains(&format!("shutdown {OWN}")), "{error}");
    assert_eq!((bench.listing().len(), fake.effects()), (HOSTED.len(), Vec::new()));
    fake.put(&format!("domains/{OWN}"), "off web-01");
    for _ in 0..2 {
        bench.remove().unwrap();
        assert_eq!((look(&bench), bench.listing()), (None, Vec::new()));
    }
    assert_eq!(
        fake.effects(),
        [format!("undefine {OWN} --nvram --managed-save --snapshots-metadata")]
    );
}

#[test]
fn a_vm_whose_domain_is_in_another_libvirt_is_not_deleted() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    bench.make_vm().unwrap();
    let stands = bench.listing();
    let files = Bench { target: bench.target.with_libvirt(None), ..bench };
    let error = files.remove().unwrap_err();
    let said = "was defined in test:///fake, which `libvirt.uri` does not name any more";
    assert!(error.fault.text.contains(said), "{error}");
    assert_eq!(files.listing(), stands);
    fs::remove_file(files.path.join("web-01/libvirt.uri")).unwrap();
    files.remove().unwrap();
    assert_eq!(files.listing(), [""; 0]);
}

#[test]
fn a_domain_of_somebody_else_takes_its_name_before_anything_is_renamed() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    fake.put(&format!("domains/{OTHER}"), "on web-01");
    assert_eq!(look(&bench), Some(foreign(Power::On)));
    let vms = bench.target.observe(&bench.site).unwrap().vms;
    assert_eq!(vms, BTreeMap::from([(bench.name.clone(), foreign(Power::On))]));
    for error in [bench.make_vm().unwrap_err(), bench.disks().unwrap_err()] {
        assert!(error.to_string().contains("has a domain web-01 already"), "{error}");
    }
    assert_eq!(bench.listing(), AREA);
    bench.remove().unwrap();
    assert_eq!((bench.listing(), fake.effects()), (Vec::new(), Vec::new()));
    fs::create_dir(bench.at("web-01")).unwrap();
    assert_eq!(look(&bench), Some(foreign(Power::On)));
}

#[test]
fn a_name_that_is_taken_in_the_last_moment_is_left_to_its_taker() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    let theirs = format!("echo 'off web-01' > {OTHER}; exit 1");
    fake.put(
        "first-define",
        &format!("mkdir -p \"$here/domains\"; cd \"$here/domains\"; {theirs}"),
    );
    for _ in 0..2 {
        let error = bench.make_vm().unwrap_err();
        assert!(error.to_string().contains("has a domain web-01 already"), "{error}");
    }
    // Its folder stands, and is not what has the name: nothing is started.
    assert_eq!((bench.listing().len(), look(&bench)), (HOSTED.len(), Some(foreign(Power::Off))));
    assert!(start(&bench).is_err());
    bench.remove().unwrap();
    assert_eq!((bench.listing(), look(&bench)), (Vec::new(), Some(foreign(Power::Off))));
    assert_eq!(fake.effects(), ["define /dev/stdin"]);
}

#[test]
fn replies_may_be_lost_and_effects_may_have_happened() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    for command in ["define", "start", "undefine"] {
        fake.put(&format!("lost-{command}"), "error: connection reset");
    }
    bench.make_vm().unwrap();
    assert_eq!(start(&bench).unwrap(), Power::On);
    fake.put(&format!("domains/{OWN}"), "off web-01");
    bench.remove().unwrap();
    assert_eq!((look(&bench), bench.listing()), (None, Vec::new()));
}

#[test]
fn what_failed_between_two_steps_goes_on_there() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    fake.put("fail-define", "error: no such network");
    let error = bench.make_vm().unwrap_err();
    assert!(error.fault.text.ends_with("failed: no such network"), "{error}");
    assert_eq!(
        (bench.listing().len(), look(&bench)),
        (HOSTED.len(), Some(ours(&bench, Power::Off)))
    );
    assert!(start(&bench).is_err());
    fake.take("fail-define");
    bench.make_vm().unwrap();
    // Somebody undefines it, and it is defined again to be started.
    fs::remove_file(fake.folder().join("domains").join(OWN)).unwrap();
    fake.put("fail-start", "error: Cannot access storage file: Permission denied");
    let error = start(&bench).unwrap_err();
    assert!(error.fault.text.ends_with("storage file: Permission denied"), "{error}");
    assert_eq!(look(&bench), Some(ours(&bench, Power::Off)));
    fake.take("fail-start");
    // It ends at once.
    fake.put("first-start", "exit 0");
    assert_eq!(start(&bench).unwrap(), Power::Off);
    // Under another name it is the same.
    fake.put(&format!("domains/{OWN}"), "on web-renamed");
    assert_eq!((start(&bench).unwrap(), look(&bench)), (Power::On, Some(ours(&bench, Power::On))));
}

#[test]
fn a_domain_that_is_started_while_it_is_undefined_keeps_its_disks() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    bench.make_vm().unwrap();
    fake.put("first-undefine", &format!("echo 'on web-01' > \"$here/domains/{OWN}\""));
    assert!(bench.remove().unwrap_err().fault.text.contains("runs in"));
    assert_eq!(bench.listing(), HOSTED);
}

#[test]
fn a_domain_file_of_another_domain_is_not_defined() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    fake.put("fail-define", "error: not now");
    bench.make_vm().unwrap_err();
    fake.effects();
    let file = bench.at("web-01/domain.xml");
    let text = fs::read_to_string(&file).unwrap();
    for broken in [Some(text.replace(OWN, OTHER)), None] {
        match broken {
            Some(broken) => fs::write(&file, broken).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        for error in [start(&bench).unwrap_err(), bench.make_vm().unwrap_err()] {
            assert!(error.fault.text.contains("is gone or has another UUID"), "{error}");
        }
    }
    assert_eq!(fake.effects(), [""; 0]);
}

#[test]
fn nothing_is_concluded_or_done_while_libvirt_does_not_answer() {
    let fake = Fake::new();
    let bench = Bench::hosted(&fake);
    bench.disks().unwrap();
    let check = |listing: &[&str]| {
        fake.put("fail-list", "error: failed to connect to the hypervisor");
        let errors = [
            bench.target.observe(&bench.site).map(drop).unwrap_err(),
            bench.target.look(&bench.site, &bench.name).map(drop).unwrap_err(),
            bench.make_vm().unwrap_err(),
            start(&bench).map(drop).unwrap_err(),
            bench.remove().unwrap_err(),
        ];
        for (index, error) in errors.iter().enumerate() {
            let said = error.fault.text.contains("failed to connect to the hypervisor");
            // Without a folder there is nothing to start, whatever libvirt says.
            assert!(said || (index == 3 && listing == AREA), "{error}");
        }
        assert_eq!(bench.listing(), listing);
        fake.take("fail-list");
    };
    check(&AREA);
    bench.make_vm().unwrap();
    check(&HOSTED);
    assert_eq!(fake.effects(), ["define /dev/stdin"]);
}
