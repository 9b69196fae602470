//! The parts of a qcow2: header, L1 and L2 entries. All integers are big-endian. Nothing here is trusted: every number has a
//! bound.

/// The bytes of the header that any version of it has.
pub(super) const HEADER_BYTES_V2: usize = 72;

/// The same, of version 3.
pub(super) const HEADER_BYTES_V3: usize = 104;

/// How much of a file's start is looked at: the header, and the name of a backing file to say it.
pub(super) const START_BYTES: usize = 4096;

/// The sizes of a cluster, as powers of two, as in QEMU.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// The most entries of the L1 table, as in QEMU: 32 MiB.
pub(super) const L1_ENTRIES_MAX: u64 = (32 << 20) / 8;

/// The bytes of an entry of L1 and L2.
pub(super) const ENTRY_BYTES: u64 = 8;

/// The flag of an entry whose cluster is referred to once.
pub(super) const COPIED: u64 = 1 << 63;

const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const RESERVED: u64 = !(COPIED | COMPRESSED | PLACE);

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// What to do about an image that is not whole.
pub(super) const DAMAGED: &str =
    "compare the file with its source; `qemu-img check` says what else is wrong with it";

/// What to do about an image that needs something else.
const REWRITE: &str = "make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`";

/// Why an image is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The byte of the file.
    pub(super) at: u64,
    /// Why.
    pub(super) why: String,
    /// What to do about it.
    pub(super) remedy: &'static str,
}

impl Refusal {
    /// Something that no whole image says.
    pub(super) fn damaged(at: u64, why: impl Into<String>) -> Self {
        Self { at, why: why.into(), remedy: DAMAGED }
    }

    fn unsupported(at: u64, why: impl Into<String>) -> Self {
        Self { at, why: why.into(), remedy: REWRITE }
    }
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 2 or 3.
    pub(super) version: u32,
    /// The size of a cluster, as a power of two.
    pub(super) cluster_bits: u32,
    /// What the guest sees, in bytes.
    pub(super) capacity: u64,
    /// Where the L1 table stands.
    pub(super) l1: u64,
    /// How many entries it has: as many as the capacity needs, or more.
    pub(super) l1_entries: u64,
    /// Where the table of refcount blocks stands. Not checked: reading needs none.
    pub(super) refcounts: u64,
    /// How many clusters that table has. Not checked.
    pub(super) refcount_clusters: u32,
    /// The bits of a refcount, as a power of two. Not checked.
    pub(super) refcount_order: u32,
    /// How many internal snapshots there are. They are not read.
    pub(super) snapshots: u32,
    /// Whether any feature bit is set, of those that are read past, too.
    pub(super) features: bool,
}

impl Header {
    /// Returns the bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns how much of the disk one L2 table covers, in bytes.
    pub(super) fn table_covers(&self) -> u64 {
        self.cluster() * (self.cluster() / ENTRY_BYTES)
    }

    /// Returns how many entries of L1 the capacity needs.
    pub(super) fn l1_needed(&self) -> u64 {
        self.capacity.div_ceil(self.table_covers())
    }
}

/// Reads the header out of the first [`START_BYTES`] of a file, or all of a shorter one.
pub(super) fn header(start: &[u8]) -> Result<Header, Refusal> {
    if start.len() < HEADER_BYTES_V2 {
        return Err(Refusal::damaged(0, "it is shorter than the header of a qcow2"));
    }
    if start[..4] != *b"QFI\xfb" {
        let found = start[..4].escape_ascii();
        let why = format!("it starts with `{found}` instead of `QFI\\xfb`: it is no qcow2");
        return Err(Refusal::damaged(0, why));
    }
    let version = u32_at(start, 4);
    if version != 2 && version != 3 {
        let why = format!("version {version} of the format is unknown, 2 and 3 are read");
        return Err(Refusal::unsupported(4, why));
    }
    let (features, refcount_order) = if version == 3 { newer(start)? } else { (false, 4) };
    plain(start)?;
    let header = Header {
        version,
        cluster_bits: u32_at(start, 20),
        capacity: u64_at(start, 24),
        l1: u64_at(start, 40),
        l1_entries: u64::from(u32_at(start, 36)),
        refcounts: u64_at(start, 48),
        refcount_clusters: u32_at(start, 56),
        refcount_order,
        snapshots: u32_at(start, 60),
        features,
    };
    geometry(&header)?;
    Ok(header)
}

/// Checks what version 3 added; returns whether any feature bit is set, and the order of refcounts.
fn newer(start: &[u8]) -> Result<(bool, u32), Refusal> {
    if start.len() < HEADER_BYTES_V3 {
        return Err(Refusal::damaged(0, "it is shorter than the header of a qcow2"));
    }
    let length = u32_at(start, 100);
    if length < 104 || !length.is_multiple_of(8) || length > 1 << 21 {
        return Err(Refusal::damaged(100, format!("a header of {length} bytes")));
    }
    // A dirty image has stale refcounts, which are not read.
    let incompatible = u64_at(start, 72);
    if incompatible & CORRUPT != 0 {
        return Err(Refusal {
            at: 72,
            why: "QEMU marked it as corrupt".to_owned(),
            remedy: "repair a copy of it with `qemu-img check -r all`, and check what it holds",
        });
    }
    if incompatible & DATA_FILE != 0 {
        return Err(Refusal::unsupported(72, "its data lies in a second file (`data_file`)"));
    }
    if incompatible & EXTENDED_L2 != 0 {
        return Err(Refusal::unsupported(72, "it has subclusters (`extended_l2`)"));
    }
    let unknown = incompatible & !(DIRTY | COMPRESSION_TYPE);
    if unknown != 0 {
        let why = format!("it needs features that are unknown (bits {unknown:#x})");
        return Err(Refusal::unsupported(72, why));
    }
    let compression = if length > 104 { start.get(104).copied().unwrap_or(0) } else { 0 };
    match compression {
        0 if incompatible & COMPRESSION_TYPE == 0 => {}
        1 => return Err(Refusal::unsupported(104, "it is compressed with zstd")),
        kind => {
            let why = format!("compression type {kind} with feature bits {incompatible:#x}");
            return Err(Refusal::damaged(104, why));
        }
    }
    let features = incompatible | u64_at(start, 80) | u64_at(start, 88);
    Ok((features != 0, u32_at(start, 96)))
}

