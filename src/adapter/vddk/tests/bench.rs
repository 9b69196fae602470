//! A simulated vSphere with one VM, the library's stand-in, and processes that copy from it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use regex::Regex;
use rustix::fs::{SeekFrom, seek};
use serde_json::json;
use vddk_stub::config::{Config, install};

use super::{ERRAND, Errand, Outcome};
use crate::copy::memory::root_of;

pub(super) const DISK: &str = "[ds1] web01/web01.vmdk";
pub(super) const OTHER: &str = "[ds1] web01/web01_1.vmdk";
pub(super) const PASSWORD: &str = "canary-password";
pub(super) const COOKIE: &str = "canary-cookie";
pub(super) const THUMBPRINT: &str = "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD";

/// What may be changed of it before [`Bench::copy`].
pub(super) struct Bench {
    folder: tempfile::TempDir,
    pub(super) config: Config,
    pub(super) errand: Errand,
}

impl Bench {
    /// A disk with data of 300 KB at each of the places.
    pub(super) fn new(capacity: u64, places: &[u64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("0.raw")).unwrap();
        file.set_len(capacity).unwrap();
        for place in places {
            let length = 300_000.min(capacity - place);
            let mut state = place | 1;
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = state.to_le_bytes()[6];
            }
            file.write_all_at(&bytes, *place).unwrap();
        }
        let disk = |path, snapshot: Option<&str>| {
            json!({"vm": "vm-12", "key": 2000, "snapshot": snapshot, "path": path, "file": "0.raw",
                   "capacity": capacity})
        };
        let disks = json!({
            "username": "ferry", "password": PASSWORD, "thumbprint": THUMBPRINT, "sessions": [COOKIE],
            "disks": [disk(DISK, None), disk(OTHER, None), disk(DISK, Some("snapshot-9"))],
        });
        fs::write(folder.path().join("disks.json"), disks.to_string()).unwrap();
        let errand = Errand {
            folder: folder.path().to_owned(),
            server: "vc.example".to_owned(),
            user: "ferry".to_owned(),
            password: PASSWORD.to_owned(),
            session: None,
            thumbprint: THUMBPRINT.to_lowercase(),
            vm: "vm-12".to_owned(),
            snapshot: None,
            disk: DISK.to_owned(),
            transports: None,
            pauses: 2,
            resized: None,
            before: None,
        };
        let config = Config { sim: folder.path().to_owned(), ..Config::default() };
        Self { folder, config, errand }
    }

    /// A disk of 32 MiB and some sectors, of which a part holds data.
    pub(super) fn small() -> Self {
        let mebibytes = |count: u64| count << 20;
        Self::new(
            (32 << 20) + 1536,
            &[0, 12_345, mebibytes(3), mebibytes(9), mebibytes(31) + 900_000],
        )
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts the library where it is looked for.
    pub(super) fn install(&self) {
        let built = std::env::current_exe().unwrap().with_file_name("libvddk_stub.so");
        install(&built, self.folder.path(), &self.config).unwrap();
    }

    /// Writes down what a process does, and returns where that stands.
    pub(super) fn errand(&self) -> PathBuf {
        fs::write(self.at("errand"), serde_json::to_vec(&self.errand).unwrap()).unwrap();
        self.at("errand")
    }

    /// Returns the command of a process that copies with the library that is installed.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "adapter::vddk::tests::errand", "--nocapture"])
            .env(ERRAND, self.errand())
            .env("LD_LIBRARY_PATH", self.at("lib64"));
        command
    }

    /// Copies, and returns what came of it.
    pub(super) fn copy(&self) -> Outcome {
        self.install();
        self.run()
    }

    /// Copies with the library that is installed.
    pub(super) fn run(&self) -> Outcome {
        for file in ["target.raw", "target.raw.map", "before.raw", "before.raw.map", "outcome"] {
            let _ = fs::remove_file(self.at(file));
        }
        let output = self.command().output().unwrap();
        let log = log(&output);
        assert!(output.status.success(), "{}\n{log}", output.status);
        // Whatever is logged or said, no secret is in it, although the library logs all of them.
        assert!(!log.contains("canary"), "{log}");
        let outcome = fs::read(self.at("outcome")).unwrap();
        assert!(!String::from_utf8_lossy(&outcome).contains("canary"));
        serde_json::from_slice(&outcome).unwrap()
    }

    /// Starts a process that copies; its log is a pipe.
    pub(super) fn start(&self) -> Child {
        self.install();
        self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Copies, and checks that the target is the disk, and that its hash tree is the disk's.
    #[track_caller]
    pub(super) fn copies(&self) -> String {
        match self.copy() {
            Outcome::Copied { root, version } => {
                assert!(self.is_same("target.raw"), "the target is another disk");
                if let Ok(bytes) = fs::read(self.at("0.raw")).map_err(drop)
                    && bytes.len() < 1 << 30
                {
                    assert_eq!(root, root_of(&bytes));
                }
                version
            }
            failed @ Outcome::Failed { .. } => panic!("{failed:?}"),
        }
    }

    /// Copies, which fails; returns what a person reads, and whether it is tried again.
    #[track_caller]
    pub(super) fn fails(&self) -> String {
        said(self.copy())
    }

    /// Compares a file with the disk, where one of the two holds data.
    pub(super) fn is_same(&self, name: &str) -> bool {
        let files = ["0.raw", name].map(|name| File::open(self.at(name)).unwrap());
        let [size, other] = files.each_ref().map(|file| file.metadata().unwrap().len());
        let read = |file: &File, at, length| {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        size == other
            && files.iter().all(|file| {
                let mut at = 0;
                while let Ok(data) = seek(file, SeekFrom::Data(at)) {
                    at = seek(file, SeekFrom::Hole(data)).unwrap();
                    if read(&files[0], data, at - data) != read(&files[1], data, at - data) {
                        return false;
                    }
                }
                true
            })
    }
}

/// Writes an outcome as a test shows it.
#[track_caller]
pub(super) fn said(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { text, remedy, passes } => {
            let then = if passes { "again" } else { "stall" };
            // Which of several requests fails first is chance.
            let chance = Regex::new(r"(at byte|requested) \d+").unwrap();
            let text = chance.replace_all(&text, "$1 N");
            format!("{then}: {text}\nhint: {remedy}\n")
        }
        copied @ Outcome::Copied { .. } => panic!("{copied:?}"),
    }
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tells by which signal a process ended, and what it said.
pub(super) fn died(output: &Output) -> (Option<i32>, String) {
    (output.status.signal(), log(output))
}

/// Makes a library whose mere loading ends the process.
pub(super) fn make_decoy(path: &Path) {
    let source = path.with_extension("c");
    fs::write(
        &source,
        "#include <stdlib.h>\n__attribute__((constructor)) static void loaded(void) { abort(); }\n",
    )
    .unwrap();
    let mut cc = Command::new("cc");
    let made = cc.args(["-shared", "-fPIC", "-o"]).args([path, &source]).status().unwrap();
    assert!(made.success());
}
