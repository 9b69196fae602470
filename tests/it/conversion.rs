//! A guest that is not ready for KVM, through git: copied, converted, made and booted, by the program, virt-v2v, QEMU and libvirt.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ferry::copy::tree::LEAF_BYTES;

use crate::kill::{children, until};
use crate::peers::{GUEST_MARKER, Libvirt, format_of, run, same, tool};
use crate::sandbox::{Plans, Ran, Running, Sandbox};

/// How long a conversion may take: under emulation, on a busy machine.
const CONVERSION_SECONDS: u64 = 1200;

/// A repository with a plan of one VM, the archive that the VM lies in, and settings.
struct Move {
    sandbox: Sandbox,
    plans: Plans,
    files: BTreeMap<&'static str, String>,
    config: String,
}

impl Move {
    /// Packs the images as the export of a VM, and commits a plan that moves it to disks of a format.
    fn of(sandbox: Sandbox, images: &[&str], settings: &str, format: &str) -> Self {
        let folder = |name: &str| sandbox.path(name).display().to_string();
        for name in ["ova", "vms"] {
            fs::create_dir(sandbox.path(name)).unwrap();
        }
        let archive = folder("ova/web01.ova");
        let mut arguments = vec!["-n".to_owned(), "web01".to_owned(), "-o".to_owned(), archive];
        arguments.extend(images.iter().map(|image| folder(image)));
        tool("make-ova.sh", arguments);
        let text = format!(
            "repository: {{ url: {} }}\nstateDir: {}\nallowPaths: [{}, {}]\n{settings}",
            folder("plans"),
            folder("state"),
            folder("ova"),
            folder("vms"),
        );
        let config = format!("--config={}", sandbox.write("ferry.yaml", text).display());
        let plans = sandbox.plans("plans");
        let ends = "provider: { source: archives, destination: here }";
        let document = |kind: &str, name: &str, spec: &str| {
            format!(
                "apiVersion: ferry.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n  {spec}\n"
            )
        };
        let plan = [
            document(
                "Provider",
                "archives",
                &format!("type: ova\n  ova: {{ path: {} }}", folder("ova")),
            ),
            document(
                "Provider",
                "here",
                &format!(
                    "type: local\n  local: {{ path: {}, diskFormat: {format} }}",
                    folder("vms")
                ),
            ),
            document(
                "NetworkMapping",
                "networks",
                &format!(
                    "{ends}\n  map: [{{ source: {{ name: VM Network }}, destination: {{ type: pod }} }}]"
                ),
            ),
            document(
                "Plan",
                "web",
                &format!("{ends}\n  map: {{ network: networks }}\n  vms: [{{ name: web01 }}]"),
            ),
        ]
        .join("---\n");
        let files = BTreeMap::from([("web.yaml", plan)]);
        let mut made = Self { sandbox, plans, files, config };
        made.migrate("web-1");
        made
    }

    fn migrate(&mut self, name: &str) {
        let text = format!(
            "apiVersion: ferry.dev/v1alpha1\nkind: Migration\nmetadata: {{ name: {name} }}\nspec: {{ plan: web }}\n"
        );
        self.files.insert("migration.yaml", text);
        self.plans.commit(&self.files, name);
    }

    fn ferry(&self, arguments: &[&str]) -> Ran {
        let arguments = arguments.iter().copied().chain([self.config.as_str()]);
        self.sandbox.ferry(arguments)
    }

    fn start(&self) -> Running {
        let log = self.sandbox.path("run.log");
        self.sandbox.start_logged(["run", "--once", &self.config], &log)
    }

    fn said(&self, words: &str) -> bool {
        fs::read_to_string(self.sandbox.path("run.log")).is_ok_and(|log| log.contains(words))
    }

    /// Returns the folder that the VM is made in.
    fn area(&self) -> PathBuf {
        fs::read_dir(self.sandbox.path("vms")).unwrap().next().unwrap().unwrap().path()
    }

