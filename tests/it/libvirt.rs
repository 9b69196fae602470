//! The main job with a real libvirt: from an archive and a plan in git to a running domain, by the program alone.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::peers::{BOOT_LIMIT, GUEST_MARKER, Libvirt, marked, plain_domain, run, tool};
use crate::sandbox::Sandbox;
use crate::web01::{Says, Web01};

/// A preview whose texts are not broken into lines.
const PREVIEW: [&str; 3] = ["diff", "--output", "json"];

/// A VM that its plan starts in a libvirt.
struct Hosted {
    moved: Web01,
    /// What the domain is called. The libvirt is the machine's: each test of each run has a name of its own.
    name: String,
    libvirt: Libvirt,
}

impl Hosted {
    fn new(test: &str) -> Self {
        let name = format!("ferry-{test}-{}", std::process::id());
        let libvirt = Libvirt::start();
        let sandbox = Sandbox::new();
        let source = sandbox.path("source.raw");
        tool("tiny-guest.sh", ["build", source.to_str().unwrap(), "--name", "web01"]);
        let entry = format!("targetName: {name}");
        let settings = format!("libvirt: {{ uri: {} }}\n", Libvirt::URI);
        let plan = "skipGuestConversion: true, targetPowerState: \"on\"";
        let says = Says { plan, entry: &entry, settings: &settings, ..Says::default() };
        let mut moved = Web01::new(sandbox, &["source.raw"], says);
        moved.migrate("web-1");
        Self { moved, name, libvirt }
    }

    /// Runs a command and returns its exit code and its answer.
    fn ferry(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let ran = self.moved.ferry(arguments);
        (ran.code, ran.stdout)
    }

    /// Runs a command that is to end with a code, and returns its answer.
    #[track_caller]
    fn expect(&self, arguments: &[&str], code: i32) -> String {
        self.moved.ferry(arguments).expect(code).stdout
    }

    /// Returns the state of the domain; nothing where there is none.
    fn state(&self) -> String {
        let all = virsh(&["list", "--all", "--name"]);
        if all.lines().any(|name| name.trim() == self.name) {
            virsh(&["domstate", &self.name]).trim().to_owned()
        } else {
            String::new()
        }
    }

    /// Puts a `virsh` in front of the real one, which does something first.
    fn shadowed(&self, first: &str) -> String {
        let script = format!("#!/bin/sh\n{first}\nexec /usr/bin/virsh \"$@\"\n");
        // Another process writes it: were it open here, a fork of this one could keep it from being run.
        let path = self.moved.sandbox.path("shadow/virsh").display().to_string();
        let write = "mkdir -p \"${2%/*}\" && printf %s \"$1\" > \"$2\" && chmod +x \"$2\"";
        run("sh", ["-c", write, "sh", &script, &path]);
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.moved.sandbox.path("shadow").display())
    }
}

impl Drop for Hosted {
    /// Takes the domain away, whatever became of the test: the libvirt may be the machine's own.
    fn drop(&mut self) {
        self.libvirt.forget(&self.name);
    }
}

/// Asks the libvirt of the tests.
fn virsh(arguments: &[&str]) -> String {
    run("virsh", ["-q", "-c", Libvirt::URI].iter().chain(arguments))
}

/// A serial console, listened to from before its guest begins: the terminal that QEMU makes forgets what nobody reads.
struct Console {
    heard: Receiver<String>,
}

