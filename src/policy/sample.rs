//! Plans, VMs and a world for the tests of `policy`, `preview` and `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::desired::{Desired, Network, PlanWanted, Selector, Site, VmWanted, Wanted};
use crate::domain::id::{
    Digest, DiskKey, PlanName, ProviderName, SourceVm, TargetName, Token, VmKey, VmName,
};
use crate::domain::unit::Bytes;
use crate::domain::vm::{
    Checksum, Claim, Disk, DiskFormat, Firmware, Hosted, Nic, Power, SourceDisk, Vm,
};
use crate::manifest::diagnostic::Place;
use crate::manifest::document::{NetworkType, OnFailure, PlanType, TargetPowerState, Verify};
use crate::observed::{Observed, Seen, SourceState, TargetState, TargetVm};
use crate::policy::{Judge, Verdict};

/// A second of the day that all samples happen on.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

pub(crate) fn place(line: u32) -> Place {
    Place { file: "plans/web.yaml".into(), line, column: 5 }
}

/// A VM without any concern.
pub(crate) fn vm(name: &str) -> Vm {
    let id =
        SourceVm::Ova { archive: format!("{:08x}", name.len() * 7919).into(), system: name.into() };
    let disk = Disk {
        key: DiskKey::new("vmdisk1"),
        capacity: Bytes::mib(1024),
        stored: Some(Bytes::mib(300)),
        format: DiskFormat::StreamOptimized,
        checksum: Checksum::Sha256("ab".repeat(32)),
        source: SourceDisk(format!("/srv/ova/{name}.ova")),
    };
    Vm {
        id,
        name: name.into(),
        path: format!("{name}.ova/{name}"),
        power: Power::Off,
        firmware: Some(Firmware::Efi),
        secure_boot: false,
        tpm: false,
        cpus: Some(2),
        cores_per_socket: None,
        memory: Some(Bytes::mib(2048)),
        os: Some("debian12_64Guest".into()),
        disks: vec![disk],
        nics: vec![Nic { network: "VM Network".into(), mac: Some("00:50:56:00:00:01".into()) }],
        claim: Claim::Impossible,
        hosted: Hosted::default(),
    }
}

pub(crate) fn desired(plan: &str, name: &str) -> Desired {
    let network = Network { kind: NetworkType::Pod, name: None };
    Desired {
        key: VmKey { plan: PlanName::new(plan), vm: VmName::new(name) },
        place: place(12),
        source: ProviderName::new("archive"),
        source_site: Site::Ova { path: "/srv/ova".into() },
        selector: Selector::Name(name.into()),
        target: ProviderName::new("rack"),
        target_site: Site::folder("/srv/vms"),
        target_name: None,
        kind: PlanType::Cold,
        networks: Some(Arc::new(BTreeMap::from([("VM Network".to_owned(), network)]))),
        power: TargetPowerState::Auto,
        skip_guest_conversion: true,
        shutdown_timeout_s: 600,
        shutdown_force: false,
        verify: Verify::Changed,
        on_failure: OnFailure::Keep,
    }
}

pub(crate) fn entry(plan: &str, name: &str) -> VmWanted {
    let desired = desired(plan, name);
    VmWanted {
        key: desired.key.clone(),
        place: desired.place.clone(),
        entry: Digest::new("entry"),
        desired: Some(Arc::new(desired)),
        findings: Vec::new(),
    }
}

pub(crate) fn wanted(plans: &[(&str, &[&str])]) -> Wanted {
    let plans = plans.iter().map(|(plan, vms)| {
        let vms = vms.iter().map(|name| entry(plan, name)).collect();
        let wanted = PlanWanted {
            description: None,
            source: "archive".into(),
            target: "rack".into(),
            kind: PlanType::Cold,
            archived: false,
            calendar: Arc::default(),
            place: place(1),
            vms,
        };
        (PlanName::new(plan), Arc::new(wanted))
    });
    Wanted { plans: plans.collect(), ..Wanted::default() }
}

pub(crate) fn world(vms: Vec<Vm>) -> Observed {
    let vms = vms.into_iter().map(Arc::new).collect();
    let source = SourceState { vms, gaps: Vec::new(), clock: None };
    let free = Bytes::mib(1 << 20);
    let target = TargetState { free, starts: true, ..TargetState::default() };
    Observed {
        sources: BTreeMap::from([(
            ProviderName::new("archive"),
            Seen { at: at(0), state: Ok(source) },
        )]),
        targets: BTreeMap::from([(
            ProviderName::new("rack"),
            Seen { at: at(0), state: Ok(target) },
        )]),
        ..Observed::default()
    }
}

pub(crate) fn source(observed: &mut Observed) -> &mut SourceState {
    observed.sources.values_mut().next().unwrap().state.as_mut().unwrap()
}

/// Puts something under a name on the target.
pub(crate) fn occupy(observed: &mut Observed, name: &str, made_by: Option<&str>) {
    let target = observed.targets.values_mut().next().unwrap().state.as_mut().unwrap();
    let made_by = made_by.map(Token::new);
    target.vms.insert(TargetName::new(name), TargetVm { made_by, power: None });
}

/// Judges everything in a second after the look.
pub(crate) fn clear(wanted: &Wanted, observed: &Observed) -> Vec<Verdict> {
    Judge::new().clear(wanted, observed, &BTreeSet::new(), at(1))
}

/// The first plan, to change it.
pub(crate) fn first(wanted: &mut Wanted) -> &mut PlanWanted {
    Arc::make_mut(wanted.plans.values_mut().next().unwrap())
}

/// What an entry wants, to change it.
pub(crate) fn wish(entry: &mut VmWanted) -> &mut Desired {
    Arc::make_mut(entry.desired.as_mut().unwrap())
}

/// A VM of the source, to change it.
pub(crate) fn seen(observed: &mut Observed, index: usize) -> &mut Vm {
    Arc::make_mut(&mut source(observed).vms[index])
}
