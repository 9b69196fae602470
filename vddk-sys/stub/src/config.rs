//! How the stub behaves, and how it is set up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file in the library's folder that says how it behaves.
pub const FILE: &str = "stub.json";

/// How the stub behaves. A number that is 0 models nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The folder of `disks.json` and the disks.
    pub sim: PathBuf,
    /// How long each request is on its way.
    pub round_trip_micros: u64,
    /// How much the link carries, of all disks together.
    pub bytes_per_second: u64,
    /// How many requests the server works on at once.
    pub at_once: usize,
    /// How long a question about allocation takes.
    pub query_micros: u64,
    /// The major version.
    pub pose_as: u32,
    /// Functions that it does not have.
    pub without: Vec<String>,
    /// How many bytes may be on their way before the server has no memory for more.
    pub nfc_memory_bytes: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sim: PathBuf::new(),
            round_trip_micros: 0,
            bytes_per_second: 0,
            at_once: 0,
            query_micros: 0,
            pose_as: 8,
            without: Vec::new(),
            nfc_memory_bytes: 0,
            faults: Vec::new(),
        }
    }
}

/// Something that goes wrong at certain calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// At which calls.
    pub on: On,
    /// From which one on, counted from 1 over the process.
    pub nth: u64,
    /// At how many of them.
    #[serde(default = "once")]
    pub times: u64,
    /// What happens.
    pub does: Does,
}

fn once() -> u64 {
    1
}

/// The calls that may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// `ConnectEx`.
    Connect,
    /// `Open`.
    Open,
    /// `QueryAllocatedBlocks`.
    Query,
    /// `Read` and `ReadAsync`.
    Read,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    /// It fails with this error.
    Error(u16),
    /// The process ends.
    Crash,
    /// It is never answered.
    Hang,
    /// The connection is lost: what is on its way and everything later fails until there is a new one.
    Lose,
    /// One bit of the data is wrong.
    Flip,
}

/// Copies the built stub into a folder as VMware's library would lie there, with how it behaves beside it.
pub fn install(built: &Path, folder: &Path, config: &Config) -> io::Result<()> {
    let mut library = fs::read(built)?;
    for name in &config.without {
        hide(&mut library, name);
    }
    let place = folder.join("lib64");
    fs::create_dir_all(&place)?;
    fs::write(place.join(format!("libvixDiskLib.so.{}", config.pose_as)), library)?;
    fs::write(folder.join(FILE), serde_json::to_vec_pretty(config)?)
}

/// Makes a function's name one that nobody asks for.
fn hide(library: &mut [u8], name: &str) {
    let whole = format!("\0{name}\0");
    let at = |bytes: &[u8]| bytes.windows(whole.len()).position(|part| part == whole.as_bytes());
    let mut hidden = false;
    while let Some(found) = at(library) {
        library[found + 1] = b'_';
        hidden = true;
    }
    assert!(hidden, "the stub has no {name}");
}
