//! The checks that need the plan beside the VM, in Rust since they look things up in the mappings.

use std::collections::BTreeSet;

use crate::manifest::diagnostic::Severity;
use crate::manifest::document::PlanType;
use crate::policy::input::{Input, NicInput};
use crate::policy::rules::{Concern, ConcernPage};

/// The pages of these checks and of those of `policy::target` and the lookup, as (id, category, label, assessment, remedy).
type Row = (&'static str, Severity, &'static str, &'static str, &'static str);

pub(super) const NETWORK_UNMAPPED: Row = (
    "plan.network.unmapped",
    Severity::Critical,
    "Network without a mapping",
    "A network card of the VM lies in a network that the plan's NetworkMapping does not name, so nobody said what becomes of it.",
    "Add an entry for the network to the NetworkMapping (`type: ignored` leaves the card out)",
);

pub(super) const NETWORK_NO_MAPPING: Row = (
    "plan.network.mapping.missing",
    Severity::Critical,
    "Plan without a network mapping",
    "The VM has network cards and the plan names no NetworkMapping.",
    "Name a NetworkMapping in the plan's `map.network`",
);

pub(super) const NETWORK_IGNORED: Row = (
    "plan.network.ignored",
    Severity::Information,
    "Network card is left out",
    "The NetworkMapping says `type: ignored`, so the VM has one card less on the target.",
    "Nothing, if that is meant; else map the network",
);

pub(super) const NETWORK_NAMELESS: Row = (
    "plan.network.nameless",
    Severity::Critical,
    "Mapped network without a name",
    "The NetworkMapping says `type: multus` and does not name the network at the target.",
    "Set `destination.name` in the NetworkMapping",
);

pub(super) const WARM_UNSUPPORTED: Row = (
    "plan.type.unsupported",
    Severity::Critical,
    "Warm migration is not supported yet",
    "The plan says `type: warm`, which this version does not do.",
    "Say `type: cold`",
);

pub(super) const CONVERTER_MISSING: Row = (
    "target.converter.missing",
    Severity::Critical,
    "The guest cannot be converted",
    "The plan asks for the guest to be made fit for KVM, and the target has not what that needs: it would have no driver for its disks.",
    "Install what is missing, or say `skipGuestConversion: true` for a guest that has the drivers",
);

pub(super) const NOT_STARTED: Row = (
    "target.start.unavailable",
    Severity::Warning,
    "The VM is not started",
    "The VM is to run afterwards, and its target starts none: it is a folder of files for which no `libvirt.uri` is set. The VM is made there and stays off.",
    "Start it by hand afterwards with the command that the finding names, set `libvirt.uri` in ferry.yaml, or say `targetPowerState: off`",
);

pub(super) const NAME_INVALID: Row = (
    "target.name.invalid",
    Severity::Critical,
    "No name on the target",
    "The VM's name has no letter or digit that a name on the target may have, and the entry gives it none.",
    "Set `targetName` in its entry",
);

pub(super) const NAME_TAKEN: Row = (
    "target.name.taken",
    Severity::Critical,
    "Name is taken on the target",
    "Something stands on the target under this name that no run of this journal made. Ferry never writes over it.",
    "Set another `targetName`, or remove what stands there",
);

pub(super) const NAME_DUPLICATE: Row = (
    "target.name.duplicate",
    Severity::Critical,
    "Two VMs with one name on the target",
    "Two entries mean different VMs and both get the same name on the same target.",
    "Set `targetName` in one of the entries",
);

pub(super) const VM_ABSENT: Row = (
    "source.vm.absent",
    Severity::Critical,
    "VM is not at the source",
    "The source was read completely and holds no VM of this name, path or identifier.",
    "Correct the entry, or put the VM there",
);

pub(super) const VM_AMBIGUOUS: Row = (
    "source.vm.ambiguous",
    Severity::Critical,
    "Several VMs have this name",
    "The entry names more than one VM of the source, and Ferry never takes the first one.",
    "Name one of them by its path or its `id`",
);

/// The findings of this file that `desired` may have said already, in the manifest's own words. They are kept as a second
/// lock: no plan that asks for what is not done is ever cleared.
pub(super) const SAID_BY_MANIFEST: [&str; 2] = [WARM_UNSUPPORTED.0, NAME_INVALID.0];

/// Lists the pages.
pub(super) fn pages() -> impl Iterator<Item = ConcernPage> {
    [
        NETWORK_UNMAPPED,
        NETWORK_NO_MAPPING,
        NETWORK_IGNORED,
        NETWORK_NAMELESS,
        WARM_UNSUPPORTED,
        CONVERTER_MISSING,
        NOT_STARTED,
        NAME_INVALID,
        NAME_TAKEN,
        NAME_DUPLICATE,
        VM_ABSENT,
        VM_AMBIGUOUS,
    ]
    .into_iter()
    .map(page)
    .chain([ConcernPage {
        id: super::rules::FAILED.to_owned(),
        category: Severity::Critical,
        label: "A rule did not answer".to_owned(),
        assessment: "A rule failed or took too long over this VM. Silence would look like a VM without concerns."
            .to_owned(),
        remedy: "Report it: the rules of this binary must answer for every VM".to_owned(),
    }])
}

/// Writes a row out.
pub(super) fn page((id, category, label, assessment, remedy): Row) -> ConcernPage {
    ConcernPage {
        id: id.to_owned(),
        category,
        label: label.to_owned(),
        assessment: assessment.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Says a sentence under a row.
pub(super) fn say(row: Row, text: impl Into<String>) -> Concern {
    Concern::new(&page(row), text)
}

/// Runs the checks.
pub(super) fn check(input: &Input<'_>) -> Vec<Concern> {
    let mut concerns = Vec::new();
    networks(input, &mut concerns);
    if input.plan.kind == PlanType::Warm {
        concerns.push(say(WARM_UNSUPPORTED, "`type: warm` is not supported yet"));
    }
    if input.target.name.is_empty() {
        let text = format!("no name on the target can be made of `{}`", input.vm.name);
        concerns.push(say(NAME_INVALID, text));
    }
    concerns
}

/// Every network needs an entry; each is named once, however many cards lie in it.
fn networks(input: &Input<'_>, concerns: &mut Vec<Concern>) {
    let nics = &input.vm.nics;
    if !input.plan.network_mapping {
        if !nics.is_empty() {
            let text = format!("it has {} network cards and no network mapping", nics.len());
            concerns.push(say(NETWORK_NO_MAPPING, text));
        }
        return;
    }
    let mut of =
        |row: Row, matches: &dyn Fn(&NicInput<'_>) -> bool, text: &dyn Fn(&str) -> String| {
            let names: BTreeSet<&str> =
                nics.iter().filter(|nic| matches(nic)).map(|nic| nic.network).collect();
            concerns.extend(names.into_iter().map(|network| say(row, text(network))));
        };
    of(NETWORK_UNMAPPED, &|nic| nic.mapping.is_empty(), &|network| {
        format!("network `{network}` is not mapped")
    });
    of(NETWORK_IGNORED, &|nic| nic.mapping == "ignored", &|network| {
        format!("its network card in `{network}` is left out")
    });
    of(
        NETWORK_NAMELESS,
        &|nic| nic.mapping == "multus" && nic.mapping_name.is_empty(),
        &|network| format!("network `{network}` is mapped to a network without a name"),
    );
}
