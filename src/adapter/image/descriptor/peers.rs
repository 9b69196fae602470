//! What qemu-img makes of the same images: it writes them, and it judges what is read of changed ones.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::tests::{Folder, read};
use super::*;

/// How many changed images are compared.
const CHANGED: u64 = 40;

/// The largest changed disk that is compared: a header may claim EiB.
const SIZE_MAX: u64 = 64 << 20;

/// Runs qemu-img in a folder and tells whether it succeeded.
#[expect(clippy::disallowed_methods, reason = "runs the peer that judges")]
fn qemu_img(folder: &Folder, arguments: &[&str]) -> Result<(), String> {
    let mut run = std::process::Command::new("timeout");
    run.args(["60", "qemu-img"]).args(arguments).current_dir(folder.0.path());
    let output = run.output().expect("`qemu-img` is installed");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Numbers that depend on a seed only.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    move |below| {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        u64::from_le_bytes(bytes) % below
    }
}

/// Makes `disk.raw`: so many bytes, some of them data at places of all alignments.
fn pattern(folder: &Folder, size: u64, seed: u64) {
    let file = File::create(folder.0.path().join("disk.raw")).unwrap();
    file.set_len(size).unwrap();
    let mut random = random(seed);
    for _ in 0..24 {
        let length = usize::try_from(random(200_000) + 1).unwrap();
        let place = random(size - u64::try_from(length).unwrap());
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&place.to_le_bytes()).finalize_xof().fill(&mut bytes);
        file.write_all_at(&bytes, place).unwrap();
    }
    file.write_all_at(b"the end", size - 7).unwrap();
}

fn convert_to(folder: &Folder, kind: &str) {
    let kind = format!("subformat={kind}");
    let converted = qemu_img(
        folder,
        &["convert", "-f", "raw", "-O", "vmdk", "-o", &kind, "disk.raw", "a.vmdk"],
    );
    assert_eq!(converted, Ok(()));
}

fn convert_back(folder: &Folder) -> Result<Vec<u8>, String> {
    qemu_img(folder, &["convert", "-f", "vmdk", "-O", "raw", "a.vmdk", "back.raw"])?;
    Ok(fs::read(folder.0.path().join("back.raw")).unwrap())
}

#[test]
fn what_qemu_img_writes_is_read_as_it_reads_it() {
    for kind in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
    {
        // Sizes that end with a grain, within one, and within a table.
        for size in [64 << 20, (70 << 20) + 1536] {
            let folder = Folder::new(&[]);
            pattern(&folder, size, size);
            convert_to(&folder, kind);
            let ours = read(folder.blocks("a.vmdk").unwrap().as_ref()).unwrap();
            assert!(ours == fs::read(folder.0.path().join("disk.raw")).unwrap(), "{kind} {size}");
            assert!(Ok(ours) == convert_back(&folder), "{kind} {size}");
        }
    }
}

