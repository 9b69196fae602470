//! Real files.

use std::fs;
use std::os::unix::fs::symlink;

use expect_test::expect;
use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

fn folder() -> (tempfile::TempDir, Confine) {
    let folder = tempfile::tempdir().unwrap();
    let confine = Confine::new([folder.path().to_owned()]);
    (folder, confine)
}

/// Makes a file of so many bytes with one page of data at these places.
fn sparse_file(path: &Path, size: u64, places: impl IntoIterator<Item = u64>) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for place in places {
        file.write_all_at(&[7; 4096], place).unwrap();
    }
}

#[test]
fn data_and_holes_are_told_and_read() {
    let (folder, confine) = folder();
    let path = folder.path().join("disk.raw");
    let mib = 1 << 20;
    sparse_file(&path, 8 * mib + 100, [mib, mib + 4096, 4 * mib]);
    let image = open(&confine, &path).unwrap();
    assert_eq!((image.size(), image.in_flight(), image.is_device()), (8 * mib + 100, 4, false));
    let extents = image.extents(0, image.size()).unwrap();
    let data: u64 = extents
        .iter()
        .filter(|extent| extent.content == Content::Data)
        .map(|extent| extent.length)
        .sum();
    assert_eq!(data, 3 * 4096);
    assert_eq!(extents.len(), 5);
    assert_eq!(extents.last().unwrap().end(), image.size());
    let within = image.extents(mib + 10, 20).unwrap();
    assert_eq!(within, [Extent { offset: mib + 10, length: 20, content: Content::Data }]);
    let mut bytes = [1; 8];
    image.read(mib - 4, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0, 7, 7, 7, 7]);
}

#[test]
fn a_part_of_a_file_has_places_of_its_own() {
    let (folder, confine) = folder();
    let path = folder.path().join("a.ova");
    let mib = 1 << 20;
    sparse_file(&path, 8 * mib, [0, 2 * mib, 3 * mib, 6 * mib]);
    let part = |offset: u64, length: u64| {
        let file = confine.read(&path).unwrap();
        let stamp = stamp(&file).unwrap();
        let stored = StoredDisk { path: String::new(), stamp, offset, length };
        part(file, &stored, PathBuf::from("a.ova/disk"))
    };
    let image = part(mib + 512, 4 * mib).unwrap();
    assert_eq!((image.size(), image.is_device()), (4 * mib, false));
    let told: Vec<_> = image.extents(0, image.size()).unwrap();
    let data = |offset: u64| Extent { offset, length: 4096, content: Content::Data };
    let zero =
        |from: u64, to: u64| Extent { offset: from, length: to - from, content: Content::Zero };
    let (first, second) = (mib - 512, 2 * mib - 512);
    let expected = [
        zero(0, first),
        data(first),
        zero(first + 4096, second),
        data(second),
        zero(second + 4096, 4 * mib),
    ];
    assert_eq!(told, expected);
    let mut bytes = [1; 8];
    image.read(first - 4, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0, 7, 7, 7, 7]);
    // What lies behind is another's.
    let error = image.read(4 * mib - 4, &mut bytes).unwrap_err().fault.text;
    expect![
        "cannot read a.ova/disk at byte 4194300 of 4194304: 8 bytes from there go past its end"
    ]
    .assert_eq(&error);
    assert!(image.read(u64::MAX, &mut bytes).is_err());
    for (offset, length) in [(7 * mib, mib + 1), (9 * mib, 0), (u64::MAX, 2)] {
        let error = part(offset, length).unwrap_err().fault.text;
        assert!(error.contains("goes past the end of the file that it lies in"), "{error}");
    }
    // In a hole at the file's end, and in a file that became shorter.
    let end = part(7 * mib, mib).unwrap();
    assert_eq!(end.extents(0, mib).unwrap(), [zero(0, mib)]);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(7 * mib + 100).unwrap();
    let error = end.extents(0, mib).unwrap_err().fault.text;
    assert!(error.contains("a.ova/disk at byte 100: it ends there"), "{error}");
    let error = end.read(50, &mut [0; 100]).unwrap_err().fault.text;
    assert!(error.contains("a.ova/disk at byte 100: it ends there"), "{error}");
}

#[test]
fn one_call_tells_a_bounded_number_of_extents() {
    let (folder, confine) = folder();
    let path = folder.path().join("disk.raw");
    let count = u64::try_from(EXTENTS_MAX).unwrap();
    sparse_file(&path, count * 65_536, (0..count).map(|at| at * 65_536));
    let image = open(&confine, &path).unwrap();
    let extents = image.extents(0, image.size()).unwrap();
    assert!((EXTENTS_MAX..EXTENTS_MAX + 2).contains(&extents.len()), "{}", extents.len());
    let end = extents.last().unwrap().end();
    assert!(end < image.size());
    let rest = image.extents(end, image.size() - end).unwrap();
    assert_eq!(rest[0].offset, end);
}

#[test]
fn what_is_no_file_or_lies_elsewhere_is_refused() {
    let (folder, confine) = folder();
    let refusal = |path: &Path| {
        let text = open(&confine, path).unwrap_err().fault.text;
        text.replace(folder.path().to_str().unwrap(), "")
    };
    let [pipe, link] = ["pipe", "link"].map(|name| folder.path().join(name));
    mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    symlink("/etc/passwd", &link).unwrap();
    expect!["cannot read /pipe: it is no regular file and no block device"]
        .assert_eq(&refusal(&pipe));
    expect!["cannot read : it is no regular file and no block device"]
        .assert_eq(&refusal(folder.path()));
    expect!["cannot open /link: Too many levels of symbolic links (os error 40)"]
        .assert_eq(&refusal(&link));
    expect!["/etc/passwd lies below none of the settings' `allowPaths`"]
        .assert_eq(&refusal(Path::new("/etc/passwd")));
    expect!["cannot open /missing: No such file or directory (os error 2)"]
        .assert_eq(&refusal(&folder.path().join("missing")));
}

#[test]
fn a_file_that_becomes_shorter_fails_and_is_no_hole() {
    let (folder, confine) = folder();
    let path = folder.path().join("disk.raw");
    sparse_file(&path, 1 << 20, [0]);
    let image = open(&confine, &path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let said = |error: PortError| error.fault.text.replace(folder.path().to_str().unwrap(), "");
    expect![
        "cannot read /disk.raw at byte 8192: it ends there, it had 1048576 bytes when it was opened"
    ]
    .assert_eq(&said(image.extents(4096, 65_536).unwrap_err()));
    expect![
        "cannot read /disk.raw at byte 8192: it ends there, it had 1048576 bytes when it was opened"
    ]
    .assert_eq(&said(image.read(8000, &mut [0; 4096]).unwrap_err()));
    assert_eq!(image.extents(4096, 4096).unwrap()[0].content, Content::Zero);
}
