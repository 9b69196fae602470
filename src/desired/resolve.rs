//! The steps from documents to [`Wanted`]: index, providers, plans, names on the targets, migrations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::desired::memo::Memo;
use crate::desired::refer::{Index, Item, kind_of};
use crate::desired::windows::{self, Bounds, Calendars};
use crate::desired::{
    Desired, Network, PlanWanted, Request, Selector, Site, Trust, VmWanted, VsphereSite, Wanted,
};
use crate::domain::id::{Digest, MigrationName, PlanName, ProviderName, TargetName, VmKey, VmName};
use crate::domain::window::Calendar;
use crate::manifest::diagnostic::{Finding, Place};
use crate::manifest::document::{
    Kind, LocalProvider, Manifest, Migration, NetworkMapping, Plan, PlanType, PlanVm, Provider,
    ProviderPair, ProviderType, Spec, Tls, duration_s,
};
use crate::manifest::parse::{Broken, ParsedFile};
use crate::manifest::{nearest, reference};

/// A file as it stands, and its last version that was [whole](ParsedFile::whole).
#[derive(Clone, Copy, Debug)]
pub struct FileVersions<'a> {
    /// What stands there now.
    pub now: &'a ParsedFile,
    /// The last version that was whole, where the present one is not and there is one.
    pub last_good: Option<&'a ParsedFile>,
}

