//! A `virsh` of our own in place of the real one, for every answer that it may give, and for none.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::*;

/// A libvirt of files: one for each domain, named by its UUID, with its state and its name in it. `fail-COMMAND` holds what the
/// command complains of instead of doing anything, `lost-COMMAND` what it complains of afterwards, `hang-COMMAND` makes it
/// hang, and `first-COMMAND` is done before it.
const VIRSH: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$LC_ALL $*" >> "$here/calls"
shift 3
[ "$1" = list ] && [ "$2" != --all ] && set -- active
if [ -e "$here/hang-$1" ]; then echo "error: still waiting" >&2; sleep 1000 & echo $! > "$here/sleeper"; wait; fi
if [ -e "$here/fail-$1" ]; then cat "$here/fail-$1" >&2; exit 1; fi
if [ -e "$here/first-$1" ]; then . "$here/first-$1"; fi
mkdir -p "$here/domains"
cd "$here/domains" || exit 9
case $1 in
  list) for uuid in *; do [ -e "$uuid" ] && read -r state name < "$uuid" && echo "$uuid $name"; done; echo ;;
  active) for uuid in *; do [ -e "$uuid" ] && read -r state name < "$uuid" && [ "$state" = on ] && echo "$uuid $name"; done; echo ;;
  define)
    xml=$(cat "$2")
    uuid=$(echo "$xml" | sed -n 's:.*<uuid>\(.*\)</uuid>.*:\1:p')
    echo "off $(echo "$xml" | sed -n 's:.*<name>\(.*\)</name>.*:\1:p')" > "$uuid" ;;
  start) read -r state name < "$2" && echo "on $name" > "$2" ;;
  undefine) ! grep -q ^off "$2" || rm "$2" ;;
  version) printf 'Compiled against library: libvirt 9.0.0\nUsing library: libvirt 9.1.0\nRunning hypervisor: QEMU 7.2.9\n' ;;
  *) exit 9 ;;
esac
if [ -e "$here/lost-$1" ]; then cat "$here/lost-$1" >&2; exit 1; fi
"#;

/// A folder with such a `virsh`.
#[derive(Debug)]
pub(in crate::adapter::local) struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    pub(in crate::adapter::local) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Another process writes it: were it open here, a fork of this one could keep it from being run.
        let write = "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"";
        #[expect(clippy::disallowed_methods, reason = "see above")]
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", write, "sh", VIRSH]).arg(folder.path().join("virsh"));
        assert!(written.status().unwrap().success());
        Self { folder }
    }

    pub(in crate::adapter::local) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Writes a file that changes how it behaves.
    pub(in crate::adapter::local) fn put(&self, name: &str, text: &str) {
        fs::create_dir_all(self.folder.path().join("domains")).unwrap();
        fs::write(self.folder.path().join(name), format!("{text}\n")).unwrap();
    }

    /// Takes such a file away.
    pub(in crate::adapter::local) fn take(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    /// Returns the commands since the last call, without those that only look.
    pub(in crate::adapter::local) fn effects(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        fs::write(self.folder.path().join("calls"), "").unwrap();
        let calls = calls.lines().map(|call| call.strip_prefix("C -q -c test:///fake ").unwrap());
        calls.filter(|call| !call.starts_with("list")).map(str::to_owned).collect()
    }

    fn libvirt(&self) -> Libvirt {
        Libvirt::new("test:///fake".to_owned(), vec![PathBuf::from("/nowhere"), self.folder()])
    }
}

const ONE: &str = "11111111-f7af-83b9-b27e-329a6c281aa0";
const TWO: &str = "22222222-f7af-83b9-b27e-329a6c281aa0";

fn xml(uuid: &str, name: &str) -> Vec<u8> {
    format!("<domain>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n</domain>\n").into_bytes()
}

#[test]
fn domains_are_defined_started_listed_and_undefined() {
    let fake = Fake::new();
    let libvirt = fake.libvirt();
    assert_eq!(libvirt.domains().unwrap(), Domains::default());
    libvirt.define(&xml(ONE, "web-01")).unwrap();
    fake.put(&format!("domains/{TWO}"), "on  a name with spaces ");
    let domains = libvirt.domains().unwrap();
    let domain =
        |uuid: &str, name: &str, power| Domain { uuid: uuid.into(), name: name.into(), power };
    let two = domain(TWO, "a name with spaces", Power::On);
    assert_eq!(domains.0, [domain(ONE, "web-01", Power::Off), two.clone()]);
    assert_eq!(domains.named("a name with spaces"), Some(&two));
    assert_eq!((domains.power(ONE), domains.power("none")), (Power::Off, Power::Off));
    libvirt.start(ONE).unwrap();
    assert_eq!(libvirt.domains().unwrap().power(ONE), Power::On);
    fake.put(&format!("domains/{ONE}"), "off web-01");
    libvirt.undefine(ONE).unwrap();
    assert_eq!(libvirt.domains().unwrap().0, [two]);
    let effects = [
        "define /dev/stdin",
        &format!("start {ONE}"),
        &format!("undefine {ONE} --nvram --managed-save --snapshots-metadata"),
    ];
    assert_eq!(fake.effects(), effects);
    assert_eq!(libvirt.version().unwrap(), "libvirt 9.1.0, QEMU 7.2.9");
}

