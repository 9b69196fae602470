//! Writes stream-optimized VMDKs of the shape that VMware exports.
//!
//! qemu-img writes this format in another shape (tables in front, no footer), so a reader that was tested with its files only
//! has never seen what vCenter hands out. Hence a writer of our own: for the tests, and for the archive of `ferry demo`.
//!
//! # Flow
//!
//! ```text
//! header (directory "at the end") · descriptor · padding to sector 128
//! { up to 512 grains · grain table } …   only groups that hold a grain; every grain and table behind its own marker
//! grain directory · footer (the header with the directory's place) · end of stream
//! ```
//!
//! # Guarantees
//!
//! Equal input makes equal bytes. Memory stays at one grain and the tables (4 bytes a grain, 64 MiB for 1 TiB).

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor};

/// The bytes under one entry of a grain table.
pub const GRAIN_BYTES: u64 = 64 << 10;

/// Everything is counted in sectors.
const SECTOR: u64 = 512;
/// Sectors of a grain.
const GRAIN_SECTORS: u64 = GRAIN_BYTES / SECTOR;
/// Entries of one grain table, as every writer has it.
const TABLE_ENTRIES: u64 = 512;
/// Where the first marker stands, in sectors: room for header and descriptor, as VMware leaves it.
const OVERHEAD: u64 = 128;
/// Sectors that the descriptor is padded to.
const DESCRIPTOR_SECTORS: u64 = 20;
/// Flags: the newline test is valid, grains are compressed, markers are there.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// What a marker announces.
#[derive(Clone, Copy)]
enum Marker {
    End,
    Table,
    Directory,
    Footer,
}

/// Writes one VMDK and returns how many bytes it has.
///
/// `name` is the file's own name, which the descriptor repeats. `capacity` is a multiple of 512. Each grain has its offset, a
/// multiple of [`GRAIN_BYTES`] above the one before it, and its bytes: a whole grain, or less at the end of the disk. Grains
/// that are left out read as zeros. Input that breaks one of these rules is `InvalidInput`.
pub fn write_stream_optimized(
    out: &mut dyn Write,
    name: &str,
    capacity: u64,
    grains: &mut dyn Iterator<Item = (u64, Vec<u8>)>,
) -> io::Result<u64> {
    if capacity == 0 || !capacity.is_multiple_of(SECTOR) {
        return Err(invalid(format!("a disk of {capacity} bytes is no multiple of 512")));
    }
    if name.contains(['"', '\n', '\r', '\0']) {
        return Err(invalid(format!("{name:?} cannot stand in a VMDK's descriptor")));
    }
    let mut stream = Stream { out, sector: 0 };
    stream.sectors(&header(capacity, u64::MAX))?;
    stream.sectors(&descriptor(name, capacity)?)?;
    stream.pad_to(OVERHEAD)?;

    let mut groups = Groups::new(capacity)?;
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut next = 0;
    for (offset, bytes) in grains {
        let wanted = capacity.saturating_sub(offset).min(GRAIN_BYTES);
        if !offset.is_multiple_of(GRAIN_BYTES) || offset < next || wanted == 0 {
            return Err(invalid(format!("a grain at {offset} is out of order or out of the disk")));
        }
        if u64::try_from(bytes.len()) != Ok(wanted) {
            return Err(invalid(format!("the grain at {offset} is no {wanted} bytes long")));
        }
        next = offset + GRAIN_BYTES;
        groups.enter(offset / GRAIN_BYTES, &mut stream)?;
        let at = stream.grain(offset / SECTOR, &bytes, &mut compressor)?;
        groups.grain(offset / GRAIN_BYTES, at);
    }
    groups.flush(&mut stream)?;

    stream.marker(Marker::Directory, groups.directory_sectors())?;
    let directory = stream.sector;
    stream.sectors(&groups.directory)?;
    stream.marker(Marker::Footer, 1)?;
    stream.sectors(&header(capacity, directory))?;
    stream.marker(Marker::End, 0)?;
    stream.out.flush()?;
    Ok(stream.sector * SECTOR)
}

/// The grain tables: the one that is being filled, and where the finished ones stand.
struct Groups {
    /// Which table is being filled, if any grain came yet.
    current: Option<u64>,
    /// Its entries.
    table: Vec<u8>,
    /// For each table the sector that it stands at; 0 where no grain came.
    directory: Vec<u8>,
}

impl Groups {
    fn new(capacity: u64) -> io::Result<Self> {
        let tables = capacity.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
        // As many directory entries as any reader accepts: 32 Mi, a disk of 1 EiB.
        let tables = usize::try_from(tables).ok().filter(|&count| count <= 32 << 20);
        let tables = tables.ok_or_else(|| invalid(format!("{capacity} bytes are too many")))?;
        Ok(Self { current: None, table: empty_table(), directory: vec![0; tables * 4] })
    }

