//! A small estate: an OVA with two VMs, a plan for both, settings, and what became of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ferry::adapter::ova::boot::boot_disk;
use ferry::adapter::ova::make::{DiskSpec, OvaSpec, SystemSpec, make_ova};
use ferry::adapter::store::journal::JournalReader;
use ferry::domain::unit::Bytes;
use ferry::domain::vm::{Firmware, Nic};
use ferry::journal::record::Record;

use crate::sandbox::{Plans, Ran, Sandbox};

/// What each VM's guest sees: a quarter of it is stored, and half of that is noise.
pub(crate) const DISK: u64 = 128 << 20;

/// The same for the first VM of [`Shop::pair`]; the second has an eighth.
pub(crate) const PAIR_DISK: u64 = 64 << 20;

/// The estate.
pub(crate) struct Shop {
    pub(crate) sandbox: Sandbox,
    pub(crate) plans: Plans,
    /// What the target says of its disks.
    disks: &'static str,
}

impl Shop {
    /// Makes the estate around an archive that stands already, so that many share one.
    pub(crate) fn around(archive: &Path) -> Self {
        Self::around_all(&[archive.to_owned()], "checkpointEvery: 8MiB", "")
    }

    /// The same with qcow2 disks on the target.
    pub(crate) fn around_with_qcow2(archive: &Path) -> Self {
        Self::around_all(&[archive.to_owned()], "checkpointEvery: 8MiB", ", diskFormat: qcow2")
    }