/// Refuses what would make the clusters mean something else: a second file, a key.
fn plain(start: &[u8]) -> Result<(), Refusal> {
    let backing = u64_at(start, 8);
    if backing != 0 {
        let from = usize::try_from(backing).unwrap_or(usize::MAX);
        let length = usize::try_from(u32_at(start, 16)).unwrap_or(usize::MAX).min(1023);
        let name = start.get(from..from.saturating_add(length)).unwrap_or_default();
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        let why = format!("it holds only the differences from the backing file `{name}`");
        return Err(Refusal::unsupported(8, why));
    }
    match u32_at(start, 32) {
        0 => Ok(()),
        1 => Err(Refusal::unsupported(32, "it is encrypted (AES)")),
        2 => Err(Refusal::unsupported(32, "it is encrypted (LUKS)")),
        kind => {
            Err(Refusal::unsupported(32, format!("it is encrypted by the unknown method {kind}")))
        }
    }
}

fn geometry(header: &Header) -> Result<(), Refusal> {
    let Header { cluster_bits, capacity, l1, l1_entries, .. } = *header;
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(Refusal::damaged(20, format!("clusters of 2^{cluster_bits} bytes")));
    }
    if !capacity.is_multiple_of(512) {
        return Err(Refusal::damaged(24, format!("a capacity of {capacity} bytes: no sectors")));
    }
    let needed = header.l1_needed();
    if needed > L1_ENTRIES_MAX || l1_entries > L1_ENTRIES_MAX || l1_entries < needed {
        let why = format!(
            "an L1 table of {l1_entries} entries for {capacity} bytes: {needed} are needed, at most {L1_ENTRIES_MAX} read"
        );
        return Err(Refusal::damaged(36, why));
    }
    if !l1.is_multiple_of(header.cluster()) {
        return Err(Refusal::damaged(40, format!("an L1 table at byte {l1}: not at a cluster")));
    }
    Ok(())
}

/// Where an L2 table stands; `None` where a range has none.
pub(super) fn l1_entry(entry: u64, cluster_bits: u32) -> Result<Option<u64>, String> {
    if entry & (RESERVED | ZERO | COMPRESSED) != 0 {
        return Err(format!("an L1 entry {entry:#x} with reserved bits"));
    }
    let place = entry & PLACE;
    if !place.is_multiple_of(1 << cluster_bits) {
        return Err(format!("an L2 table at byte {place}: not at a cluster"));
    }
    Ok((place != 0).then_some(place))
}

/// What an L2 entry says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// It reads as zeros: it is stored nowhere and no other file is behind it, or the image says so.
    Zero,
    /// Its bytes stand at a place.
    Data(u64),
    /// A deflate stream of its bytes stands within a range of the file, which may end behind the file.
    Compressed {
        /// Where it starts.
        at: u64,
        /// How long it is at most: two clusters or less.
        length: u64,
    },
}

/// Reads an L2 entry.
pub(super) fn l2_entry(entry: u64, header: &Header) -> Result<Mapping, String> {
    if entry & COMPRESSED != 0 {
        let place_bits = 62 - (header.cluster_bits - 8);
        let stream = entry & !(COPIED | COMPRESSED);
        let at = stream & ((1 << place_bits) - 1);
        let length = ((stream >> place_bits) + 1) * 512 - at % 512;
        return Ok(Mapping::Compressed { at, length });
    }
    let zero = entry & ZERO != 0;
    if entry & (RESERVED & !ZERO) != 0 || (zero && header.version < 3) {
        return Err(format!("an L2 entry {entry:#x} with reserved bits"));
    }
    let place = entry & PLACE;
    if !place.is_multiple_of(header.cluster()) {
        return Err(format!("a cluster at byte {place}: not at a multiple of its size"));
    }
    Ok(if zero || place == 0 { Mapping::Zero } else { Mapping::Data(place) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes of the header"))
}

/// Reads a number.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a slice"))
}

/// The bytes of a cluster of the images that are written: a leaf of the block map, so that nothing is copied on write.
pub(super) const CLUSTER_BYTES: usize = 64 << 10;

/// The order of the refcounts of the images that are written: 16 bits.
pub(super) const REFCOUNT_ORDER: u32 = 4;

/// Makes the header of an image that is written: version 3, no features, one cluster of places of refcount blocks.
pub(super) fn new_header(capacity: u64, l1: u64, l1_entries: u32, refcounts: u64) -> Vec<u8> {
    let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
    header.resize(HEADER_BYTES_V3, 0);
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(20, &CLUSTER_BYTES.ilog2().to_be_bytes());
    put(24, &capacity.to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &l1.to_be_bytes());
    put(48, &refcounts.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &REFCOUNT_ORDER.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    header
}