    /// Writes the table before it, if this grain is the first of another group.
    fn enter(&mut self, grain: u64, stream: &mut Stream<'_>) -> io::Result<()> {
        let group = grain / TABLE_ENTRIES;
        if self.current.is_some_and(|current| current != group) {
            self.flush(stream)?;
        }
        self.current = Some(group);
        Ok(())
    }

    fn grain(&mut self, grain: u64, sector: u32) {
        set(&mut self.table, grain % TABLE_ENTRIES, sector);
    }

    fn flush(&mut self, stream: &mut Stream<'_>) -> io::Result<()> {
        let Some(group) = self.current.take() else { return Ok(()) };
        let table = std::mem::replace(&mut self.table, empty_table());
        stream.marker(Marker::Table, TABLE_ENTRIES * 4 / SECTOR)?;
        set(&mut self.directory, group, stream.position()?);
        stream.sectors(&table)
    }

    fn directory_sectors(&self) -> u64 {
        bytes(&self.directory).div_ceil(SECTOR)
    }
}

/// The output, counted in sectors.
struct Stream<'a> {
    out: &'a mut dyn Write,
    sector: u64,
}

impl Stream<'_> {
    /// Writes bytes and pads them to a sector.
    fn sectors(&mut self, content: &[u8]) -> io::Result<()> {
        let sectors = bytes(content).div_ceil(SECTOR);
        self.out.write_all(content)?;
        let padding = usize::try_from(sectors * SECTOR - bytes(content)).expect("below a sector");
        self.out.write_all(&[0; 512][..padding])?;
        self.sector += sectors;
        Ok(())
    }

    fn pad_to(&mut self, sector: u64) -> io::Result<()> {
        while self.sector < sector {
            self.sectors(&[0; 512])?;
        }
        Ok(())
    }

    fn marker(&mut self, kind: Marker, sectors: u64) -> io::Result<()> {
        let kind: u32 = match kind {
            Marker::End => 0,
            Marker::Table => 1,
            Marker::Directory => 2,
            Marker::Footer => 3,
        };
        let mut marker = [0; 512];
        marker[0..8].copy_from_slice(&sectors.to_le_bytes());
        marker[12..16].copy_from_slice(&kind.to_le_bytes());
        self.sectors(&marker)
    }

    /// Writes a grain behind its marker and returns the marker's sector.
    fn grain(&mut self, lba: u64, content: &[u8], compressor: &mut Compressor) -> io::Result<u32> {
        let at = self.position()?;
        let mut stored = vec![0; 12 + compressor.zlib_compress_bound(content.len())];
        let length = compressor
            .zlib_compress(content, &mut stored[12..])
            .expect("the bound is what the compressor itself asked for");
        stored[0..8].copy_from_slice(&lba.to_le_bytes());
        let size = u32::try_from(length).expect("a grain is far below 4 GiB");
        stored[8..12].copy_from_slice(&size.to_le_bytes());
        self.sectors(&stored[..12 + length])?;
        Ok(at)
    }

    fn position(&self) -> io::Result<u32> {
        u32::try_from(self.sector)
            .map_err(|_| io::Error::other("a stream-optimized VMDK ends at 2 TiB of stored bytes"))
    }
}

fn header(capacity: u64, directory: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[0..4].copy_from_slice(b"KDMV");
    header[4..8].copy_from_slice(&3_u32.to_le_bytes());
    header[8..12].copy_from_slice(&FLAGS.to_le_bytes());
    let fields: [(usize, u64); 4] =
        [(12, capacity / SECTOR), (20, GRAIN_SECTORS), (28, 1), (36, DESCRIPTOR_SECTORS)];
    for (at, value) in fields {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[44..48].copy_from_slice(&512_u32.to_le_bytes());
    header[56..64].copy_from_slice(&directory.to_le_bytes());
    header[64..72].copy_from_slice(&OVERHEAD.to_le_bytes());
    header[73..77].copy_from_slice(b"\n \r\n");
    header[77..79].copy_from_slice(&1_u16.to_le_bytes());
    header
}

fn descriptor(name: &str, capacity: u64) -> io::Result<Vec<u8>> {
    let sectors = capacity / SECTOR;
    // A content id only has to differ from the two reserved values; derived, so that equal input makes equal bytes.
    let hash = blake3::hash(format!("{name}\n{capacity}").as_bytes());
    let id = hex::encode(&hash.as_bytes()[..3]);
    let cylinders = (sectors / (255 * 63)).min(65_535);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=00{id}\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n# Extent description\nRDONLY {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"19\"\n"
    );
    let mut text = text.into_bytes();
    let room = usize::try_from(DESCRIPTOR_SECTORS * SECTOR).expect("10 KiB");
    if text.len() > room {
        return Err(invalid("the name is too long for a VMDK's descriptor".to_owned()));
    }
    text.resize(room, 0);
    Ok(text)
}