/// Makes out what all files want. A document is gone only when its file is gone or whole without it (safety rule 15): of a
/// file that is not whole the last good documents stay, so that nothing in flight is undone, and each VM that they speak of
/// gets a critical finding, so that nothing new starts.
pub fn load(files: &[FileVersions<'_>]) -> Wanted {
    load_with(files, &mut Memo::default())
}

/// As [`load`], which it equals whatever the memo holds.
pub fn load_with(files: &[FileVersions<'_>], memo: &mut Memo) -> Wanted {
    let mut items = Vec::new();
    let mut broken = Vec::new();
    let mut findings = Vec::new();
    let mut closed = Vec::new();
    for FileVersions { now, last_good } in files {
        findings.extend(now.findings.iter().cloned());
        broken.extend(&now.broken);
        closed.extend(windows::closed(now, *last_good));
        let bars = if now.whole() { Vec::new() } else { bar(now) };
        let stays = last_good.filter(|_| !now.whole()).map_or(&[][..], |file| &file.documents);
        let mut known = HashSet::new();
        // The text of a file that does not parse may lack anything: only its last good version says what it meant.
        if now.parses {
            for manifest in &now.documents {
                known.insert((kind_of(&manifest.spec), manifest.name.as_str()));
                items.push(Item { manifest, bars: Vec::new() });
            }
        }
        for manifest in stays {
            if known.insert((kind_of(&manifest.spec), manifest.name.as_str())) {
                items.push(Item { manifest, bars: bars.clone() });
            }
        }
        if !now.parses {
            for manifest in &now.documents {
                let starts = matches!(manifest.spec, Spec::Migration(_));
                if !starts && known.insert((kind_of(&manifest.spec), manifest.name.as_str())) {
                    items.push(Item { manifest, bars: bars.clone() });
                }
            }
        }
    }
    Wanted { closed, ..wanted(&items, &broken, findings, memo) }
}

/// Makes an RFC 1123 label of a VM's name: lower-case, `-` for what a label cannot hold, at most 63 characters. `None` where
/// nothing is left.
pub fn target_name(vm: &str) -> Option<TargetName> {
    let mut label = String::new();
    for letter in vm.chars().map(|letter| letter.to_ascii_lowercase()) {
        if letter.is_ascii_lowercase() || letter.is_ascii_digit() {
            label.push(letter);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
        if label.len() == 63 {
            break;
        }
    }
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| TargetName::new(label))
}

/// Says that a file is broken, once, at its first finding.
fn bar(file: &ParsedFile) -> Vec<Finding> {
    let first = file.findings.first().map(|finding| &finding.place);
    first.map(|place| reference::file_broken(place.clone(), place)).into_iter().collect()
}

fn wanted(
    items: &[Item<'_>],
    broken: &[&Broken],
    findings: Vec<Finding>,
    memo: &mut Memo,
) -> Wanted {
    let mut wanted = Wanted { findings, ..Wanted::default() };
    let mut index = |kind| Index::new(kind, items, broken, &mut wanted.findings);
    let mut resolver = Resolver {
        providers: index(Kind::Provider),
        networks: index(Kind::NetworkMapping),
        storages: index(Kind::StorageMapping),
        plans: index(Kind::Plan),
        windows: index(Kind::CutoverWindow),
        pools: HashMap::new(),
        calendars: Calendars::default(),
    };
    let migrations = index(Kind::Migration);
    let policies = index(Kind::Policy);
    for item in resolver.providers.items() {
        if let Spec::Provider(provider) = &item.manifest.spec
            && let Some(site) = site(provider)
        {
            wanted.providers.insert(ProviderName::new(&item.manifest.name), site);
        }
    }
    resolver.mappings(items, &mut wanted.findings);
    for item in resolver.windows.items() {
        if let Spec::CutoverWindow(window) = &item.manifest.spec {
            let bounds = Bounds::of(item.manifest, window, &mut wanted.findings);
            if let Ok(window) = &bounds.window {
                wanted.windows.insert(window.name.clone(), window.clone());
            }
            resolver.calendars.bounds.push(bounds);
        }
    }
    for item in policies.items() {
        if let Spec::Policy(policy) = &item.manifest.spec {
            windows::policy(item.manifest, policy, &mut wanted);
        }
    }
    let plans: Vec<Item<'_>> = resolver.plans.items().cloned().collect();
    memo.begin(items, broken);
    for item in &plans {
        if let Spec::Plan(plan) = &item.manifest.spec {
            let planned = memo.known(item).unwrap_or_else(|| {
                let before = wanted.findings.len();
                let planned = Arc::new(resolver.plan(item, plan, &mut wanted.findings));
                memo.keep(item, &planned, wanted.findings.len() > before);
                planned
            });
            wanted.plans.insert(PlanName::new(&item.manifest.name), planned);
        }
    }
    memo.end();
    name_targets(&mut wanted);
    let migrations: Vec<Item<'_>> = migrations.items().cloned().collect();
    request(&migrations, &mut resolver.plans, &mut wanted);
    let key =
        |finding: &Finding| (finding.place.clone(), finding.code.clone(), finding.text.clone());
    wanted.findings.sort_by_cached_key(key);
    wanted.findings.dedup();
    wanted
}

fn site(provider: &Provider) -> Option<Site> {
    let Provider { kind, ova, local, url, credentials, tls, transport } = provider;
    match kind {
        ProviderType::Ova => ova.as_ref().map(|ova| Site::Ova { path: ova.path.as_str().into() }),
        ProviderType::Local => local.as_ref().map(|LocalProvider { path, disk_format }| {
            Site::Local { path: path.as_str().into(), disk_format: *disk_format }
        }),
        ProviderType::Vsphere => {
            let (Some(url), Some(credentials)) = (url, credentials) else { return None };
            Some(Site::Vsphere(Arc::new(VsphereSite {
                url: url.as_str().into(),
                credentials: credentials.as_str().into(),
                trust: trust(tls.as_ref()),
                transport: transport.unwrap_or_default(),
            })))
        }
        // What it asks for is a finding.
        ProviderType::Kubevirt => None,
    }
}

fn trust(tls: Option<&Tls>) -> Trust {
    match tls {
        Some(Tls { insecure_skip_verify: true, .. }) => Trust::Anyone,
        Some(Tls { sha256_fingerprint: Some(hash), .. }) => {
            Trust::Fingerprint(hash.as_str().into())
        }
        Some(Tls { ca: Some(pem), .. }) => Trust::Authorities(pem.as_str().into()),
        Some(_) | None => Trust::System,
    }
}

struct Resolver<'a> {
    providers: Index<'a>,
    networks: Index<'a>,
    storages: Index<'a>,
    plans: Index<'a>,
    windows: Index<'a>,
    /// The windows, made out.
    calendars: Calendars<'a>,
    /// What is wrong with the entries of each network mapping, by the mapping's name.
    pools: HashMap<&'a str, Vec<Finding>>,
}

/// What all entries of a plan have in common.
struct Shared<'a> {
    plan: &'a Plan,
    manifest: &'a Manifest,
    source: Option<Site>,
    target: Option<Site>,
    networks: Option<Arc<BTreeMap<String, Network>>>,
    timeout_s: Option<u32>,
    findings: Vec<Finding>,
}

impl<'a> Resolver<'a> {
    /// Judges the mappings by themselves: their providers, their entries.
    fn mappings(&mut self, items: &[Item<'a>], findings: &mut Vec<Finding>) {
        for Item { manifest, .. } in items {
            let provider = match &manifest.spec {
                Spec::NetworkMapping(mapping) => {
                    let pools = pools(manifest, mapping);
                    findings.extend(pools.iter().cloned());
                    self.pools.entry(&manifest.name).or_default().extend(pools);
                    &mapping.provider
                }
                Spec::StorageMapping(mapping) => &mapping.provider,
                Spec::Provider(_)
                | Spec::Plan(_)
                | Spec::Migration(_)
                | Spec::CutoverWindow(_)
                | Spec::Policy(_)
                | Spec::Host(_)
                | Spec::Provisioner(_)
                | Spec::Hook(_) => continue,
            };
            let mut bars = Vec::new();
            self.pair(manifest, provider, &mut bars, findings);
        }
    }

    /// Follows the two providers of a plan or a mapping and judges their roles.
    fn pair(
        &mut self,
        manifest: &Manifest,
        pair: &ProviderPair,
        bars: &mut Vec<Finding>,
        new: &mut Vec<Finding>,
    ) -> (Option<Site>, Option<Site>) {
        let mut end = |name: &str,
                       pointer: &str,
                       fits: fn(&Site) -> bool,
                       refuse: fn(Place, &str) -> Finding| {
            let place = manifest.place_of(pointer);
            let item = self.providers.follow(name, place.clone(), bars, new)?;
            let Spec::Provider(provider) = &item.manifest.spec else { return None };
            let site = site(provider)?;
            if fits(&site) {
                return Some(site);
            }
            let finding = refuse(place, name);
            bars.push(finding.clone());
            new.push(finding);
            None
        };
        let is_target = |site: &Site| !site.holds_sources();
        let source =
            end(&pair.source, "/spec/provider/source", Site::holds_sources, reference::no_source);
        let destination = "/spec/provider/destination";
        let target = end(&pair.destination, destination, is_target, reference::no_target);
        (source, target)
    }

    fn plan(&mut self, item: &Item<'a>, plan: &'a Plan, findings: &mut Vec<Finding>) -> PlanWanted {
        let manifest = item.manifest;
        let mut bars = item.bars.clone();
        let unsupported = manifest.findings.iter().filter(|(at, _)| !at.starts_with("/spec/vms/"));
        bars.extend(unsupported.map(|(_, finding)| finding.clone()));
        let (source, target) = self.pair(manifest, &plan.provider, &mut bars, findings);
        let networks = self.maps(manifest, plan, &mut bars, findings);
        if plan.kind == PlanType::Warm {
            let finding = reference::warm(manifest.place_of("/spec/type"));
            findings.push(finding.clone());
            bars.push(finding);
        }
        let calendar = self.calendar(manifest, plan, &mut bars, findings);
        let timeout_s = duration_s(&plan.shutdown.timeout);
        let shared = Shared { plan, manifest, source, target, networks, timeout_s, findings: bars };
        PlanWanted {
            description: plan.description.clone(),
            source: plan.provider.source.clone(),
            target: plan.provider.destination.clone(),
            kind: plan.kind,
            archived: plan.archived,
            calendar,
            place: manifest.place.clone(),
            vms: entries(&shared, findings),
        }
    }

    /// Joins the window that a plan names and those that pick it.
    fn calendar(
        &mut self,
        manifest: &Manifest,
        plan: &Plan,
        bars: &mut Vec<Finding>,
        new: &mut Vec<Finding>,
    ) -> Arc<Calendar> {
        let named = plan.window.as_deref();
        if let Some(name) = named {
            self.windows.follow(name, manifest.place_of("/spec/window"), bars, new);
        }
        self.calendars.of(named, &manifest.labels)
    }

    /// Follows the mappings of a plan and returns what becomes of the networks.
    fn maps(
        &mut self,
        manifest: &'a Manifest,
        plan: &Plan,
        bars: &mut Vec<Finding>,
        new: &mut Vec<Finding>,
    ) -> Option<Arc<BTreeMap<String, Network>>> {
        if let Some(name) = &plan.map.storage {
            let place = manifest.place_of("/spec/map/storage");
            if let Some(item) = self.storages.follow(name, place.clone(), bars, new)
                && let Spec::StorageMapping(mapping) = &item.manifest.spec
            {
                same_pair(Kind::StorageMapping, &mapping.provider, plan, (name, place), bars, new);
            }
        }
        let name = plan.map.network.as_ref()?;
        let place = manifest.place_of("/spec/map/network");
        let item = self.networks.follow(name, place.clone(), bars, new)?;
        let Spec::NetworkMapping(mapping) = &item.manifest.spec else { return None };
        same_pair(Kind::NetworkMapping, &mapping.provider, plan, (name, place), bars, new);
        bars.extend(self.pools.get(name.as_str()).into_iter().flatten().cloned());
        let networks = mapping.map.iter().filter_map(|entry| {
            let network =
                Network { kind: entry.destination.kind, name: entry.destination.name.clone() };
            Some((entry.source.name.clone()?, network))
        });
        Some(Arc::new(networks.collect()))
    }
}

/// A mapping must be made for the providers of the plan.
fn same_pair(
    kind: Kind,
    pair: &ProviderPair,
    plan: &Plan,
    (name, place): (&str, Place),
    bars: &mut Vec<Finding>,
    new: &mut Vec<Finding>,
) {
    if *pair != plan.provider {
        let ends = (pair.source.as_str(), pair.destination.as_str());
        let finding = reference::pair_differs(place, kind, name, ends);
        bars.push(finding.clone());
        new.push(finding);
    }
}

/// Several entries for one network are a pool, which is not supported yet.
fn pools(manifest: &Manifest, mapping: &NetworkMapping) -> Vec<Finding> {
    let mut names = HashSet::new();
    let mut findings = Vec::new();
    for (index, entry) in mapping.map.iter().enumerate() {
        if let Some(name) = &entry.source.name
            && !names.insert(name)
        {
            let place = manifest.place_of(&format!("/spec/map/{index}/source/name"));
            findings.push(reference::pool(place, name));
        }
    }
    findings
}

fn entries(shared: &Shared<'_>, findings: &mut Vec<Finding>) -> Vec<VmWanted> {
    let Shared { plan, manifest, .. } = shared;
    let mut own: HashMap<&str, Vec<Finding>> = HashMap::new();
    for (pointer, finding) in &manifest.findings {
        if let Some(rest) = pointer.strip_prefix("/spec/vms/") {
            let index = rest.split('/').next().unwrap_or_default();
            own.entry(index).or_default().push(finding.clone());
        }
    }
    let mut vms: Vec<VmWanted> = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, vm) in plan.vms.iter().enumerate() {
        let index = index.to_string();
        let place = manifest.place_of(&format!("/spec/vms/{index}"));
        let name = vm.name.as_ref().or(vm.id.as_ref()).or(vm.uuid.as_ref());
        let name = name.map_or("", String::as_str);
        let first = *seen.entry(name).or_insert(vms.len());
        if let Some(first) = vms.get_mut(first) {
            findings.push(reference::vm_twice(place.clone(), name, &first.place));
            let finding = reference::vm_twice(first.place.clone(), name, &place);
            findings.push(finding.clone());
            first.findings.push(finding);
            continue;
        }
        let mut wanted = entry(shared, vm, name, place, findings);
        wanted.findings.extend(own.remove(index.as_str()).unwrap_or_default());
        vms.push(wanted);
    }
    vms
}

fn entry(
    shared: &Shared<'_>,
    vm: &PlanVm,
    name: &str,
    place: Place,
    new: &mut Vec<Finding>,
) -> VmWanted {
    let Shared { plan, manifest, source, target, networks, timeout_s, findings } = shared;
    let key = VmKey { plan: PlanName::new(&manifest.name), vm: VmName::new(name) };
    let mut findings = findings.clone();
    // A path ends in a name, but which VM has it is known only once the source was seen.
    let own_name = vm.name.as_ref().filter(|name| !name.contains('/'));
    let called = vm.target_name.as_deref().map(TargetName::new);
    let called = called.or_else(|| own_name.and_then(|name| target_name(name)));
    if called.is_none() && own_name.is_some() {
        let finding = reference::target_name_missing(place.clone(), name);
        new.push(finding.clone());
        findings.push(finding);
    }
    let desired = match (source, target, timeout_s) {
        (Some(source_site), Some(target_site), Some(timeout_s)) => Some(Arc::new(Desired {
            key: key.clone(),
            place: place.clone(),
            source: ProviderName::new(&plan.provider.source),
            source_site: source_site.clone(),
            selector: match (&vm.name, vm.id.as_ref().or(vm.uuid.as_ref())) {
                (Some(name), _) => Selector::Name(name.clone()),
                (None, id) => Selector::Id(id.cloned().unwrap_or_default()),
            },
            target: ProviderName::new(&plan.provider.destination),
            target_site: target_site.clone(),
            target_name: called,
            kind: plan.kind,
            networks: networks.clone(),
            power: vm.target_power_state.unwrap_or(plan.target_power_state),
            skip_guest_conversion: plan.skip_guest_conversion,
            shutdown_timeout_s: *timeout_s,
            shutdown_force: plan.shutdown.force,
            verify: plan.verify,
            on_failure: plan.on_failure,
        })),
        _ => None,
    };
    VmWanted { key, place, entry: entry_digest(vm), desired, findings }
}

/// Digests the entry's own fields, whatever their order, layout and comments.
fn entry_digest(vm: &PlanVm) -> Digest {
    let text = serde_json::to_string(vm).expect("plain fields always serialize");
    let hash = blake3::derive_key("ferry 2026 plan entry", text.as_bytes());
    Digest::new(hex::encode(hash))
}

/// No two VMs may have one name on one target. Archived plans move nothing and take no name.
fn name_targets(wanted: &mut Wanted) {
    let mut taken: HashMap<(Site, TargetName), (PlanName, usize)> = HashMap::new();
    let mut clashes = Vec::new();
    for (plan, planned) in wanted.plans.iter().filter(|(_, planned)| !planned.archived) {
        for (index, vm) in planned.vms.iter().enumerate() {
            let Some(desired) = &vm.desired else { continue };
            let Some(name) = &desired.target_name else { continue };
            let slot = (desired.target_site.place(), name.clone());
            match taken.get(&slot) {
                None => drop(taken.insert(slot, (plan.clone(), index))),
                Some(first) => clashes.push((name.clone(), first.clone(), (plan.clone(), index))),
            }
        }
    }
    for (name, first, second) in clashes {
        let at = |(plan, index): &(PlanName, usize)| {
            let vm = wanted.plans.get(plan)?.vms.get(*index)?;
            Some((vm.key.to_string(), vm.place.clone()))
        };
        let (Some(one), Some(two)) = (at(&first), at(&second)) else { continue };
        for ((plan, index), here, other) in [(first, &one, &two), (second, &two, &one)] {
            let finding =
                reference::target_name_taken(here.1.clone(), name.as_str(), &other.0, &other.1);
            let planned = wanted.plans.get_mut(&plan).map(Arc::make_mut);
            let vm = planned.and_then(|planned| planned.vms.get_mut(index));
            if let Some(vm) = vm
                && vm.findings.iter().all(|known| known.code != finding.code)
            {
                wanted.findings.push(finding.clone());
                vm.findings.push(finding);
            }
        }
    }
}

/// Follows the migrations to their plans.
fn request(items: &[Item<'_>], plans: &mut Index<'_>, wanted: &mut Wanted) {
    let mut running: BTreeMap<&str, Vec<&Manifest>> = BTreeMap::new();
    for item in items {
        let Spec::Migration(migration) = &item.manifest.spec else { continue };
        let manifest = item.manifest;
        let place = manifest.place_of("/spec/plan");
        let (mut ignored, plan) = (Vec::new(), PlanName::new(&migration.plan));
        plans.follow(&migration.plan, place, &mut ignored, &mut wanted.findings);
        running.entry(&migration.plan).or_default().push(manifest);
        let own = manifest.findings.iter().map(|(_, finding)| finding);
        let mut bars: Vec<Finding> = own.chain(&item.bars).cloned().collect();
        let cutovers = windows::cutovers(manifest, migration, &mut bars, &mut wanted.findings);
        if let Some(planned) = wanted.plans.get_mut(&plan) {
            let names = names(manifest, migration, planned);
            wanted.findings.extend(names.iter().cloned());
            // A plan that nothing is said about stays shared.
            let planned = if bars.is_empty() { None } else { Some(Arc::make_mut(planned)) };
            for vm in planned.into_iter().flat_map(|planned| &mut planned.vms) {
                let known = vm.findings.len();
                for bar in &bars {
                    if !vm.findings.iter().take(known).any(|finding| finding == bar) {
                        vm.findings.push(bar.clone());
                    }
                }
            }
        }
        let set = |names: &[String]| names.iter().map(VmName::new).collect::<BTreeSet<_>>();
        let cancel = set(&migration.cancel);
        // Canceling is the careful one of the two.
        let again = set(&migration.again).difference(&cancel).cloned().collect();
        wanted.requests.push(Request {
            name: MigrationName::new(&manifest.name),
            plan,
            cancel,
            again,
            cutover: cutovers.plan,
            vm_cutover: cutovers.vms,
            digest: Digest::new(&manifest.digest),
            place: manifest.place.clone(),
        });
    }
    for (plan, manifests) in running.into_iter().filter(|(_, manifests)| manifests.len() > 1) {
        let place = |manifest: &Manifest| manifest.place_of("/spec/plan");
        let say = |manifest: &&Manifest| {
            reference::several_migrations(place(manifest), plan, manifests.len())
        };
        wanted.findings.extend(manifests.iter().map(say));
    }
}

/// Judges the VMs that a migration names.
fn names(manifest: &Manifest, migration: &Migration, planned: &PlanWanted) -> Vec<Finding> {
    let known: BTreeSet<&str> = planned.vms.iter().map(|vm| vm.key.vm.as_str()).collect();
    let mut findings = Vec::new();
    let mut suggestions = 0;
    let list = |field: &'static str, names: &'_ [String]| {
        let at = move |index: usize| format!("/spec/{field}/{index}");
        names.iter().enumerate().map(|(index, name)| (at(index), name.clone())).collect::<Vec<_>>()
    };
    let timed = migration.vm_cutover.iter().enumerate();
    let timed = timed.map(|(index, at)| (format!("/spec/vmCutover/{index}/vm"), at.vm.clone()));
    let all = list("cancel", &migration.cancel).into_iter().chain(list("again", &migration.again));
    for (pointer, name) in all.chain(timed) {
        if known.contains(name.as_str()) {
            continue;
        }
        suggestions += 1;
        let near = if suggestions > 20 { None } else { nearest(&name, known.iter().copied()) };
        let place = manifest.place_of(&pointer);
        findings.push(reference::vm_unknown(place, &name, &migration.plan, near));
    }
    let canceled: BTreeSet<&str> = migration.cancel.iter().map(String::as_str).collect();
    for (index, name) in migration.again.iter().enumerate() {
        if canceled.contains(name.as_str()) {
            let place = manifest.place_of(&format!("/spec/again/{index}"));
            findings.push(reference::cancel_and_again(place, name));
        }
    }
    findings
}