    /// Lists the files of the VM.
    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.sandbox.path("vms/web01")).unwrap().flatten();
        let mut names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Fails unless the VM stands there with what the fake converter makes of its disks, and with nothing else.
    #[track_caller]
    fn is_converted(&self, format: &str) {
        let folder = self.sandbox.path("vms/web01");
        let disks = ["disk-0", "disk-1"].map(|name| format!("{name}.{format}"));
        assert_eq!(
            self.names(),
            [disks[0].as_str(), disks[1].as_str(), "domain.xml", "ferry.json"]
        );
        for (disk, byte) in disks.iter().zip([1, 2]) {
            let disk = folder.join(disk);
            assert!(seen(&disk) == converted(byte));
            if format == "qcow2" {
                run("qemu-img", ["check", "-q", "-f", format, disk.to_str().unwrap()]);
            }
        }
    }

    /// Returns the report of the VM.
    fn report(&self) -> String {
        let files = self.plans.files("ferry/status");
        let of =
            |(path, text): (&String, &String)| path.ends_with("/web01.yaml").then(|| text.clone());
        files.iter().find_map(of).unwrap()
    }
}

/// Lists a process, what it started, and what that started.
fn family(parent: u32) -> Vec<i32> {
    let mut all = children(parent);
    let mut at = 0;
    while at < all.len() {
        all.extend(children(u32::try_from(all[at]).unwrap()));
        at += 1;
    }
    all
}

fn lives(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Reads what a guest sees of a disk.
fn seen(disk: &Path) -> Vec<u8> {
    let raw = disk.with_extension("seen");
    let (from, to) = (disk.to_str().unwrap(), raw.to_str().unwrap());
    run("qemu-img", ["convert", "-f", format_of(disk), "-O", "raw", from, to]);
    let bytes = fs::read(&raw).unwrap();
    fs::remove_file(&raw).unwrap();
    bytes
}

/// Reads a file of the guest's file system; the partition begins at 1 MiB.
fn content(image: &Path, file: &str) -> String {
    let image = format!("{}?offset=1048576", image.display());
    run("debugfs", ["-R", &format!("cat {file}"), &image])
}

#[test]
fn a_guest_of_vmware_boots_on_virtio_after_its_conversion_was_killed() {
    guest_of_vmware("raw");
}

#[test]
fn a_guest_of_vmware_boots_from_a_qcow2_after_its_conversion_was_killed() {
    guest_of_vmware("qcow2");
}

fn guest_of_vmware(format: &str) {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    tool("tiny-guest.sh", ["build", &path("source.raw"), "--debian", "--name", "web01"]);
    let orders = (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
    sandbox.write("orders", &orders);
    let source = format!("{}?offset=1048576", path("source.raw"));
    for command in ["mkdir /srv/data", &format!("write {} /srv/data/orders", path("orders"))] {
        run("debugfs", ["-w", "-R", command, &source]);
    }
    fs::write(path("data.raw"), vec![7; 100_000]).unwrap();
    fs::File::options().write(true).open(path("data.raw")).unwrap().set_len(64 << 20).unwrap();
    let moved = Move::of(sandbox, &["source.raw", "data.raw"], "", format);

    let preview = moved.ferry(&["diff"]).expect(2);
    assert!(preview.stdout.contains("converts the guest"), "{}", preview.stdout);
    let running = moved.start();
    until(CONVERSION_SECONDS, "the conversion", || moved.said("convert: Inspecting the source"));
    let processes = family(running.id());
    assert!(processes.len() > 2, "worker, converter and QEMU: {processes:?}");
    running.kill();
    until(60, "an end of all", || !processes.iter().any(|process| lives(*process)));
    let disks = ["disk-0", "disk-1"].map(|name| format!("{name}.{format}"));
    same(&moved.sandbox.path("source.raw"), &moved.area().join(&disks[0]));

    moved.ferry(&["run", "--once"]).expect(0);
    let report = moved.report();
    assert!(report.contains("name: ImageConversion\n  status: Completed"), "{report}");
    assert!(report.contains("conversionWarnings"), "{report}");
    let folder = moved.sandbox.path("vms/web01");
    assert_eq!(moved.names(), [disks[0].as_str(), disks[1].as_str(), "domain.xml", "ferry.json"]);
    let plain = moved.sandbox.path("converted.raw");
    fs::write(&plain, seen(&folder.join(&disks[0]))).unwrap();
    assert_eq!(content(&plain, "/srv/data/orders"), orders);
    same(&moved.sandbox.path("data.raw"), &folder.join(&disks[1]));
    let verified = moved.ferry(&["verify", "web/web01"]).expect(1);
    assert!(verified.stdout.contains("ended when its guest was converted"), "{}", verified.stdout);
    moved.ferry(&["diff"]).expect(0);

    let line = Libvirt::start().boot(&folder.join("domain.xml"), GUEST_MARKER);
    assert!(line.contains("name=web01 ") && line.contains("disks=vda,vdb "), "{line}");
}

/// A converter that says what virt-v2v says of itself, writes into the disks, and does what `mood` holds.
const FAKE: &str = r#"#!/bin/sh
case " $* " in
*" -i "*) ;;
*) printf '%s\n' virt-v2v-in-place libguestfs-rewrite input:disk input:libvirtxml convert:linux convert:windows; exit 0 ;;
esac
here=$(dirname "$0")
for last; do :; done
echo "[   0.0] Opening the source"
for disk in $(sed -n "s/.*<source file=['\"]\([^'\"]*\)['\"].*/\1/p" "$last"); do
  qemu-io -f qcow2 -c "write -P 0x5a 0 128k" "$disk" > /dev/null || exit 1
