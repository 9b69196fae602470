//! The parts of a stream-optimized VMDK (VMware Virtual Disk Format 5.0; QEMU's `block/vmdk.c`): header, embedded
//! descriptor, markers. All integers are little-endian. Nothing here is trusted: every number has a bound.

/// The unit of every place and size in a VMDK.
pub(super) const SECTOR: u64 = 512;

/// The longest descriptor, as in QEMU.
pub(super) const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

/// The smallest and largest grain that is read: a leaf of the block map, and a piece.
pub(super) const GRAIN_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;

/// The entries of one grain table, in every file that is known, and their bytes.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// See [`TABLE_ENTRIES`].
pub(super) const TABLE_BYTES: usize = 2048;

const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the guest sees, in bytes.
    pub(super) capacity: u64,
    /// The bytes of one grain.
    pub(super) grain: u64,
    /// Where the descriptor starts.
    pub(super) descriptor: u64,
    /// How long it is, padding included.
    pub(super) descriptor_bytes: u64,
    /// Where the first grain or marker stands.
    pub(super) overhead: u64,
}

/// What the sector before a grain or before metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// A grain: where the guest sees it, and the bytes of its zlib stream, which begins within this sector.
    Grain {
        /// In bytes.
        offset: u64,
        /// In bytes.
        size: u64,
    },
    /// So many bytes of metadata follow: tables, a directory, a footer.
    Metadata(u64),
    /// Only padding follows.
    End,
}

/// The bytes of a grain's marker before its data.
pub(super) const GRAIN_MARKER_BYTES: usize = 12;

/// Reads the header. The error says why it is refused, and at which byte of the header.
pub(super) fn header(sector: &[u8; 512]) -> Result<Header, (u64, String)> {
    if sector[..4] != *b"KDMV" {
        let found = sector[..4].escape_ascii();
        return Err((
            0,
            format!("it starts with `{found}` instead of `KDMV`: it is no sparse VMDK"),
        ));
    }
    let version = u32_at(sector, 4);
    if !(1..=3).contains(&version) {
        return Err((4, format!("version {version} of the format is unknown")));
    }
    if sector[73..77] != *b"\n \r\n" {
        return Err((73, "a transfer as text changed its line ends".to_owned()));
    }
    let flags = u32_at(sector, 8);
    if flags & FLAG_COMPRESSED == 0 || flags & FLAG_MARKERS == 0 {
        return Err((8, format!("flags {flags:#x} are not those of a stream-optimized VMDK")));
    }
    let method = u16_at(sector, 77);
    if method != 1 {
        return Err((
            77,
            format!("compression method {method} is unknown, only 1 (deflate) is read"),
        ));
    }
    let grain = u64_at(sector, 20);
    if !grain.is_power_of_two() || !GRAIN_BYTES.contains(&grain.saturating_mul(SECTOR)) {
        return Err((20, format!("a grain of {grain} sectors: only 128 to 2048 are read")));
    }
    let bytes = |at: usize, what: &str| {
        let sectors = u64_at(sector, at);
        let place = u64::try_from(at).expect("below 512");
        let refused = || (place, format!("{what} of {sectors} sectors is more than any disk has"));
        sectors.checked_mul(SECTOR).ok_or_else(refused)
    };
    let header = Header {
        capacity: bytes(12, "a capacity")?,
        grain: grain * SECTOR,
        descriptor: bytes(28, "a descriptor's place")?,
        descriptor_bytes: bytes(36, "a descriptor")?,
        overhead: bytes(64, "metadata")?,
    };
    let Header { descriptor, descriptor_bytes, overhead, .. } = header;
    if descriptor_bytes == 0 || descriptor_bytes > DESCRIPTOR_BYTES_MAX {
        return Err((36, format!("a descriptor of {descriptor_bytes} bytes")));
    }
    if descriptor < SECTOR || descriptor.saturating_add(descriptor_bytes) > overhead {
        return Err((28, "the descriptor does not lie between header and data".to_owned()));
    }
    Ok(header)
}

/// Returns where the directory of tables stands, where the header knows: a writer that streams puts it at the end.
pub(super) fn directory(header: &[u8; 512]) -> Option<u64> {
    let entries = u64::from(u32_at(header, 44));
    let sector = u64_at(header, 56);
    (entries == TABLE_ENTRIES && sector != 0 && sector != u64::MAX)
        .then(|| sector.saturating_mul(SECTOR))
}

/// Looks into the descriptor for what would make the grains mean something else.
pub(super) fn check_descriptor(bytes: &[u8]) -> Result<(), String> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case(key).then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    match value("createType") {
        Some(kind) if kind == "streamOptimized" => {}
        Some(kind) => {
            return Err(format!("its descriptor says createType `{}`", kind.escape_debug()));
        }
        None => return Err("its descriptor names no createType".to_owned()),
    }
    match value("parentCID") {
        Some(parent) if !parent.eq_ignore_ascii_case("ffffffff") => {
            Err("it holds only the differences from a parent disk".to_owned())
        }
        _ => Ok(()),
    }
}

/// Reads a marker.
pub(super) fn marker(sector: &[u8; 512]) -> Result<Marker, String> {
    let value = u64_at(sector, 0);
    let size = u32_at(sector, 8);
    let bytes = || value.checked_mul(SECTOR).ok_or(format!("sector {value} is on no disk"));
    if size > 0 {
        return Ok(Marker::Grain { offset: bytes()?, size: u64::from(size) });
    }
    match u32_at(sector, 12) {
        0 => Ok(Marker::End),
        1..=3 => Ok(Marker::Metadata(bytes()?)),
        kind => Err(format!("a marker of the unknown type {kind}")),
    }
}

fn u16_at(sector: &[u8; 512], at: usize) -> u16 {
    u16::from_le_bytes(sector[at..at + 2].try_into().expect("two bytes of a sector"))
}

fn u32_at(sector: &[u8; 512], at: usize) -> u32 {
    u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes of a sector"))
}

fn u64_at(sector: &[u8; 512], at: usize) -> u64 {
    u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes of a sector"))
}