    /// Makes the estate with an archive of its own for each VM. The disks are small: a copy takes a good second, with many
    /// checkpoints on its way. One VM moves at a time, the first one first.
    pub(crate) fn pair() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archives = [("web01", PAIR_DISK), ("web02", PAIR_DISK / 8)];
        let archives =
            archives.map(|(name, disk)| archive_of(folder.path(), name, vec![system(name, disk)]));
        Self::around_all(&archives, "checkpointEvery: 1MiB, vmsInFlight: 1", "")
    }

    fn around_all(archives: &[PathBuf], limits: &str, disks: &'static str) -> Self {
        let sandbox = Sandbox::new();
        for folder in ["ova", "vms"] {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        for archive in archives {
            let name = archive.file_name().unwrap().to_str().unwrap();
            fs::hard_link(archive, sandbox.path(format!("ova/{name}"))).unwrap();
        }
        let root = sandbox.path("").display().to_string();
        let root = root.trim_end_matches('/');
        sandbox.write(
            "ferry.yaml",
            format!(
                "repository: {{ url: {root}/plans }}\nstateDir: {root}/state\ninstance: test\n\
                 allowPaths: [{root}/ova, {root}/vms]\nlimits: {{ {limits} }}\n"
            ),
        );
        let plans = sandbox.plans("plans");
        let shop = Self { sandbox, plans, disks };
        shop.plans.commit(&shop.manifests(), "shop");
        shop
    }

    /// Returns the manifests: providers and mapping in one file, the plan in another, the migration in a third.
    pub(crate) fn manifests(&self) -> BTreeMap<&'static str, String> {
        let root = self.sandbox.path("").display().to_string();
        let (root, disks) = (root.trim_end_matches('/'), self.disks);
        let providers = format!(
            "apiVersion: ferry.dev/v1alpha1\nkind: Provider\nmetadata: {{ name: archive }}\n\
             spec: {{ type: ova, ova: {{ path: {root}/ova }} }}\n---\n\
             apiVersion: ferry.dev/v1alpha1\nkind: Provider\nmetadata: {{ name: lab }}\n\
             spec: {{ type: local, local: {{ path: {root}/vms{disks} }} }}\n---\n\
             apiVersion: ferry.dev/v1alpha1\nkind: NetworkMapping\nmetadata: {{ name: nets }}\n\
             spec:\n  provider: {{ source: archive, destination: lab }}\n  map:\n\
             \x20   - {{ source: {{ name: VM Network }}, destination: {{ type: pod }} }}\n"
        );
        let plan = "apiVersion: ferry.dev/v1alpha1\nkind: Plan\nmetadata: { name: shop }\nspec:\n\
                    \x20 provider: { source: archive, destination: lab }\n\
                    \x20 map: { network: nets }\n  skipGuestConversion: true\n\
                    \x20 vms: [{ name: web01 }, { name: web02 }]\n";
        let migration = "apiVersion: ferry.dev/v1alpha1\nkind: Migration\n\
                         metadata: { name: shop-1 }\nspec: { plan: shop }\n";
        BTreeMap::from([
            ("migration.yaml", migration.to_owned()),
            ("plan.yaml", plan.to_owned()),
            ("providers.yaml", providers),
        ])
    }

    /// Runs a command with the estate's settings.
    pub(crate) fn ferry(&self, arguments: &[&str]) -> Ran {
        self.sandbox.ferry(self.with_settings(arguments))
    }

    pub(crate) fn with_settings(&self, arguments: &[&str]) -> Vec<String> {
        let settings = self.sandbox.path("ferry.yaml").display().to_string();
        let own = ["--config".to_owned(), settings];
        arguments.iter().map(|&word| word.to_owned()).chain(own).collect()
    }

    /// Returns what the journal holds, beside a running program.
    pub(crate) fn journal(&self) -> Vec<Record> {
        let state = self.sandbox.path("state");
        let reader = JournalReader::open(&state).ok().flatten();
        reader.and_then(|reader| reader.read().ok()).unwrap_or_default()
    }

    /// Returns every file of the target with a hash of its bytes; the path of the estate is left out of what it says.
    pub(crate) fn target(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.sandbox.path("vms")];
        let root = self.sandbox.path("").display().to_string();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.sandbox.path("vms")).unwrap();
                let bytes = fs::read(&path).unwrap();
                let hash = match name.file_name().unwrap().to_str().unwrap() {
                    // Token and paths are the estate's own.
                    "ferry.json" => String::from("card"),
                    "domain.xml" => {
                        let text = String::from_utf8(bytes).unwrap().replace(&root, "/");
                        let uuid = text.find("<uuid>").unwrap();
                        format!("{}{}", &text[..uuid], &text[text.find("</uuid>").unwrap()..])
                    }
                    // Clusters lie in the order in which they were written. What the guest sees has its hashes in the map.
                    _ if name.extension().is_some_and(|end| end == "qcow2") => {
                        String::from("image")
                    }
                    _ => blake3::hash(&bytes).to_hex().to_string(),
                };
                files.insert(name.display().to_string(), hash);
            }
        }
        files
    }

    /// Returns how many bytes the target's files occupy by now.
    pub(crate) fn occupied(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        let mut open = vec![self.sandbox.path("vms")];
        while let Some(folder) = open.pop() {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    open.push(entry.path());
                } else {
                    bytes += meta.blocks() * 512;
                }
            }
        }
        bytes
    }
}

/// Makes the archive of two VMs in a folder.
pub(crate) fn archive(folder: &Path) -> PathBuf {
    archive_of(folder, "shop", vec![system("web01", DISK), system("web02", DISK / 4)])
}

/// Makes an archive in a folder.
pub(crate) fn archive_of(folder: &Path, name: &str, systems: Vec<SystemSpec>) -> PathBuf {
    let path = folder.join(format!("{name}.ova"));
    make_ova(&path, OvaSpec { name: name.to_owned(), systems }).unwrap();
    path
}

/// Describes a VM whose guest sees a disk of so many bytes.
pub(crate) fn system(name: &str, capacity: u64) -> SystemSpec {
    SystemSpec {
        name: name.to_owned(),
        cpus: 1,
        memory: Bytes::mib(256),
        firmware: Firmware::Bios,
        os: "otherGuest".to_owned(),
        nics: vec![Nic { network: "VM Network".to_owned(), mac: None }],
        disks: vec![DiskSpec { capacity, grains: Some(boot_disk(capacity, name)) }],
    }
}
