//! How fast disks are copied, beside qemu-img, nbdcopy and cp with their best flags: `cargo bench --bench peers [-- [MIB] [WORD]]`,
//! of the tables those that have the word in their titles.
//!
//! Each row is a command as people type it, run in turn with the others of its table: once unmeasured, then until five rounds in
//! a row were quiet. Of a machine that never is, the quietest five count, the same ones for all commands, chosen by their spread
//! alone; a spread above 15 % is no result. Every target is new, and durable when the time is taken. Sources are in the page
//! cache for all. Beside the time stand the processor seconds and the peak of memory of all processes of the command, and how
//! much faster it is than the fastest of the others. Ferry hashes every leaf, and compares the archive's SHA-256 where there is
//! one.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "the table is the answer")]
#![expect(clippy::disallowed_methods, reason = "it measures time and starts programs")]

mod rounds;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use sha2::{Digest as _, Sha256};

use crate::rounds::{Rounds, SPREAD_MAX, Used, median};

/// The disk's size unless one is given: some seconds a run.
const MIB: u64 = 2048;

/// What tells this program to run one command and say what it used.
const MEASURE: &str = "--measure-one";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, line] = arguments.as_slice()
        && first == MEASURE
    {
        return measure_one(line);
    }
    // `cargo bench` adds `--bench` to what is given behind `--`.
    let mib = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(MIB);
    let is_word = |argument: &&String| argument.parse::<u64>().is_err() && *argument != "--bench";
    let word = arguments.iter().find(is_word).map_or("", String::as_str);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (mixed, fragmented) = (at("mixed.raw"), at("fragmented.raw"));
    write_mixed(Path::new(&mixed), mib);
    write_fragmented(Path::new(&fragmented), mib);
    let (stream, sparse, archive) = (at("stream.vmdk"), at("sparse.vmdk"), at("web.ova"));
    convert("vmdk", "subformat=streamOptimized", &mixed, &stream);
    convert("vmdk", "subformat=monolithicSparse", &fragmented, &sparse);
    pack(Path::new(&archive), Path::new(&stream), mib);

    let ferry = |source: &str, target: &str| {
        format!("{} copy --force '{source}' '{target}'", env!("CARGO_BIN_EXE_ferry"))
    };
    let member = format!("{archive}/stream.vmdk");
    let qemu = |flags: &str, from: &str, source: &str, to: &str, target: &str| {
        format!(
            "qemu-img convert {flags} -f {from} -O {to} '{source}' '{target}' && sync '{target}'"
        )
    };
    let buffered = "-t writeback -W -m 16";
    let direct = "-t none -T none -W -m 16";
    for (title, format, source, to) in [
        ("stream-optimized VMDK to raw", "vmdk", &stream, "raw"),
        ("stream-optimized VMDK to qcow2", "vmdk", &stream, "qcow2"),
        ("raw, fragmented, 40 % allocated, to raw", "raw", &fragmented, "raw"),
        ("monolithic sparse VMDK to raw", "vmdk", &sparse, "raw"),
        ("raw to qcow2", "raw", &fragmented, "qcow2"),
    ] {
        if !title.contains(word) {
            continue;
        }
        let target = at(&format!("target.{to}"));
        let mut commands = vec![("ferry copy".to_owned(), ferry(source, &target))];
        if source == &stream {
            commands
                .push(("ferry copy, from the OVA, SHA-256".to_owned(), ferry(&member, &target)));
        }
        for flags in [buffered, direct] {
            let command = qemu(flags, format, source, to, &target);
            commands.push((format!("qemu-img convert {flags}"), command));
        }
        if (format, to) == ("raw", "raw") {
            let copy = format!("cp --sparse=auto '{source}' '{target}' && sync '{target}'");
            commands.push(("cp --sparse=auto".to_owned(), copy));
        }
        let expected = if source == &stream { &mixed } else { &fragmented };
        table(title, mib, &commands, &|| {
            let identical = ["compare", "-f", "raw", "-F", to, expected, &target];
            assert!(Command::new("qemu-img").args(identical).output().unwrap().status.success());
            fs::remove_file(&target).unwrap();
        });
    }
    over_nbd(mib, word, &fragmented, &at, &ferry);
}

