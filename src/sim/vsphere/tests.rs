use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::methods::{Asked, Reply, dispatch};
use super::value::Ref;
use super::*;
use crate::xml::Element;

/// A clock that moves when it is told to.
#[derive(Default)]
struct Still(Mutex<SignedDuration>);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.elapsed()
    }

    fn elapsed(&self) -> SignedDuration {
        *self.0.lock().unwrap()
    }
}

/// A server without a network.
struct Center {
    shared: Shared,
    _folder: TempDir,
    cookie: Option<String>,
}

impl Center {
    fn new(scenario: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scenario = Scenario::parse("test", scenario).unwrap();
        let clock = Arc::new(Still::default());
        let world = World::new(&scenario, folder.path(), clock.now(), "AA").unwrap();
        let shared = Shared::new(world, clock);
        Self { shared, _folder: folder, cookie: None }
    }

    fn logged_in(scenario: &str) -> Self {
        let mut center = Self::new(scenario);
        let cookie = center.shared.enter(|world| world.log_in("user", "pass")).unwrap();
        center.cookie = Some(cookie);
        center
    }

    /// Calls a method and returns the answer's body, or the type of its fault.
    fn call(&self, body: &str) -> String {
        let element = Element::parse(body.as_bytes()).unwrap();
        self.shared.enter(|world| {
            let number = world.number();
            let asked = Asked { since: world.elapsed, number, is_first: true };
            match dispatch(world, self.cookie.as_deref(), &element, asked, (None, None)) {
                Ok(Reply::Value(value) | Reply::Any(value) | Reply::Session { value, .. }) => {
                    let mut out = String::new();
                    value.write(&mut out, "r", false);
                    out
                }
                Ok(Reply::Later(_)) => "later".to_owned(),
                Err(fault) => fault.data.kind.to_owned(),
            }
        })
    }

    fn view(&self, kind: &str) -> String {
        let root = self.shared.enter(|world| world.inventory.root.id.to_string());
        let answer = self.call(&format!(
            "<CreateContainerView><_this type='ViewManager'>ViewManager</_this>\
             <container type='Folder'>{root}</container><type>{kind}</type>\
             <recursive>true</recursive></CreateContainerView>"
        ));
        Element::parse(answer.as_bytes()).unwrap().text().to_owned()
    }

    fn retrieve(&self, view: &str, kind: &str, paths: &[&str], most: usize) -> String {
        let collector = if self.shared.enter(|w| w.scenario.esxi) {
            "ha-property-collector"
        } else {
            "propertyCollector"
        };
        let paths: Vec<String> =
            paths.iter().map(|path| format!("<pathSet>{path}</pathSet>")).collect();
        self.call(&format!(
            "<RetrievePropertiesEx><_this type='PropertyCollector'>{collector}</_this><specSet>\
             <propSet><type>{kind}</type>{}</propSet><objectSet><obj type='ContainerView'>{view}</obj>\
             <skip>true</skip><selectSet xmlns:xsi='x' xsi:type='TraversalSpec'><type>ContainerView</type>\
             <path>view</path></selectSet></objectSet></specSet><options><maxObjects>{most}</maxObjects>\
             </options></RetrievePropertiesEx>",
            paths.concat()
        ))
    }
}

const ONE: &str = "datacenters: [{ name: DC1, hosts: [{ name: esx1 }], datastores: [{ name: ds1 }],
  networks: [{ name: net }],
  vms: [{ name: web, changeTracking: true, disks: [{ size: 1MiB, fill: { allocated: 30% } }], nics: [{ network: net }] }] }]";

#[test]
fn equal_seeds_make_equal_bytes() {
    let [a, b] = [ONE, ONE].map(|scenario| {
        let center = Center::logged_in(scenario);
        let view = center.view("ManagedEntity");
        center.retrieve(&view, "VirtualMachine", &["config", "summary", "layoutEx"], 10)
    });
    assert!(a.contains("VirtualDiskFlatVer2BackingInfo"), "{a}");
    assert_eq!(a, b);
    let center = Center::logged_in(&format!("seed: 2\n{ONE}"));
    let view = center.view("VirtualMachine");
    assert_ne!(center.retrieve(&view, "VirtualMachine", &["config"], 10), a);
}