impl Console {
    fn of(domain: &str) -> Self {
        let (said, heard) = channel();
        let ask = ["-q", "-c", Libvirt::URI, "ttyconsole", domain].map(str::to_owned);
        // It ends with the domain, or with the console where the domain never comes.
        std::thread::spawn(move || {
            let path = loop {
                let answer = Command::new("virsh").args(&ask).stderr(Stdio::null()).output();
                let text = String::from_utf8_lossy(&answer.unwrap().stdout).trim().to_owned();
                if text.starts_with("/dev/") {
                    break text;
                }
                if said.send(String::new()).is_err() {
                    return;
                }
            };
            let mut terminal = fs::File::open(path).unwrap();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = terminal.read(&mut buffer) {
                if said.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { heard }
    }

    /// Waits for a line with the marker.
    fn line(&self, marker: &str) -> String {
        let end = Instant::now() + BOOT_LIMIT;
        let mut heard = String::new();
        loop {
            if let Some(line) = marked(&heard, marker) {
                return line;
            }
            let left = end.saturating_duration_since(Instant::now());
            let said = self.heard.recv_timeout(left);
            assert!(said.is_ok(), "no `{marker}` within {BOOT_LIMIT:?}:\n{heard}");
            heard += &said.unwrap();
        }
    }
}

#[test]
fn a_vm_goes_from_its_archive_through_git_to_a_running_domain() {
    let hosted = Hosted::new("boots");
    let console = Console::of(&hosted.name);
    assert!(hosted.ferry(&["doctor"]).1.contains("qemu:///system answers: libvirt "));
    assert!(hosted.expect(&PREVIEW, 2).contains("starts it on the target"));
    hosted.expect(&["run", "--once"], 0);
    assert_eq!(hosted.state(), "running");
    let line = console.line(GUEST_MARKER);
    assert!(line.contains("name=web01 boots=1 "), "{line}");

    // Nothing is left to do: nothing is committed, started again or written.
    let seen = || {
        let id = virsh(&["domid", &hosted.name]);
        (id, hosted.moved.plans.tip("ferry/status"), virsh(&["dumpxml", &hosted.name]))
    };
    let before = seen();
    hosted.expect(&["diff"], 0);
    hosted.expect(&["run", "--once"], 0);
    assert_eq!(seen(), before);
    let uuid = virsh(&["domuuid", &hosted.name]);
    let file = hosted.moved.sandbox.path("vms").join(&hosted.name).join("domain.xml");
    assert!(fs::read_to_string(file).unwrap().contains(uuid.trim()));
    let status = hosted.expect(&["status", "--why"], 0);
    assert!(status.contains("migrated to") && !status.contains("not started"), "{status}");
}

#[test]
fn killed_around_each_effect_the_domain_is_made_and_started_once() {
    let hosted = Hosted::new("killed");
    let running = |first: &str, state: &str| {
        let mut command = hosted.moved.sandbox.command(["run", "--once", &hosted.moved.config]);
        let ran = command.env("PATH", hosted.shadowed(first)).output().unwrap();
        assert_eq!(ran.status.code(), None, "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(hosted.state(), state, "{first}");
    };
    let at = |command: &str, done: &str| {
        format!("case \" $* \" in *\" {command} \"*) {done} kill -9 $PPID; exit 1;; esac")
    };
    running(&at("define", ""), "");
    assert!(
        hosted.moved.sandbox.path("vms").join(&hosted.name).exists(),
        "it has its name already"
    );
    running(&at("define", "/usr/bin/virsh \"$@\";"), "shut off");
    running(&at("start", ""), "shut off");
    running(&at("start", "/usr/bin/virsh \"$@\";"), "running");
    let id = virsh(&["domid", &hosted.name]);
    hosted.expect(&["run", "--once"], 0);
    assert_eq!((hosted.state().as_str(), virsh(&["domid", &hosted.name])), ("running", id));
    hosted.expect(&["diff"], 0);
}

#[test]
fn a_domain_of_somebody_else_keeps_its_name() {
    let hosted = Hosted::new("foreign");
    let disk = hosted.moved.sandbox.path("theirs.raw");
    let theirs = hosted.moved.sandbox.write("theirs.xml", plain_domain(&hosted.name, &disk));
    virsh(&["define", theirs.to_str().unwrap()]);
    let uuid = virsh(&["domuuid", &hosted.name]);
    let told = hosted.expect(&["diff"], 3);
    assert!(told.contains("stands on `here` already"), "{told}");
    hosted.expect(&["run", "--once"], 3);
    assert_eq!(fs::read_dir(hosted.moved.sandbox.path("vms")).unwrap().count(), 0);
    assert_eq!((virsh(&["domuuid", &hosted.name]), hosted.state().as_str()), (uuid, "shut off"));
    virsh(&["undefine", &hosted.name]);
    hosted.expect(&["run", "--once"], 0);
    assert_eq!(hosted.state(), "running");
}

#[test]
fn without_a_libvirt_nothing_is_started_and_that_is_said() {
    let hosted = Hosted::new("files");
    let settings = fs::read_to_string(hosted.moved.sandbox.path("ferry.yaml")).unwrap();
    let files_only = settings.lines().filter(|line| !line.starts_with("libvirt:"));
    hosted.moved.sandbox.write("ferry.yaml", files_only.collect::<Vec<_>>().join("\n"));
    let told = hosted.expect(&PREVIEW, 2);
    assert!(told.contains("does not start it: the target starts nothing"), "{told}");
    hosted.expect(&["run", "--once"], 0);
    hosted.expect(&["diff"], 0);
    let report = hosted.expect(&["status", "--output", "json"], 0);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let conditions = report[0]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|it| it["type"] == "NotStarted").unwrap();
    assert_eq!((&found["status"], hosted.state().as_str()), (&"True".into(), ""));
    // The command does what it says.
    let command = found["message"].as_str().unwrap();
    run("sh", ["-c", command]);
    assert_eq!(hosted.state(), "running");
}