#[test]
fn a_domain_that_appears_between_two_looks_is_not_believed_off() {
    let fake = Fake::new();
    fake.put(&format!("domains/{ONE}"), "off web-01");
    fake.put(
        "first-active",
        &format!(
            "echo 'on web-01' > \"$here/domains/{ONE}\"; echo 'on new' > \"$here/domains/{TWO}\""
        ),
    );
    let domains = fake.libvirt().domains().unwrap();
    assert_eq!((domains.power(ONE), domains.power(TWO)), (Power::On, Power::On));
}

#[test]
fn complaints_are_passed_on_and_prove_nothing() {
    let fake = Fake::new();
    let libvirt = fake.libvirt();
    let complaint = "error: failed to connect to the hypervisor\nerror: \u{1b}[31mNo such file\n\n";
    for list in ["list", "active"] {
        fake.put(&format!("fail-{list}"), complaint);
        let error = libvirt.domains().unwrap_err();
        let said = "failed: failed to connect to the hypervisor; \\u{1b}[31mNo such file";
        assert!(error.fault.text.ends_with(said), "{error}");
        assert!(error.fault.remedy.contains("virsh -c test:///fake list --all"), "{error}");
        assert_eq!(error.fault.disposition, crate::journal::record::Disposition::Retry);
        fake.take(&format!("fail-{list}"));
    }
    fake.put("fail-start", "");
    let error = libvirt.start(ONE).unwrap_err();
    assert!(error.fault.text.ends_with("failed without a word"), "{error}");
    for odd in ["nonsense", "11111111-f7af-83b9-b27e-329a6c281aa0", "ééééééééééééééééééééééé"]
    {
        fake.put("first-list", &format!("echo '{odd}'"));
        let error = libvirt.domains().unwrap_err();
        assert!(error.fault.text.contains("gave no list of domains"), "{odd}: {error}");
    }
}

#[test]
fn what_hangs_is_killed_with_what_it_started() {
    let fake = Fake::new();
    fake.put("hang-start", "");
    fake.put(&format!("domains/{ONE}"), "off web-01");
    let libvirt = Libvirt { patience: Duration::from_millis(300), ..fake.libvirt() };
    let error = libvirt.start(ONE).unwrap_err();
    let said = format!(
        "`virsh -c test:///fake start {ONE}` did not end within 0 s and was killed: still waiting"
    );
    assert_eq!(error.fault.text, said);
    assert_eq!(libvirt.domains().unwrap().power(ONE), Power::Off);
    let sleeper = fs::read_to_string(fake.folder().join("sleeper")).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", sleeper.trim()));
    // Whoever inherits it may take its time to notice its end.
    let lives = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    let (_kept, ticks) = std::sync::mpsc::channel::<()>();
    let tick = || ticks.recv_timeout(Duration::from_millis(10)).is_err();
    assert!((0..500).any(|_| !lives() || !tick()), "it outlived its parent");
}

#[test]
fn a_libvirt_that_did_not_answer_is_left_alone_for_a_while() {
    let fake = Fake::new();
    fake.put("hang-list", "");
    let libvirt = Libvirt { patience: Duration::from_millis(300), ..fake.libvirt() };
    let said = "`virsh -c test:///fake list --all --uuid --name` did not end within 0 s and was killed: still waiting";
    assert_eq!(libvirt.domains().unwrap_err().fault.text, said);
    // Only the first was waited for: it would answer now.
    fs::remove_file(fake.folder().join("hang-list")).unwrap();
    assert_eq!(libvirt.domains().unwrap_err().fault.text, said);
    *libvirt.unanswered() = None;
    assert_eq!(libvirt.domains().unwrap(), Domains::default());
}

#[test]
fn a_missing_program_says_how_to_get_it() {
    let libvirt = Libvirt::new("qemu:///system".to_owned(), vec![PathBuf::from("/nowhere")]);
    let error = libvirt.domains().unwrap_err();
    assert_eq!(error.fault.text, "`virsh` is not installed, and `libvirt.uri` is qemu:///system");
    assert!(error.fault.remedy.contains("libvirt-clients"), "{error}");
}
