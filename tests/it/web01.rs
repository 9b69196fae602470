//! One VM, `web01`, from its archive through git to a local folder: the repository, the archive and the settings of tests with a
//! real guest.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::peers::tool;
use crate::sandbox::{Plans, Ran, Running, Sandbox};

/// Everything that a test says differently.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Says<'a> {
    /// Fields of the plan, as they stand between braces.
    pub(crate) plan: &'a str,
    /// Fields of the plan's entry beside its name.
    pub(crate) entry: &'a str,
    /// Fields of the target beside its path.
    pub(crate) target: &'a str,
    /// What the export says that the guest boots by, where it is not BIOS (`make-ova.sh -f`).
    pub(crate) firmware: &'a str,
    /// Lines of the settings.
    pub(crate) settings: &'a str,
}

/// A sandbox with all of it. The plan is committed with its first [`Web01::commit`].
pub(crate) struct Web01 {
    pub(crate) sandbox: Sandbox,
    pub(crate) plans: Plans,
    /// The flag that names the settings.
    pub(crate) config: String,
    files: BTreeMap<&'static str, String>,
}

impl Web01 {
    /// Packs images of the sandbox as the export of the VM.
    pub(crate) fn new(sandbox: Sandbox, images: &[&str], says: Says<'_>) -> Self {
        let Says { plan, entry, target, firmware, settings } = says;
        let at = |name: &str| sandbox.path(name).display().to_string();
        for name in ["ova", "vms"] {
            fs::create_dir(sandbox.path(name)).unwrap();
        }
        let firmware = if firmware.is_empty() { "bios" } else { firmware };
        let out = at("ova/web01.ova");
        let head = ["-n", "web01", "-f", firmware, "-o", &out].map(str::to_owned).into_iter();
        tool("make-ova.sh", head.chain(images.iter().map(|image| at(image))));
        let [repository, state, ova, vms] = ["plans", "state", "ova", "vms"].map(at);
        let text = format!(
            "repository: {{ url: {repository} }}\nstateDir: {state}\nallowPaths: [{ova}, {vms}]\n{settings}"
        );
        let config = format!("--config={}", sandbox.write("ferry.yaml", text).display());
        let ends = "provider: { source: archives, destination: here }, ";
        let network = "{ source: { name: VM Network }, destination: { type: pod } }";
        let documents = [
            document("Provider", "archives", &format!("type: ova, ova: {{ path: {ova} }}")),
            document(
                "Provider",
                "here",
                &format!("type: local, local: {{ path: {vms}, {target} }}"),
            ),
            document("NetworkMapping", "networks", &format!("{ends}map: [{network}]")),
            document(
                "Plan",
                "web",
                &format!(
                    "{ends}map: {{ network: networks }}, vms: [{{ name: web01, {entry} }}], {plan}"
                ),
            ),
        ];
        let files = BTreeMap::from([("web.yaml", documents.join("---\n"))]);
        let plans = sandbox.plans("plans");
        Self { sandbox, plans, config, files }
    }

    /// Commits what there is.
    pub(crate) fn commit(&self, message: &str) {
        self.plans.commit(&self.files, message);
    }

    /// Changes the manifests; committed with the next commit.
    pub(crate) fn edit(&mut self, from: &str, to: &str) {
        let text = self.files.get_mut("web.yaml").unwrap();
        assert!(text.contains(from), "{text}");
        *text = text.replace(from, to);
    }

    /// Commits a `Migration` that runs the plan, in place of the one before.
    pub(crate) fn migrate(&mut self, name: &str) {
        self.files.insert("migration.yaml", document("Migration", name, "plan: web"));
        self.commit(name);
    }

    /// Runs the program to its end.
    pub(crate) fn ferry(&self, arguments: &[&str]) -> Ran {
        self.sandbox.ferry(arguments.iter().copied().chain([self.config.as_str()]))
    }

    /// Starts `ferry run --once`, whose words [`Web01::said`] knows.
    pub(crate) fn start(&self) -> Running {
        let log = self.sandbox.path("run.log");
        self.sandbox.start_logged(["run", "--once", &self.config], &log)
    }

    /// Tells whether the program that was started said something.
    pub(crate) fn said(&self, words: &str) -> bool {
        fs::read_to_string(self.sandbox.path("run.log")).is_ok_and(|log| log.contains(words))
    }

    /// Returns the one folder in the target's: the area, or the VM.
    pub(crate) fn area(&self) -> PathBuf {
        fs::read_dir(self.sandbox.path("vms")).unwrap().next().unwrap().unwrap().path()
    }

    /// Returns the report of the VM.
    pub(crate) fn report(&self) -> String {
        let mut files = self.plans.files("ferry/status").into_iter();
        files.find(|(path, _)| path.ends_with("/web01.yaml")).unwrap().1
    }
}

fn document(kind: &str, name: &str, fields: &str) -> String {
    format!(
        "apiVersion: ferry.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {{ {fields} }}\n"
    )
}