#[test]
fn a_host_has_ids_of_its_own_and_no_instance() {
    let center = Center::logged_in(&format!("esxi: true\n{ONE}"));
    let content = center.call(
        "<RetrieveServiceContent><_this type='ServiceInstance'>ServiceInstance</_this></RetrieveServiceContent>",
    );
    for part in ["<apiType>HostAgent</apiType>", ">ha-folder-root<", ">ha-property-collector<"] {
        assert!(content.contains(part), "{part}: {content}");
    }
    assert!(!content.contains("instanceUuid") && !content.contains("customFieldsManager"));
    let view = center.view("ManagedEntity");
    let vms = center.retrieve(&view, "VirtualMachine", &["name", "runtime.host"], 10);
    assert!(vms.contains("<obj type=\"VirtualMachine\">") && !vms.contains(">vm-"), "{vms}");
    let hosts = center.retrieve(&view, "HostSystem", &["hardware.systemInfo.uuid"], 10);
    assert!(hosts.contains(">ha-host<") && hosts.contains("xsd:string"), "{hosts}");
    let active = "<SessionIsActive><_this type='SessionManager'>ha-sessionmgr</_this>\
        <sessionID>1</sessionID><userName>user</userName></SessionIsActive>";
    assert_eq!(center.call(active), "NotImplemented");
    let wrong = Scenario::parse("test", "esxi: true").unwrap_err().to_string();
    assert_eq!(wrong, "the scenario test: `esxi` needs one datacenter with one host");
}

#[test]
fn what_does_not_fit_together_is_said_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let says = |vm: &str| {
        let text = format!(
            "datacenters: [{{ name: DC1, hosts: [{{ name: esx1 }}], datastores: [{{ name: ds1 }}], vms: [{vm}] }}]"
        );
        let scenario = Scenario::parse("test", &text).unwrap();
        let made = World::new(&scenario, folder.path(), Timestamp::UNIX_EPOCH, "AA");
        made.unwrap_err().to_string()
    };
    assert_eq!(says("{ name: a, host: esx9 }"), "the VM a names the host esx9, which there is not");
    assert_eq!(
        says("{ name: a, nics: [{ network: x }] }"),
        "the VM a names the network x, which there is not"
    );
    assert_eq!(
        says("{ name: a, disks: [{ size: 1000 }] }"),
        "the disk 0 of the VM a has a size that is no multiple of 512 bytes"
    );
    assert_eq!(
        says("{ name: a, disks: [{ size: 1MiB, unit: 7 }] }"),
        "the disk 0 of the VM a has no free unit on its controller"
    );
    assert_eq!(says("{ name: a, disks: [{ image: /nowhere }] }"), "cannot make the disk 0 of a");
}

#[test]
fn a_session_ends_when_it_is_idle_and_sessions_are_counted() {
    let center = Center::logged_in(&format!("sessions: {{ idle: 30m, maximum: 2 }}\n{ONE}"));
    let clock = "<CurrentTime><_this type='ServiceInstance'>ServiceInstance</_this></CurrentTime>";
    center.shared.advance(Duration::from_mins(29));
    assert!(center.call(clock).starts_with("<r>1970-01-01T00:29:00"), "{}", center.call(clock));
    center.shared.enter(|world| world.log_in("user", "pass")).unwrap();
    let refused = center.shared.enter(|world| world.log_in("user", "pass")).unwrap_err();
    assert!(refused.message.contains("Out of HTTP sessions"), "{}", refused.message);
    center.shared.advance(Duration::from_mins(30));
    assert_eq!(center.call(clock), "NotAuthenticated");
}

