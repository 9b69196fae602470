//! How an export stores a disk: what its descriptor tells, and whether the image agrees.
//!
//! The descriptor decides which reader is asked. What the image begins with may only contradict it: a guest writes the first
//! bytes of a raw disk, and must not choose how they are read.

use super::ovf::OvfDisk;
use crate::adapter::image::files::Format;

/// How a descriptor says that a disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A stream-optimized VMDK, which is read forward.
    Stream,
    /// An image that is read at any place.
    Image(Format),
    /// Something else, or nothing.
    Unknown,
}

impl Told {
    /// Finds out what a descriptor says.
    ///
    /// `ovf:volume-format` is oVirt's and comes first: the `ovf:format` beside it says `vmdk.html#sparse` of a raw disk.
    /// `ovf:format` is a URL; the ones here are what VMware (`#streamOptimized`, `#sparse`, `#monolithicSparse`), oVirt
    /// (`qcow-image-format.html`) and virt-v2v (Wikipedia's page on the byte, for raw) write, and the plain words.
    pub(super) fn of(disk: &OvfDisk) -> Self {
        let word = |text: &str| text.trim().to_ascii_lowercase();
        if let Some(volume) = &disk.volume_format {
            return match word(volume).as_str() {
                "raw" => Self::Image(Format::Raw),
                "cow" => Self::Image(Format::Qcow2),
                _ => Self::Unknown,
            };
        }
        let format = word(&disk.format);
        let (page, kind) = format.split_once('#').unwrap_or((&format, &format));
        match kind {
            "streamoptimized" => Self::Stream,
            "sparse" | "monolithicsparse" if page.contains("vmdk") => Self::Image(Format::Vmdk),
            "qcow2" => Self::Image(Format::Qcow2),
            "raw" => Self::Image(Format::Raw),
            _ if page.ends_with("/qcow-image-format.html") => Self::Image(Format::Qcow2),
            _ if page.ends_with("en.wikipedia.org/wiki/byte") => Self::Image(Format::Raw),
            _ => Self::Unknown,
        }
    }
}

/// The largest unit that a capacity is rounded up to.
const ROUNDED_MAX: u64 = 1 << 30;

/// Tells why raw bytes are not the disk that a descriptor speaks of; `None` where they may be.
///
/// Nothing within tells how large a raw disk is, so that its bytes and the descriptor must agree. Where something else tells
/// that all of the bytes are there (`whole`), a stated capacity may be rounded up to the unit in which it is stated, a GiB at
/// most (oVirt states whole ones); the guest then sees the bytes that are there. Fewer or more than that mean that one of both
/// is not what was exported.
///
/// Where oVirt says that a volume is raw, a qcow2 contradicts it: oVirt packs every disk as qcow2, and some of its versions
/// state the format that the volume of a template had before. Only there the bytes are looked at.
pub(super) fn contradicts_raw(
    disk: &OvfDisk,
    size: u64,
    whole: bool,
    found: &Image,
) -> Option<String> {
    if disk.volume_format.is_some() && matches!(found, Image::Qcow2) {
        return Some(found.name(disk));
    }
    let unit = if whole { disk.unit.min(ROUNDED_MAX) } else { 1 };
    let rounded = size.checked_next_multiple_of(unit);
    let rounded = rounded.and_then(|bytes| bytes.checked_next_multiple_of(512));
    (rounded != Some(disk.capacity.0)).then(|| {
        format!("{size} raw bytes of a disk that has {} by the descriptor", disk.capacity.0)
    })
}

