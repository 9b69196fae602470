//! What is missing, one thing after another.

use super::*;
use crate::adapter::convert::tests::script;

struct Bench {
    folder: tempfile::TempDir,
    probe: Probe,
}

impl Bench {
    /// Makes a machine on which every guest can be converted.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        let tools = ConvertTools {
            program: "convert".to_owned(),
            tmp_dir: text("tmp"),
            virtio_win: text("virtio-win.iso"),
            log_dir: text("log"),
        };
        let places = Places {
            boot: at("boot"),
            modules: at("modules"),
            appliances: vec![at("appliance")],
            windows_tools: at("tools"),
        };
        let mut probe = Probe::new(tools, vec![at("bin")]);
        probe.places = places;
        let bench = Self { folder, probe };
        for name in ["bin", "tmp", "boot", "modules/6.1", "tools", "appliance"] {
            fs::create_dir_all(bench.at(name)).unwrap();
        }
        for name in ["virtio-win.iso", "boot/vmlinuz-6.1", "tools/rhsrvany.exe"] {
            fs::write(bench.at(name), "").unwrap();
        }
        bench.converter("input:libvirtxml\nconvert:linux\nconvert:windows", 0);
        bench.script("qemu-img", "");
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        script(&self.at("bin"), name, text);
    }

    /// A converter that lists this, ends with that, and counts how often it was asked.
    fn converter(&self, features: &str, code: i32) {
        let count = self.at("asked").display().to_string();
        let text = format!("[ \"$*\" = --machine-readable ] && echo >> '{count}'\n");
        self.script("convert", &format!("{text}echo '{features}'; exit {code}"));
    }

    fn missing(&self) -> String {
        let state = self.probe.look();
        assert_eq!(state.missing_for_windows, None);
        state.missing.map_or_else(String::new, |gap| format!("{} … {}", gap.reason, gap.remedy))
    }

    fn missing_for_windows(&self) -> String {
        let state = self.probe.look();
        assert_eq!(state.missing, None);
        state.missing_for_windows.map(|gap| gap.reason).unwrap_or_default()
    }
}

#[test]
fn nothing_is_missing_and_the_converter_is_asked_once() {
    let bench = Bench::new();
    for _ in 0..3 {
        assert_eq!(bench.probe.look(), ConverterState::default());
    }
    assert_eq!(fs::read_to_string(bench.at("asked")).unwrap(), "\n");
    // Another file is another converter.
    bench.converter("input:libvirtxml\nconvert:windows", 0);
    assert!(bench.missing().contains("does not list `convert:linux`"));
    assert_eq!(fs::read_to_string(bench.at("asked")).unwrap(), "\n\n");
}

#[test]
fn each_missing_part_is_told_with_what_mends_it() {
    let takes: [(&str, &str, &str); 5] = [
        ("bin/qemu-img", "`qemu-img` is not installed", "qemu-utils"),
        ("boot/vmlinuz-6.1", "there is none in", "linux-image-cloud-amd64"),
        ("modules/6.1", "there is none in", "linux-image-cloud-amd64"),
        ("tmp", "is not there", "convert.tmpDir"),
        ("boot", "there is none in", "linux-image-cloud-amd64"),
    ];
    for (path, reason, remedy) in takes {
        let bench = Bench::new();
        fs::rename(bench.at(path), bench.at("taken")).unwrap();
        let told = bench.missing();
        assert!(told.contains(reason) && told.contains(remedy), "{told}");
        fs::rename(bench.at("taken"), bench.at(path)).unwrap();
        assert_eq!(bench.missing(), "");
    }
    let bench = Bench::new();
    bench.converter("input:libvirtxml\nconvert:linux\nconvert:windows\nsorry", 2);
    assert!(bench.probe.look().missing.unwrap().reason.contains("it ended with 2: input"));
    fs::remove_file(bench.at("bin/convert")).unwrap();
    let gap = bench.probe.look().missing.unwrap();
    assert!(gap.reason.contains("`convert` is not installed"), "{gap:?}");
    assert!(gap.remedy.contains("apt-get install virt-v2v"), "{gap:?}");
}

#[test]
fn an_appliance_or_a_kernel_among_its_modules_will_do() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.at("boot")).unwrap();
    for name in ["kernel", "initrd", "root"] {
        assert_ne!(bench.missing(), "");
        fs::write(bench.at("appliance").join(name), "").unwrap();
    }
    assert_eq!(bench.missing(), "");
    fs::remove_dir_all(bench.at("appliance")).unwrap();
    assert_ne!(bench.missing(), "");
    fs::write(bench.at("modules/6.1/vmlinuz"), "").unwrap();
    assert_eq!(bench.missing(), "");
}

#[test]
fn windows_needs_more() {
    for (path, reason) in
        [("virtio-win.iso", "drivers for Windows"), ("tools/rhsrvany.exe", "rhsrvany.exe")]
    {
        let bench = Bench::new();
        fs::remove_file(bench.at(path)).unwrap();
        let told = bench.missing_for_windows();
        assert!(told.contains(reason), "{told}");
    }
    let bench = Bench::new();
    bench.converter("input:libvirtxml\nconvert:linux", 0);
    assert!(bench.missing_for_windows().contains("`convert:windows`"));
}