/// Exports of NBD over a Unix socket: a raw file by nbdkit, at once, with 5 ms before every read, and the same by a server that
/// lets one connection be made, as many do: qemu-nbd of what may be written, and nbdkit's plugins unless they say otherwise.
fn over_nbd(
    mib: u64,
    word: &str,
    source: &str,
    at: &dyn Fn(&str) -> String,
    ferry: &dyn Fn(&str, &str) -> String,
) {
    for (delay, multi) in [("0ms", "plugin"), ("5ms", "plugin"), ("5ms", "disable")] {
        let many = if multi == "disable" { ", one connection" } else { "" };
        let title = format!("NBD, {delay} a read{many}, to raw");
        if !title.contains(word) {
            continue;
        }
        let (socket, pid, target) = (at("nbd.sock"), at("nbdkit.pid"), at("target.raw"));
        let uri = format!("nbd+unix:///?socket={socket}");
        let (delayed, multi_mode) =
            (format!("delay-read={delay}"), format!("multi-conn-mode={multi}"));
        let filters = ["--filter=multi-conn", "--filter=delay"];
        let served = ["file", source, &delayed, &multi_mode];
        let server = ["-U", &socket, "-P", &pid].into_iter().chain(filters).chain(served);
        // It is in the background, and answers, when this returns.
        assert!(Command::new("nbdkit").args(server).status().expect("nbdkit").success());
        let nbdcopy = |flags: &str| {
            format!(
                "nbdcopy --flush {flags} --destination-is-zero '{uri}' '{target}' && sync '{target}'"
            )
        };
        // It writes into a file that is there.
        let made = format!("truncate -s {mib}M '{target}'");
        let commands = vec![
            ("ferry copy".to_owned(), ferry(&uri, &target)),
            ("nbdcopy".to_owned(), format!("{made} && {}", nbdcopy(""))),
            (
                "nbdcopy --connections=1 --requests=64".to_owned(),
                format!("{made} && {}", nbdcopy("--connections=1 --requests=64")),
            ),
            (
                "qemu-img convert -t writeback -W -m 16".to_owned(),
                format!(
                    "qemu-img convert -t writeback -W -m 16 -f raw -O raw '{uri}' '{target}' && sync '{target}'"
                ),
            ),
        ];
        table(&title, mib, &commands, &|| {
            let identical = ["compare", "-f", "raw", "-F", "raw", source, &target];
            assert!(Command::new("qemu-img").args(identical).output().unwrap().status.success());
            fs::remove_file(&target).unwrap();
        });
        let process = fs::read_to_string(&pid).unwrap();
        assert!(Command::new("kill").arg(process.trim()).status().unwrap().success());
        while Path::new("/proc").join(process.trim()).exists() {
            std::thread::yield_now();
        }
        let _ = fs::remove_file(&socket);
    }
}

/// Runs the commands in turn and prints a row for each.
fn table(title: &str, mib: u64, commands: &[(String, String)], check: &dyn Fn()) {
    let rounds = Rounds::run(commands.len(), |nth| {
        let used = measured(&commands[nth].1);
        check();
        used
    });
    println!("\n{title}, {mib} MiB, {}", rounds.which);
    println!(
        "{:<48}{:>9}{:>9}{:>10}{:>9}{:>9}{:>9}",
        "", "median", "spread", "MiB/s", "CPU", "memory", "against"
    );
    let others =
        commands.iter().zip(&rounds.used).filter(|((name, _), _)| !name.starts_with("ferry"));
    let best = others.map(|(_, used)| median(used, |one| one.seconds).0).fold(f64::MAX, f64::min);
    for ((name, _), used) in commands.iter().zip(&rounds.used) {
        let (seconds, spread) = median(used, |one| one.seconds);
        let rate = f64::from(u32::try_from(mib).unwrap()) / seconds;
        let (processor, _) = median(used, |one| one.processor);
        let (peak, _) = median(used, |one| one.peak_kib / 1024.0);
        let void = if spread > SPREAD_MAX { " no result" } else { "" };
        let against = best / seconds;
        println!(
            "{name:<48}{seconds:>7.2} s{spread:>7.0} %{rate:>10.0}{processor:>7.2} s{peak:>5.0} MiB{against:>7.2} x{void}"
        );
    }
}