fn empty_table() -> Vec<u8> {
    vec![0; usize::try_from(TABLE_ENTRIES * 4).expect("2 KiB")]
}

fn set(entries: &mut [u8], index: u64, value: u32) {
    let at = usize::try_from(index).expect("indexes fit the tables that are in memory") * 4;
    entries[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn bytes(content: &[u8]) -> u64 {
    u64::try_from(content.len()).expect("memory is below 16 EiB")
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Grains = Vec<(u64, Vec<u8>)>;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        noise
    }

    /// Three groups of grains, the middle one empty; text, noise, and a last grain that is cut.
    fn sample() -> (u64, Grains) {
        let capacity = 2 * 512 * GRAIN_BYTES + 3 * GRAIN_BYTES + 1536;
        let grain = usize::try_from(GRAIN_BYTES).unwrap();
        let mut grains = vec![(0, b"ferry ".repeat(grain / 6 + 1)[..grain].to_vec())];
        grains.extend([1, 7, 511].map(|at| (at * GRAIN_BYTES, noise(at, grain))));
        grains.push((1025 * GRAIN_BYTES, noise(9, grain)));
        grains.push((1027 * GRAIN_BYTES, noise(10, 1536)));
        (capacity, grains)
    }

    fn written(capacity: u64, grains: Grains) -> io::Result<Vec<u8>> {
        let mut file = Vec::new();
        let length =
            write_stream_optimized(&mut file, "a-disk1.vmdk", capacity, &mut grains.into_iter())?;
        assert_eq!(length, bytes(&file));
        Ok(file)
    }

    fn u64_at(file: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn the_file_ends_with_footer_and_end_marker_and_is_the_same_again() {
        let (capacity, grains) = sample();
        let file = written(capacity, grains.clone()).unwrap();
        assert_eq!(&file[..4], b"KDMV");
        assert_eq!(u64_at(&file, 56), u64::MAX);
        let end = file.len() - 1536;
        assert_eq!((u64_at(&file, end), file[end + 12]), (1, 3));
        assert_eq!(&file[end + 512..end + 516], b"KDMV");
        assert!(file[end + 1024..].iter().all(|&byte| byte == 0));
        // The footer's directory: the first and third table are there, the second is not.
        let directory = usize::try_from(u64_at(&file, end + 512 + 56)).unwrap() * 512;
        let tables: Vec<u32> = file[directory..directory + 12]
            .chunks_exact(4)
            .map(|entry| u32::from_le_bytes(entry.try_into().unwrap()))
            .collect();
        assert!(tables[0] != 0 && tables[1] == 0 && tables[2] > tables[0], "{tables:?}");
        assert_eq!(written(capacity, grains).unwrap(), file);
    }

    #[test]
    fn grains_that_break_the_rules_are_refused() {
        let grain = vec![1; usize::try_from(GRAIN_BYTES).unwrap()];
        let twice = vec![(GRAIN_BYTES, grain.clone()), (GRAIN_BYTES, grain.clone())];
        let cases = [
            ("unaligned", vec![(512, grain.clone())]),
            ("twice", twice),
            ("behind the end", vec![(4 * GRAIN_BYTES, grain.clone())]),
            ("short", vec![(0, vec![1; 512])]),
        ];
        for (case, grains) in cases {
            let error = written(4 * GRAIN_BYTES, grains).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{case}");
        }
        assert!(written(1000, Vec::new()).is_err());
    }

    #[cfg(feature = "peers")]
    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs the peer that judges")]
    fn qemu_img_reads_what_was_written() {
        let (capacity, grains) = sample();
        let folder = tempfile::tempdir().unwrap();
        let [image, raw] = ["a-disk1.vmdk", "a.raw"].map(|name| folder.path().join(name));
        std::fs::write(&image, written(capacity, grains.clone()).unwrap()).unwrap();
        let qemu_img = |arguments: &[&str], files: &[&std::path::Path]| {
            let run = std::process::Command::new("qemu-img")
                .args(arguments)
                .args(files)
                .output()
                .unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            String::from_utf8(run.stdout).unwrap()
        };
        let info = qemu_img(&["info", "-f", "vmdk"], &[&image]);
        assert!(info.contains(&format!("{capacity} bytes")), "{info}");
        assert!(info.contains("streamOptimized"), "{info}");
        qemu_img(&["convert", "-f", "vmdk", "-O", "raw"], &[&image, &raw]);
        let mut expected = vec![0; usize::try_from(capacity).unwrap()];
        for (offset, content) in grains {
            let at = usize::try_from(offset).unwrap();
            expected[at..at + content.len()].copy_from_slice(&content);
        }
        assert!(std::fs::read(&raw).unwrap() == expected, "the content differs");
    }
}