done
case $(cat "$here/mood") in
fail) echo "virt-v2v-in-place: error: inspection could not detect the source guest" >&2; exit 1 ;;
wait) echo "[   1.0] Converting the guest"; exec cat "$here/never" ;;
esac
"#;

fn with_fake(mood: &str, format: &str) -> Move {
    let sandbox = Sandbox::new();
    let fake = sandbox.write("tools/virt-v2v-in-place", FAKE);
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.write("tools/mood", mood);
    run("mkfifo", [sandbox.path("tools/never")]);
    let leaf = usize::try_from(LEAF_BYTES).unwrap();
    for (name, byte) in [("source.raw", 1), ("data.raw", 2)] {
        sandbox.write(name, vec![byte; 48 * leaf]);
    }
    let settings = format!("convert: {{ path: {} }}\n", fake.display());
    Move::of(sandbox, &["source.raw", "data.raw"], &settings, format)
}

/// What the fake converter makes of a disk that holds one byte everywhere.
fn converted(byte: u8) -> Vec<u8> {
    let leaf = usize::try_from(LEAF_BYTES).unwrap();
    let mut disk = vec![byte; 48 * leaf];
    disk[..2 * leaf].fill(0x5a);
    disk
}

#[test]
fn a_guest_that_cannot_be_converted_stays_as_copied_and_is_converted_later_without_copying() {
    for format in ["raw", "qcow2"] {
        let mut moved = with_fake("fail", format);
        moved.ferry(&["run", "--once"]).expect(1);
        let report = moved.report();
        assert!(report.contains("inspection could not detect the source guest"), "{report}");
        let area = moved.area();
        for (source, disk) in [("source.raw", "disk-0"), ("data.raw", "disk-1")] {
            same(&moved.sandbox.path(source), &area.join(format!("{disk}.{format}")));
        }
        moved.sandbox.write("tools/mood", "convert");
        moved.migrate("web-2");
        let ran = moved.ferry(&["run", "--once"]).expect(0);
        assert!(!ran.stderr.contains("copy, "), "nothing is copied again:\n{}", ran.stderr);
        moved.is_converted(format);
    }
}

#[test]
fn what_was_kept_in_another_format_goes_and_is_copied_again() {
    let mut moved = with_fake("fail", "raw");
    moved.ferry(&["run", "--once"]).expect(1);
    let kept = moved.area();
    assert!(kept.join("disk-1.raw").exists());
    moved.sandbox.write("tools/mood", "convert");
    let plan = moved.files["web.yaml"].replace("diskFormat: raw", "diskFormat: qcow2");
    moved.files.insert("web.yaml", plan);
    moved.migrate("web-2");
    moved.ferry(&["run", "--once"]).expect(0);
    assert!(!kept.exists());
    moved.is_converted("qcow2");
}

#[test]
fn a_conversion_is_stopped_with_its_controller_and_begun_again() {
    for format in ["raw", "qcow2"] {
        let moved = with_fake("wait", format);
        for _ in 0..2 {
            let running = moved.start();
            until(60, "the conversion", || moved.said("convert: Converting the guest"));
            let processes = family(running.id());
            running.kill();
            until(60, "an end of all", || !processes.iter().any(|process| lives(*process)));
        }
        moved.sandbox.write("tools/mood", "convert");
        moved.ferry(&["run", "--once"]).expect(0);
        moved.is_converted(format);
    }
}
