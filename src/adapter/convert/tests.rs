//! The converter over programs that are scripts. `peers` has the real ones.

use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::copy::protocol::{ConvertDisk, ConvertTools};
use crate::domain::id::{DiskKey, MigrationName, RunId, SourceVm, TargetName, Token};
use crate::journal::record::Disposition;

/// A name that tries to be more than a name.
const NAME: &str = "web\"><evil/>\u{1b}[31m\n../x";

/// What a script may use: the words of virt-v2v 2.2.0.
const SPEAKS: &str = r#"
    echo '[   0.0] Setting up the source: -i libvirtxml'
    echo 'virt-v2v-in-place: warning: no agent' >&2
    echo '[  13.0] Inspecting the source'
"#;

/// Makes a program of a script. Another process writes it: what this one has open for writing is open in what other tests start
/// at that moment, too, and is not executed as long.
#[expect(clippy::disallowed_methods, reason = "see above")]
pub(super) fn script(folder: &Path, name: &str, text: &str) {
    let source = folder.join(format!("{name}.text"));
    fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
    let mut install = std::process::Command::new("install");
    assert!(
        install.args(["-m", "755"]).args([&source, &folder.join(name)]).status().unwrap().success()
    );
}

/// An area with two disks, and programs of its own.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    pub(super) job: ConvertJob,
    pub(super) folders: Vec<PathBuf>,
    pub(super) waits: Waits,
}

impl Bench {
    /// Makes an area whose `disk-0.raw`, … hold these bytes.
    pub(super) fn new(disks: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let area = at("vms/.ferry-0123abcd");
        fs::create_dir_all(&area).unwrap();
        for name in ["bin", "tmp"] {
            fs::create_dir(at(name)).unwrap();
        }
        let disk = |(index, bytes): (usize, &&[u8])| {
            let file = format!("disk-{index}.raw");
            fs::write(area.join(&file), bytes).unwrap();
            let local = LocalDisk {
                folder: at("vms").to_str().unwrap().to_owned(),
                area: Token::new("0123abcd"),
                name: TargetName::new("web-01"),
                file,
            };
            let disk = DiskKey::new(format!("d{index}"));
            ConvertDisk { disk, target: local.to_target(), committed: false }
        };
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        let job = ConvertJob {
            run: RunId {
                vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
                migration: MigrationName::new("../m"),
                attempt: 3,
            },
            name: NAME.to_owned(),
            disks: disks.iter().enumerate().map(disk).collect(),
            converted: false,
            allow_paths: vec![text("vms")],
            tools: ConvertTools {
                program: "convert".to_owned(),
                tmp_dir: text("tmp"),
                virtio_win: text("no-drivers"),
                log_dir: text("state/conversions"),
            },
        };
        let patience = Patience { silence: Duration::from_mins(1), ask: Duration::from_millis(20) };
        let waits = Waits { lock: Duration::from_secs(20), patience };
        let folders = vec![at("bin"), "/usr/bin".into(), "/bin".into()];
        Self { folder, job, folders, waits }
    }

