//! Writes a disk as VMware exports it: a stream-optimized VMDK, forward only.
//!
//! ```text
//! header (directory "at the end") · descriptor · overhead · grains that hold anything but zeros, each behind its marker,
//! the table of their group behind each group · directory · footer · end of stream
//! ```

use std::io;
use std::os::unix::fs::FileExt;

use libdeflater::{CompressionLvl, Compressor};

use super::disk::Content;

const SECTOR: usize = 512;
/// Bytes of a grain.
const GRAIN: u64 = 64 << 10;
/// Grains of a table.
const TABLE: u64 = 512;
/// Where the first marker stands.
const OVERHEAD_SECTORS: u64 = 128;
/// What is gathered before it is handed on.
const PIECE: usize = 256 << 10;

/// Writes a VMDK piece by piece.
pub(super) struct Export<'a> {
    send: &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>,
    gathered: Vec<u8>,
    /// Sectors so far.
    at: u64,
    compressor: Compressor,
    /// For each table the sector that it stands at.
    directory: Vec<u32>,
}

/// Writes the whole disk; returns how many bytes of it are no holes and no zeros.
pub(super) fn export(
    content: &Content,
    name: &str,
    send: &mut dyn FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<u64> {
    let tables = content.capacity.div_ceil(GRAIN * TABLE);
    let mut export = Export {
        send,
        gathered: Vec::with_capacity(2 * PIECE),
        at: 0,
        compressor: Compressor::new(CompressionLvl::fastest()),
        directory: vec![0; usize::try_from(tables).map_err(io::Error::other)?],
    };
    export.sectors(&header(content.capacity, u64::MAX))?;
    export.sectors(descriptor(content.capacity, name).as_bytes())?;
    while export.at < OVERHEAD_SECTORS {
        export.sectors(&[0; SECTOR])?;
    }
    let populated = export.grains(content)?;
    let directory: Vec<u8> = export.directory.iter().flat_map(|at| at.to_le_bytes()).collect();
    export.marker(sectors_of(directory.len()), 2)?;
    let place = export.at;
    export.sectors(&directory)?;
    export.marker(1, 3)?;
    export.sectors(&header(content.capacity, place))?;
    export.marker(0, 0)?;
    let rest = std::mem::take(&mut export.gathered);
    (export.send)(rest)?;
    Ok(populated)
}

fn sectors_of(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(SECTOR)).unwrap_or(u64::MAX)
}

impl Export<'_> {
    /// Adds bytes, padded to a sector.
    fn sectors(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        let padded = self.gathered.len().next_multiple_of(SECTOR);
        self.gathered.resize(padded, 0);
        self.at += sectors_of(bytes.len());
        if self.gathered.len() >= PIECE {
            let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(2 * PIECE));
            (self.send)(piece)?;
        }
        Ok(())
    }

    fn marker(&mut self, sectors: u64, kind: u32) -> io::Result<()> {
        let mut marker = [0; SECTOR];
        marker[..8].copy_from_slice(&sectors.to_le_bytes());
        marker[12..16].copy_from_slice(&kind.to_le_bytes());
        self.sectors(&marker)
    }

    fn grains(&mut self, content: &Content) -> io::Result<u64> {
        let mut populated = 0;
        let mut table: Option<(u64, Vec<u32>)> = None;
        let mut grain = vec![0; usize::try_from(GRAIN).map_err(io::Error::other)?];
        let mut next = 0;
        for (from, to) in content.allocated()? {
            for number in (from / GRAIN).max(next)..to.div_ceil(GRAIN) {
                next = number + 1;
                let start = number * GRAIN;
                let length = (content.capacity - start).min(GRAIN);
                grain.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
                content.file.read_exact_at(&mut grain, start)?;
                if grain.iter().all(|byte| *byte == 0) {
                    continue;
                }
                populated += length;
                let group = number / TABLE;
                if table.as_ref().is_some_and(|(of, _)| *of != group) {
                    self.table(table.take())?;
                }
                let (_, entries) = table.get_or_insert_with(|| (group, vec![0; 512]));
                let place = usize::try_from(number % TABLE).map_err(io::Error::other)?;
                entries[place] = u32::try_from(self.at).map_err(io::Error::other)?;
                self.grain(start / 512, &grain)?;
            }
        }
        self.table(table)?;
        Ok(populated)
    }

    fn grain(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        let mut stored = vec![0; 12 + self.compressor.zlib_compress_bound(bytes.len())];
        let length =
            self.compressor.zlib_compress(bytes, &mut stored[12..]).map_err(io::Error::other)?;
        stored[..8].copy_from_slice(&sector.to_le_bytes());
        stored[8..12]
            .copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
        self.sectors(&stored[..12 + length])
    }

    fn table(&mut self, table: Option<(u64, Vec<u32>)>) -> io::Result<()> {
        let Some((group, entries)) = table else { return Ok(()) };
        let bytes: Vec<u8> = entries.iter().flat_map(|at| at.to_le_bytes()).collect();
        self.marker(sectors_of(bytes.len()), 1)?;
        let group = usize::try_from(group).map_err(io::Error::other)?;
        self.directory[group] = u32::try_from(self.at).map_err(io::Error::other)?;
        self.sectors(&bytes)
    }
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(SECTOR);
    header.extend(b"KDMV");
    header.extend(3_u32.to_le_bytes());
    // The newline test is valid, grains are compressed, markers are there.
    header.extend(0x3_0001_u32.to_le_bytes());
    for number in [capacity / 512, GRAIN / 512, 1, 20] {
        header.extend(number.to_le_bytes());
    }
    header.extend(512_u32.to_le_bytes());
    for number in [0, directory, OVERHEAD_SECTORS] {
        header.extend(number.to_le_bytes());
    }
    header.extend(b"\0\n \r\n\x01\0");
    header.resize(SECTOR, 0);
    header
}

fn descriptor(capacity: u64, name: &str) -> String {
    let sectors = capacity / 512;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n# Extent description\nRW {sectors} SPARSE \"{name}\"\n\n\
         #DDB\n\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.longContentID = \
         \"fffffffefffffffefffffffefffffffe\"\nddb.virtualHWVersion = \"19\"\n",
        sectors / (255 * 63)
    );
    format!("{text:\0<10240}")
}