#[test]
fn a_request_is_checked_before_it_is_done() {
    let center = Center::logged_in(ONE);
    let vm = center.shared.enter(|world| world.inventory.vm_named("web").unwrap().0.me.clone());
    let snapshot = |fields: &str| {
        center.call(&format!(
            "<CreateSnapshot_Task><_this type='VirtualMachine'>{}</_this>{fields}</CreateSnapshot_Task>",
            vm.id
        ))
    };
    assert_eq!(
        snapshot("<name>a</name><quiesce>false</quiesce><memory>false</memory>"),
        "InvalidRequest"
    );
    assert_eq!(snapshot("<name>a</name><memory>false</memory>"), "InvalidRequest");
    assert_eq!(
        snapshot("<name>a</name><memory>false</memory><quiesce>maybe</quiesce>"),
        "InvalidRequest"
    );
    assert!(
        snapshot("<name>a</name><memory>false</memory><quiesce>false</quiesce>").contains("task-")
    );
    assert_eq!(
        center.call("<PowerOnVM_Task><_this type='HostSystem'>vm-1</_this></PowerOnVM_Task>"),
        "ManagedObjectNotFound"
    );
    assert_eq!(center.call("<Login><userName>user</userName></Login>"), "InvalidRequest");
    for (action, known) in [
        ("\"urn:vim25/8.0.2.0\"", true),
        ("urn:vim25/6.7", true),
        ("urn:vim25", true),
        ("urn:vim25/9.0.0.0", false),
        ("urn:vim26/8.0", false),
    ] {
        assert_eq!(center.shared.supports(action).is_ok(), known, "{action}");
    }
}

/// The changed areas, as the answer says them.
fn areas(answer: &str) -> Vec<(u64, u64)> {
    let root = Element::parse(answer.as_bytes()).unwrap_or_else(|_| panic!("{answer}"));
    let number = |area: &Element, name: &str| area.text_of(name).unwrap().parse().unwrap();
    root.all("changedArea").map(|area| (number(area, "start"), number(area, "length"))).collect()
}

/// Whatever the guest writes, between whichever snapshots: what is told to have changed covers what changed.
#[test]
fn no_change_is_missed() {
    for seed in 0..20_u64 {
        let center = Center::logged_in(&format!("tasks: {{ queued: 0s, running: 0s }}\n{ONE}"));
        let vm = center.shared.enter(|world| world.inventory.vm_named("web").unwrap().0.me.clone());
        let mut seen: Vec<(Ref, String, Vec<u8>)> = Vec::new();
        let mut state = seed;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..60 {
            if next(4) > 0 {
                let (at, length) = (next((1 << 20) - 9000), next(9000) + 1);
                let bytes = vec![next(256).to_le_bytes()[0]; usize::try_from(length).unwrap()];
                center.shared.enter(|world| {
                    let World { inventory, store, .. } = world;
                    inventory.change_vm(&vm.id).unwrap().disks[0].write(store, at, &bytes).unwrap();
                });
                continue;
            }
            let name = format!("s{}", seen.len());
            let made =
                center.shared.enter(|world| world.create_snapshot(&vm, name, String::new(), false));
            let made = made.unwrap();
            let (id, bytes) = center.shared.enter(|world| {
                let snapshots = &world.inventory.vm(&vm.id).unwrap().snapshots;
                let disk = &snapshots.iter().find(|s| s.me == made).unwrap().disks[0];
                let mut bytes = vec![0; 1 << 20];
                disk.content.file.read_exact_at(&mut bytes, 0).unwrap();
                (disk.tracking.as_ref().unwrap().change_id(), bytes)
            });
            for (_, since, before) in &seen {
                let answer = center.call(&format!(
                    "<QueryChangedDiskAreas><_this type='VirtualMachine'>{}</_this>\
                     <snapshot type='VirtualMachineSnapshot'>{}</snapshot><deviceKey>2000</deviceKey>\
                     <startOffset>0</startOffset><changeId>{since}</changeId></QueryChangedDiskAreas>",
                    vm.id, made.id
                ));
                let told: BTreeSet<u64> = areas(&answer)
                    .into_iter()
                    .flat_map(|(start, length)| start / 512..(start + length) / 512)
                    .collect();
                let sectors = before.chunks(512).zip(bytes.chunks(512)).zip(0..);
                for (_, sector) in sectors.filter(|((old, new), _)| old != new) {
                    assert!(told.contains(&sector), "seed {seed}: sector {sector} since {since}");
                }
            }
            seen.push((made.clone(), id, bytes));
            if next(2) == 0 {
                center
                    .shared
                    .enter(|world| world.remove_snapshot(&vm, &made, false, true))
                    .unwrap();
            }
        }
        assert!(seen.len() > 3, "seed {seed}");
    }
}