    /// Makes an area of two small disks, a qemu-img that writes its arguments, and a converter that is this script.
    fn scripted(script: &str) -> Self {
        let bench = Self::new(&[b"one", b"two"]);
        bench.script("qemu-img", r#"for last; do :; done; echo "$@" >> "$last""#);
        bench.script("convert", script);
        bench
    }

    fn script(&self, name: &str, text: &str) {
        script(&self.at("bin"), name, text);
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn in_area(&self, name: &str) -> PathBuf {
        self.at("vms/.ferry-0123abcd").join(name)
    }

    pub(super) fn open(&self) -> Result<VirtV2v, PortError> {
        VirtV2v::open_within(&self.job, self.folders.clone(), self.waits)
    }

    /// Converts, and returns the steps as well.
    pub(super) fn convert(&self) -> (Result<Conversion, PortError>, Vec<String>) {
        let mut steps = Vec::new();
        let done = self.open().unwrap().convert(&mut |step| {
            if steps.last().map(String::as_str) != Some(step) {
                steps.push(step.to_owned());
            }
            true
        });
        (done, steps)
    }

    fn log(&self) -> String {
        let mut logs = fs::read_dir(self.at("state/conversions")).unwrap();
        let log = logs.next().unwrap().unwrap();
        assert!(logs.next().is_none());
        let mode = log.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", log.path().display());
        fs::read_to_string(log.path()).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Waits until something is so.
fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    unreachable!("{what} does not happen within 20 s");
}

const COPIED: [&str; 3] = ["convert.lock", "disk-0.raw", "disk-1.raw"];

#[test]
fn steps_and_warnings_are_told_and_the_overlays_stay() {
    let script = format!(
        r#"{SPEAKS}
        echo "$@" > "$TMPDIR/../arguments"; env | cut -d= -f1 | sort > "$TMPDIR/../environment"
        cp "$4" "$TMPDIR/../xml"; printf '\033[31mred\n'; touch "$TMPDIR/left"
        "#
    );
    let bench = Bench::scripted(&script);
    fs::write(bench.in_area("disk-0.overlay.qcow2"), "an earlier try").unwrap();
    fs::create_dir_all(bench.at("tmp/ferry-0123abcd/killed")).unwrap();
    let (done, steps) = bench.convert();
    let Ok(Conversion::Done { mut warnings }) = done else { unreachable!("{done:?}") };
    warnings.retain(|warning| !warning.contains("KVM"));
    assert_eq!(warnings, ["no agent"]);
    assert_eq!(
        steps,
        [
            "Making overlays",
            "Starting the converter",
            "Setting up the source: -i libvirtxml",
            "Inspecting the source"
        ]
    );
    let overlay = fs::read_to_string(bench.in_area("disk-0.overlay.qcow2")).unwrap();
    let expected = format!(
        "create -q -f qcow2 -F raw -b disk-0.raw {}\n",
        bench.in_area("disk-0.overlay.qcow2").display()
    );
    assert_eq!(overlay, expected);
    let mut names = vec!["convert.lock", "disk-0.overlay.qcow2", "disk-0.raw"];
    names.extend(["disk-1.overlay.qcow2", "disk-1.raw"]);
    assert_eq!(bench.names("vms/.ferry-0123abcd"), names);
    // Nothing temporary is left but what the script put elsewhere.
    assert_eq!(bench.names("tmp"), ["arguments", "environment", "xml"]);
    let read = |name: &str| fs::read_to_string(bench.at(name)).unwrap();
    assert!(read("tmp/arguments").starts_with("--machine-readable -i libvirtxml "));
    let variables = read("tmp/environment");
    for variable in ["LIBGUESTFS_BACKEND", "LIBGUESTFS_CACHEDIR", "TMPDIR", "VIRT_V2V_TMPDIR"] {
        assert!(variables.lines().any(|line| line == variable), "{variable}: {variables}");
    }
    assert!(!variables.contains("HOME") && !variables.contains("VIRTIO_WIN"), "{variables}");
    let xml = read("tmp/xml");
    assert!(
        xml.contains("<name>web&quot;&gt;&lt;evil/&gt;\u{fffd}[31m\u{fffd}../x</name>"),
        "{xml}"
    );
    let log = bench.log();
    assert!(log.contains("Z [  13.0] Inspecting the source\n"), "{log}");
    assert!(log.contains("\\u{1b}[31mred") && !log.contains('\u{1b}'), "{log}");
    assert_eq!(bench.names("state"), ["conversions"]);
}

/// Returns the text, the remedy and what mends it.
fn fault(done: Result<Conversion, PortError>) -> (String, String, Disposition) {
    let fault = done.unwrap_err().fault;
    (fault.text, fault.remedy, fault.disposition)
}

#[test]
fn a_failure_is_told_in_the_converters_own_words() {
    let person = Disposition::Stall(Mend::Person);
    let target = Disposition::Stall(Mend::Target);
    for (script, expected, disposition) in [
        (
            "echo 'virt-v2v-in-place: error: no root device\n\nfound here' >&2; exit 1",
            "cannot be converted: no root device found here",
            person.clone(),
        ),
        ("exit 9", "it did not say why", person.clone()),
        (
            "echo 'virt-v2v-in-place: This guest does not have virtio drivers installed.'",
            "has no drivers for virtio after its conversion: virt-v2v-in-place: This guest does not",
            person,
        ),
        ("kill -9 $$", "was ended by signal 9 while it was at `Starting", Disposition::Retry),
        ("exit 127", "cannot start", target),
    ] {
        let bench = Bench::scripted(script);
        let (text, remedy, found) = fault(bench.convert().0);
        assert!(text.contains(expected), "{text}");
        assert_eq!(found, disposition, "{text}");
        assert_eq!(bench.names("vms/.ferry-0123abcd"), COPIED, "{script}");
        assert!(bench.names("tmp").is_empty());
        if found == Disposition::Stall(Mend::Person) {
            let way_out = if text.contains("virtio") { "virtioWin" } else { "skipGuestConversion" };
            for said in ["as they were copied", "state/conversions/", way_out] {
                assert!(remedy.contains(said), "{remedy}");
            }
        }
    }
}

#[test]
fn programs_that_are_not_there_are_told() {
    let mut bench = Bench::scripted("");
    bench.job.tools.program = "ferry-no-such-converter".to_owned();
    let (text, remedy, disposition) = fault(bench.convert().0);
    assert!(text.contains("`ferry-no-such-converter` is not installed"), "{text}");
    assert!(remedy.contains("virt-v2v"), "{remedy}");
    assert_eq!(disposition, Disposition::Stall(Mend::Target));
    let bench = Bench::scripted("");
    bench.script("qemu-img", "echo 'qemu-img: x: No space left on device' >&2; exit 1");
    let (text, _, disposition) = fault(bench.convert().0);
    assert!(text.contains("cannot make") && text.contains("No space left"), "{text}");
    assert!(matches!(disposition, Disposition::Stall(Mend::Space(_))), "{disposition:?}");
}

/// A converter that starts a process that would stay, tells its number, and waits for ever.
const STAYS: &str = r#"
    sleep 1000 & echo $! > "$TMPDIR/../child"; echo '[ 1.0] Staying'; wait
"#;

impl Bench {
    fn child_lives(&self) -> bool {
        let Ok(id) = fs::read_to_string(self.at("tmp/child")) else { return false };
        // One that ended and is not waited for yet holds nothing any more.
        let status = fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        status.is_ok_and(|status| !status.contains(") Z"))
    }
}

#[test]
fn stopping_ends_everything_that_was_started() {
    let bench = Bench::scripted(STAYS);
    let mut converter = bench.open().unwrap();
    let done = converter.convert(&mut |step| step != "Staying");
    assert_eq!(done, Ok(Conversion::Stopped));
    until("the end of the child", || !bench.child_lives());
    assert_eq!(bench.names("vms/.ferry-0123abcd"), COPIED);
    // Its words are repeated while it says nothing, so that a stop is heard.
    let mut repeated = 0;
    let done = converter.convert(&mut |step| {
        repeated += usize::from(step == "Staying");
        repeated < 5
    });
    assert_eq!(done, Ok(Conversion::Stopped));
    let done = converter.convert(&mut |_| false);
    assert_eq!(done, Ok(Conversion::Stopped));
}

#[test]
fn silence_is_bounded() {
    let mut bench = Bench::scripted(STAYS);
    bench.waits.patience.silence = Duration::from_millis(300);
    let (text, _, disposition) = fault(bench.convert().0);
    assert!(text.contains("said nothing for") && text.contains("`Staying`"), "{text}");
    assert_eq!(disposition, Disposition::Retry);
    until("the end of the child", || !bench.child_lives());
}

#[test]
fn what_a_converter_leaves_running_is_ended_with_it() {
    let bench = Bench::scripted(&STAYS.replace("; wait", "; exit 0"));
    assert!(matches!(bench.convert().0, Ok(Conversion::Done { .. })));
    until("the end of the child", || !bench.child_lives());
}

#[test]
fn everything_goes_with_the_thread_that_started_it() {
    let bench = Bench::scripted(STAYS);
    let (say, said) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            // A thread that unwinds stands for a worker that is killed: the kernel tells its children in both cases.
            let mut converter = bench.open().unwrap();
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _ = converter.convert(&mut |step| {
                    assert_ne!(step, "Staying", "as planned");
                    true
                });
            }));
            say.send(unwound.is_err()).unwrap();
        });
    });
    assert!(said.recv().unwrap());
    until("the end of the child", || !bench.child_lives());
    bench.open().unwrap();
}