/// Runs a command in a process of its own, whose children are this command's processes and no others.
fn measured(command: &str) -> Used {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).args([MEASURE, command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [seconds, processor, peak_kib] = numbers.try_into().unwrap();
    Used { seconds, processor, peak_kib }
}

fn measure_one(line: &str) {
    let begin = Instant::now();
    let ran = Command::new("sh").args(["-c", line]).output().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let processor = std::time::Duration::from_micros(micros.try_into().unwrap()).as_secs_f64();
    println!("{seconds} {processor} {}", usage.max_rss());
}

/// Writes a disk as guests have it: of each 8 MiB two that do not compress, two of zeros, four that compress well. The same
/// every time.
fn write_mixed(path: &Path, mib: u64) {
    let mut file = File::create(path).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..mib {
        let mut piece = Vec::with_capacity(1 << 20);
        while piece.len() < 1 << 20 {
            let state = random.next();
            match number % 8 {
                0 | 1 => piece.extend(state.to_le_bytes()),
                2 | 3 => piece.resize(1 << 20, 0),
                _ => writeln!(piece, "{number} block {:>8} of a log line", state % 4096).unwrap(),
            }
        }
        file.write_all(&piece[..1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
}

/// Writes a sparse disk of which four tenths hold something, in pieces of 64 KiB to 4 MiB.
fn write_fragmented(path: &Path, mib: u64) {
    let file = File::create(path).unwrap();
    file.set_len(mib << 20).unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut at = 0;
    while at < mib << 20 {
        let length = (64 << 10) << (random.next() % 7);
        let bytes: Vec<u8> = (0..length / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        let rest = usize::try_from((mib << 20) - at).unwrap().min(bytes.len());
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[..rest], at).unwrap();
        at += length + length * 3 / 2 / 4096 * 4096;
    }
    file.sync_all().unwrap();
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn convert(format: &str, options: &str, from: &str, to: &str) {
    let arguments = ["convert", "-f", "raw", "-O", format, "-o", options, from, to];
    let status = Command::new("qemu-img").args(arguments).status();
    assert!(status.expect("qemu-img is installed (Debian: qemu-utils)").success());
}

/// Packs a VMDK as an export of one VM, with a manifest.
fn pack(archive: &Path, disk: &Path, mib: u64) {
    let folder = archive.with_extension("parts");
    fs::create_dir(&folder).unwrap();
    let bytes = fs::metadata(disk).unwrap().len();
    let ovf = format!(
        r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:href="stream.vmdk" ovf:id="file1" ovf:size="{bytes}"/></References>
<DiskSection><Info/><Disk ovf:capacity="{mib}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="web"><Info/><VirtualHardwareSection><Info/>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk1</rasd:HostResource><rasd:InstanceID>2</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"#
    );
    fs::write(folder.join("web.ovf"), &ovf).unwrap();
    fs::copy(disk, folder.join("stream.vmdk")).unwrap();
    let manifest = format!(
        "SHA256(web.ovf)= {}\nSHA256(stream.vmdk)= {}\n",
        hex::encode(Sha256::digest(&ovf)),
        sum(&folder.join("stream.vmdk"))
    );
    fs::write(folder.join("web.mf"), manifest).unwrap();
    let names = ["web.ovf", "web.mf", "stream.vmdk"].map(PathBuf::from);
    let mut tar = Command::new("tar");
    tar.arg("--format=ustar").arg("-cf").arg(archive).arg("-C").arg(&folder).args(names);
    assert!(tar.status().unwrap().success());
    fs::remove_dir_all(&folder).unwrap();
}

fn sum(path: &Path) -> String {
    let (mut file, mut hash, mut piece) =
        (File::open(path).unwrap(), Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hex::encode(hash.finalize()),
            count => hash.update(&piece[..count]),
        }
    }
}