/// What an image says that it is, for what is contradicted and for names of what is not read.
pub(super) enum Image {
    /// A stream-optimized VMDK of a disk of so many bytes.
    StreamOptimized {
        /// What the guest sees.
        bytes: u64,
    },
    /// A sparse VMDK of another kind.
    Sparse,
    /// A qcow2.
    Qcow2,
    /// Another one that has a name.
    Named(&'static str),
    /// Raw bytes, perhaps.
    Unknown,
}

impl Image {
    /// Looks at the first 512 bytes, or all of a shorter one.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [b'K', b'D', b'M', b'V', ..] if head.len() == 512 => {
                let number = |at: usize| {
                    u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"))
                };
                let flags = number(8) & 0xffff_ffff;
                let markers_and_deflate = flags & (1 << 16) != 0 && flags & (1 << 17) != 0;
                // As for the descriptor's capacity: 2⁵⁰ bytes.
                let sectors = Some(number(12)).filter(|count| (1..=1 << 41).contains(count));
                match sectors {
                    Some(sectors) if markers_and_deflate => {
                        Self::StreamOptimized { bytes: sectors * 512 }
                    }
                    _ => Self::Sparse,
                }
            }
            [b'Q', b'F', b'I', 0xfb, ..] => Self::Qcow2,
            [b'C', b'O', b'W', b'D', ..] => Self::Named("a VMDK of ESX (COWD)"),
            [0x1f, 0x8b, ..] => Self::Named("compressed with gzip"),
            _ if head.starts_with(b"# Disk Desc") => Self::Named("a VMDK descriptor"),
            _ if head.starts_with(b"vhdxfile") => Self::Named("VHDX"),
            _ => Self::Unknown,
        }
    }

    /// Names it, where that is not what a descriptor calls it.
    pub(super) fn name(&self, disk: &OvfDisk) -> String {
        let what = match self {
            Self::StreamOptimized { .. } => "a stream-optimized VMDK",
            Self::Sparse => "a sparse VMDK of another kind",
            Self::Qcow2 => "qcow2",
            Self::Named(name) => name,
            Self::Unknown => "an unknown image",
        };
        let called = disk.volume_format.as_ref().unwrap_or(&disk.format);
        format!("{what} that the descriptor calls `{called}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::DiskKey;
    use crate::domain::unit::Bytes;

    fn disk(format: &str, volume_format: Option<&str>) -> OvfDisk {
        OvfDisk {
            key: DiskKey::new("d"),
            capacity: Bytes(11 << 30),
            unit: 1 << 30,
            format: format.to_owned(),
            volume_format: volume_format.map(str::to_owned),
            boots: false,
            parent: None,
            file: None,
        }
    }

    #[test]
    fn a_format_is_what_the_descriptor_says() {
        let vmware = "http://www.vmware.com/interfaces/specifications/vmdk.html";
        let old_vmware = "http://www.vmware.com/specifications/vmdk.html";
        let qcow = "http://www.gnome.org/~markmc/qcow-image-format.html";
        let byte = "http://en.wikipedia.org/wiki/Byte";
        let vhd = "http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx#sparse";
        let (raw, qcow2) = (Told::Image(Format::Raw), Told::Image(Format::Qcow2));
        let cases = [
            (format!("{vmware}#streamOptimized"), None, Told::Stream),
            (format!("{vmware}#sparse"), None, Told::Image(Format::Vmdk)),
            (format!("{old_vmware}#monolithicSparse"), None, Told::Image(Format::Vmdk)),
            (format!("{vmware}#flat"), None, Told::Unknown),
            (vmware.to_owned(), None, Told::Unknown),
            (qcow.to_owned(), None, qcow2),
            (byte.to_owned(), None, raw),
            ("raw".to_owned(), None, raw),
            ("https://example.com/formats#QCOW2".to_owned(), None, qcow2),
            (vhd.to_owned(), None, Told::Unknown),
            (String::new(), None, Told::Unknown),
            (format!("{old_vmware}#sparse"), Some("RAW"), raw),
            (qcow.to_owned(), Some("COW"), qcow2),
            (byte.to_owned(), Some("COW"), qcow2),
            (qcow.to_owned(), Some("Unassigned"), Told::Unknown),
        ];
        for (format, volume, expected) in cases {
            assert_eq!(Told::of(&disk(&format, volume)), expected, "{format} {volume:?}");
        }
    }

    #[test]
    fn raw_bytes_are_as_many_as_the_descriptor_says_up_to_its_unit() {
        let told = |unit: u64, capacity: u64, size: u64| {
            let disk = OvfDisk { unit, capacity: Bytes(capacity), ..disk("raw", None) };
            contradicts_raw(&disk, size, true, &Image::Qcow2)
        };
        let gib = 1 << 30;
        for size in [10 * gib + 1, 10 * gib + 512, 11 * gib] {
            assert_eq!(told(gib, 11 * gib, size), None, "{size}");
        }
        for size in [0, 10 * gib, 11 * gib + 1, u64::MAX] {
            let why = told(gib, 11 * gib, size).unwrap();
            assert_eq!(
                why,
                format!("{size} raw bytes of a disk that has 11811160064 by the descriptor")
            );
        }
        assert!(told(1 << 40, 1 << 40, 10 * gib + 1).is_some(), "no disk is rounded by a TiB");
        let short = contradicts_raw(&disk("raw", None), 11 * gib - 512, false, &Image::Unknown);
        assert!(short.is_some(), "nothing tells that it is whole");
        assert_eq!(contradicts_raw(&disk("raw", None), 11 * gib, false, &Image::Unknown), None);
        // A capacity in bytes leaves room for a broken sector only, as it is read: rounded up to one.
        assert_eq!(told(1, 1024, 1000), None);
        assert!(told(1, 1024, 512).is_some() && told(1, 1024, 1025).is_some());
        // What a guest writes decides nothing but where oVirt is known to store something else.
        let ovirt = disk("", Some("RAW"));
        assert_eq!(contradicts_raw(&ovirt, 11 << 30, true, &Image::Unknown), None);
        let why = contradicts_raw(&ovirt, 11 << 30, true, &Image::Qcow2);
        assert_eq!(why.as_deref(), Some("qcow2 that the descriptor calls `RAW`"));
    }
}