#[test]
fn a_disk_can_be_an_image_and_its_guest_writes_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let image = vec![7; 5000];
    std::fs::write(folder.path().join("boot.raw"), &image).unwrap();
    let text = ONE.replace("size: 1MiB, fill: { allocated: 30% }", "image: boot.raw, writes: 1s");
    std::fs::write(folder.path().join("lab.yaml"), text).unwrap();
    let scenario = Scenario::read(&folder.path().join("lab.yaml")).unwrap();
    let clock = Arc::new(Still::default());
    let world = World::new(&scenario, folder.path(), clock.now(), "AA").unwrap();
    let shared = Shared::new(world, clock);
    let read = || {
        shared.enter(|world| {
            let disk = &world.inventory.vm_named("web").unwrap().1.disks[0];
            let written = disk.tracking.as_ref().unwrap().written.len();
            (std::fs::read(&disk.content.path).unwrap(), written)
        })
    };
    let (before, written) = read();
    assert_eq!((&before[..5000], before.len(), written), (&image[..], 5120, 0));
    shared.advance(Duration::from_secs(3));
    let (after, written) = read();
    assert_eq!((after != before, written), (true, 1));
    let vm = shared.enter(|world| world.inventory.vm_named("web").unwrap().0.me.clone());
    shared.enter(|world| world.power_off(&vm, true)).unwrap();
    shared.advance(Duration::from_mins(1));
    assert_eq!(read().0, after);
}

#[test]
fn ten_thousand_vms_are_read_page_by_page() {
    let center = Center::logged_in(
        "pages: { updates: 1000 }
datacenters: [{ name: DC1, hosts: [{ name: esx1 }], datastores: [{ name: ds1 }], networks: [{ name: net }],
           vms: [{ name: vm-, count: 10000, folder: many, disks: [{ size: 1GiB }, { size: 2GiB }], nics: [{ network: net }] }] }]",
    );
    let view = center.view("VirtualMachine");
    let paths = [
        "name",
        "config.uuid",
        "config.hardware.device",
        "runtime.powerState",
        "summary.storage.committed",
    ];
    let mut answer = center.retrieve(&view, "VirtualMachine", &paths, 100);
    let (mut seen, mut pages) = (BTreeSet::new(), 0);
    loop {
        let result = Element::parse(answer.as_bytes()).unwrap();
        seen.extend(result.all("objects").map(|object| object.text_of("obj").unwrap().to_owned()));
        pages += 1;
        let Some(token) = result.text_of("token") else { break };
        answer = center.call(&format!(
            "<ContinueRetrievePropertiesEx><_this type='PropertyCollector'>propertyCollector</_this>\
             <token>{token}</token></ContinueRetrievePropertiesEx>"
        ));
    }
    assert_eq!((seen.len(), pages), (10_000, 100));
    let collector = "<_this type='PropertyCollector'>propertyCollector</_this>";
    let filter = center.call(&format!(
        "<CreateFilter>{collector}<spec><propSet><type>VirtualMachine</type>\
         <pathSet>runtime.powerState</pathSet></propSet><objectSet><obj type='ContainerView'>{view}</obj>\
         <skip>true</skip><selectSet xmlns:xsi='x' xsi:type='TraversalSpec'><type>ContainerView</type>\
         <path>view</path></selectSet></objectSet></spec><partialUpdates>false</partialUpdates></CreateFilter>"
    ));
    assert!(filter.contains("PropertyFilter"), "{filter}");
    let wait = |version: &str| {
        let answer = center.call(&format!(
            "<WaitForUpdatesEx>{collector}<version>{version}</version></WaitForUpdatesEx>"
        ));
        let set = Element::parse(answer.as_bytes()).unwrap();
        let told = set.child("filterSet").map_or(0, |filter| filter.all("objectSet").count());
        (set.text_of("version").unwrap().to_owned(), told, set.child("truncated").is_some())
    };
    let (mut version, mut told, mut truncated) = wait("");
    while truncated {
        let (next, more, goes_on) = wait(&version);
        (version, told, truncated) = (next, told + more, goes_on);
    }
    assert_eq!(told, 10_000);
    let vm =
        center.shared.enter(|world| world.inventory.vm_named("vm-09999").unwrap().0.me.clone());
    center.shared.enter(|world| world.power_off(&vm, true)).unwrap();
    assert_eq!(wait(&version).1, 1);
}