#[test]
fn one_converter_works_in_an_area_and_an_orphan_keeps_the_others_out() {
    let mut bench = Bench::scripted("");
    bench.waits.lock = Duration::from_millis(100);
    let first = bench.open().unwrap();
    let error = bench.open().unwrap_err();
    assert!(error.fault.text.contains("convert.lock is in use by"), "{error}");
    assert_eq!(error.fault.disposition, Disposition::Retry);

    // What was started holds the lock, too.
    let hold = first.lock.try_clone().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a process that outlives its worker")]
    let mut orphan = std::process::Command::new("sleep").arg("1000").stdin(hold).spawn().unwrap();
    drop(first);
    let error = bench.open().unwrap_err();
    assert!(error.fault.text.contains("in use by sleep"), "{error}");
    orphan.kill().unwrap();
    orphan.wait().unwrap();
    bench.open().unwrap();

    // So does a copy that is not at its end.
    let disk = File::options().write(true).open(bench.in_area("disk-1.raw")).unwrap();
    lock(&disk, Path::new("disk"), Duration::ZERO).unwrap();
    let error = bench.open().unwrap_err();
    assert!(error.fault.text.contains("disk-1.raw is in use by"), "{error}");
}

#[test]
fn a_commit_voids_the_map_and_needs_its_overlay() {
    let bench = Bench::scripted("");
    let mut converter = bench.open().unwrap();
    let disk = bench.job.disks[1].target.clone();
    fs::write(bench.in_area("disk-1.raw.map"), "hashes").unwrap();
    let fault = converter.commit(&disk, &mut |_| true).unwrap_err().fault;
    assert!(fault.text.ends_with("disk-1.overlay.qcow2 is gone"), "{}", fault.text);
    assert_eq!(fault.disposition, Disposition::Stall(Mend::Person));
    assert!(bench.in_area("disk-1.raw.map").exists());

    let overlay = bench.in_area("disk-1.overlay.qcow2");
    fs::write(&overlay, "").unwrap();
    bench.script("qemu-img", r#"echo "    (1.00/100%)"; echo "$@" >> "$6""#);
    for count in 1..=2 {
        converter.commit(&disk, &mut |_| true).unwrap();
        let expected = format!("commit -p -f qcow2 -d {}\n", overlay.display());
        assert_eq!(fs::read_to_string(&overlay).unwrap(), expected.repeat(count));
    }
    assert!(!bench.in_area("disk-1.raw.map").exists());

    // One that takes long is told of, and can be stopped.
    bench.script("qemu-img", "exec sleep 1000");
    let mut told = Vec::new();
    let stopped = converter.commit(&disk, &mut |step| {
        told.push(step.to_owned());
        told.len() < 3
    });
    assert_eq!(stopped, Ok(Conversion::Stopped));
    assert_eq!(told, ["Committing the conversion of disk-1.raw"; 3]);
    bench.script("qemu-img", "printf '    (1.00/100%%)\\rqemu-img: it burns\\n'; exit 1");
    let fault = converter.commit(&disk, &mut |_| true).unwrap_err().fault;
    assert!(fault.text.ends_with("disk-1.overlay.qcow2: qemu-img: it burns"), "{}", fault.text);
    assert_eq!(fault.disposition, Disposition::Retry);
    let other = LocalDisk { file: "disk-7.raw".into(), ..LocalDisk::parse(&disk).unwrap() };
    assert!(converter.commit(&other.to_target(), &mut |_| true).is_err());
}

#[test]
fn disks_elsewhere_are_refused() {
    let bench = Bench::scripted("");
    let disk = LocalDisk::parse(&bench.job.disks[0].target).unwrap();
    let refused = |disk: LocalDisk| {
        let mut job = bench.job.clone();
        job.disks[0].target = disk.to_target();
        job.disks.truncate(1);
        VirtV2v::open_within(&job, Vec::new(), bench.waits).unwrap_err().fault.text
    };
    let at = |file: &str| LocalDisk { file: file.to_owned(), ..disk.clone() };
    for file in ["../x", "/etc/passwd", "ferry.json", "disk-0/../disk-0.raw", ""] {
        assert!(refused(at(file)).contains("do not lie together"), "{file}");
    }
    assert!(refused(at("disk-9.raw")).contains("is gone"));
    std::os::unix::fs::symlink("/etc/passwd", bench.in_area("disk-8.raw")).unwrap();
    assert!(refused(at("disk-8.raw")).contains("disk-8.raw"));
    let elsewhere = LocalDisk { folder: "/etc".to_owned(), ..disk.clone() };
    assert!(refused(elsewhere).contains("allowPaths"));
    let area = Token::new("..");
    assert!(refused(LocalDisk { area, ..disk.clone() }).contains("cannot be called"));
    let area = Token::new("none");
    assert!(refused(LocalDisk { area, ..disk }).contains("is gone"));
    let mut job = bench.job.clone();
    job.disks.clear();
    assert!(VirtV2v::open(&job, Vec::new()).is_err());
}