#[test]
fn an_empty_disk_of_several_files_is_read_at_both_sides_of_their_bounds() {
    for kind in ["monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = Folder::new(&[]);
        let options = format!("subformat={kind}");
        assert_eq!(
            qemu_img(&folder, &["create", "-f", "vmdk", "-o", &options, "a.vmdk", "5G"]),
            Ok(())
        );
        for (place, byte) in [("2146435000", "7"), ("2147483000", "8"), ("5368707000", "9")] {
            let command = format!("write -P {byte} {place} 1100");
            write_at(&folder, &command);
        }
        let blocks = folder.blocks("a.vmdk").unwrap();
        assert_eq!(blocks.size(), 5 << 30);
        let mut at = 0;
        let mut data = 0;
        while at < blocks.size() {
            for extent in blocks.extents(at, blocks.size() - at).unwrap() {
                assert_eq!(extent.offset, at);
                at = extent.end();
                data += if extent.content == Content::Data { extent.length } else { 0 };
            }
        }
        assert!(data > 0 && data < 1 << 20, "{kind}: {data}");
        for (place, byte) in [(2_146_435_000, 7), (2_147_483_000, 8), (5_368_707_000, 9)] {
            let mut buffer = [0xee; 1300];
            blocks.read(place - 100, &mut buffer).unwrap();
            assert!(buffer[..100].iter().chain(&buffer[1200..]).all(|byte| *byte == 0), "{kind}");
            assert!(buffer[100..1200].iter().all(|found| *found == byte), "{kind}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "runs the peer that writes")]
fn write_at(folder: &Folder, command: &str) {
    let mut run = std::process::Command::new("qemu-io");
    run.args(["-f", "vmdk", "-c", command, "a.vmdk"]).current_dir(folder.0.path());
    let output = run.output().expect("`qemu-io` is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Changes something of an image: a field of the header, an entry of directory or tables, a number in a descriptor, the end.
fn change(bytes: &mut Vec<u8>, random: &mut impl FnMut(u64) -> u64) {
    let index = |number: u64| usize::try_from(number).unwrap();
    let length = u64::try_from(bytes.len()).unwrap();
    if !bytes.starts_with(&sparse::MAGIC) {
        let digits: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
        if random(4) == 0 {
            let at = index(random(length));
            bytes[at] ^= 1 << random(7);
        } else if !digits.is_empty() {
            let at = digits[index(random(u64::try_from(digits.len()).unwrap()))];
            bytes[at] = b'0' + u8::try_from(random(10)).unwrap();
        }
        return;
    }
    let values = [0, 1, 2, 21, 30, 64, 127, 128, 256, length / 512 - 1, length / 512, 1 << 31];
    let value = values[index(random(u64::try_from(values.len()).unwrap()))].to_le_bytes();
    let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) * 512;
    match random(8) {
        0 => bytes.truncate(index(length - random(length / 4))),
        1 => {
            let at = [4, 8, 12, 20, 44, 56, 64, 72][index(random(8))];
            let count = if matches!(at, 4 | 8 | 44) { 4 } else { 1 };
            bytes[at..at + count].copy_from_slice(&value[..count]);
        }
        2 => {
            let at = index(directory + 4 * random(3));
            if let Some(entry) = bytes.get_mut(at..at + 4) {
                entry.copy_from_slice(&value[..4]);
            }
        }
        3 => {
            let at = index(random(1024));
            bytes[at] ^= 1 << random(7);
        }
        _ => {
            let at = index(directory + 512 + 4 * random(1100));
            if let Some(entry) = bytes.get_mut(at..at + 4) {
                entry.copy_from_slice(&value[..4]);
            }
        }
    }
}

#[test]
fn changed_images_are_refused_or_read_as_qemu_img_reads_them() {
    let kinds =
        ["monolithicSparse", "twoGbMaxExtentSparse", "monolithicFlat", "twoGbMaxExtentFlat"];
    let (mut refused, mut equal, mut theirs) = (0, 0, 0);
    let folder = Folder::new(&[]);
    for (kind, nth) in kinds.into_iter().zip(0..) {
        for entry in fs::read_dir(folder.0.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        pattern(&folder, (40 << 20) + 1536, nth);
        convert_to(&folder, kind);
        let extents = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<PathBuf> = extents.filter(|path| !path.ends_with("disk.raw")).collect();
        let originals: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        for seed in 0..CHANGED / 4 {
            let mut random = random(nth << 32 | seed);
            for (path, original) in files.iter().zip(&originals) {
                let mut bytes = original.clone();
                // Flat extents have nothing to change but their end; a descriptor does.
                if bytes.starts_with(&sparse::MAGIC) || bytes.len() < 1 << 20 {
                    for _ in 0..=random(3) {
                        change(&mut bytes, &mut random);
                    }
                }
                fs::write(path, bytes).unwrap();
            }
            let ours = folder.blocks("a.vmdk").ok().filter(|blocks| blocks.size() <= SIZE_MAX);
            let Some(ours) = ours.and_then(|blocks| read(blocks.as_ref()).ok()) else {
                refused += 1;
                continue;
            };
            match convert_back(&folder) {
                Ok(back) => {
                    assert!(ours == back, "{kind}, seed {seed}: the bytes differ");
                    equal += 1;
                }
                Err(_) => theirs += 1,
            }
        }
    }
    // A run that compares next to nothing proves nothing.
    assert!(
        equal >= 8 && refused >= 4,
        "{equal} equal, {refused} refused, {theirs} only by qemu-img"
    );
}
