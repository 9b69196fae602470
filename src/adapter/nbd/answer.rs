//! What the chunks of a reply add up to. Their bytes are read from anything, so that no server is needed to test it.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use crate::adapter::nbd::failure::Failure;
use crate::adapter::nbd::wire::{self, OFFSET_DATA, OFFSET_HOLE, STATUS};
use crate::extent::{Content, Extent};

/// The most descriptors of one answer; nbdkit sends up to as many.
const DESCRIPTORS_MAX: u32 = 1 << 20;
/// The flag of `base:allocation` that promises zeros. The other one, "hole", promises nothing.
const ZERO_FLAG: u32 = 2;

/// An answer that comes in parts.
pub(super) trait Answer {
    /// Takes what follows a simple reply of success.
    fn simple(&mut self, from: &mut dyn Read) -> Result<(), Failure>;
    /// Takes the payload of a chunk that is no error.
    fn chunk(&mut self, kind: u16, length: u32, from: &mut dyn Read) -> Result<(), Failure>;
    /// Tells whether everything came, after the last part.
    fn complete(&self) -> Result<(), Failure>;
}

/// The answer to a read, which fills a buffer.
#[derive(Debug)]
pub(super) struct Filling<'a> {
    offset: u64,
    buffer: &'a mut [u8],
    /// What came: starts and ends within the buffer, neighbours joined.
    covered: BTreeMap<usize, usize>,
}

impl<'a> Filling<'a> {
    /// Begins with nothing.
    pub(super) fn new(offset: u64, buffer: &'a mut [u8]) -> Self {
        Self { offset, buffer, covered: BTreeMap::new() }
    }

    /// Finds the part of the buffer that a chunk is for, and notes that it came.
    fn place(&mut self, at: u64, length: u32) -> Result<Range<usize>, Failure> {
        let lie = |what| Failure::Lie(format!("{length} bytes at byte {at} {what}"));
        if length == 0 {
            return Err(lie("are an empty chunk"));
        }
        let start = at.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let range = range.filter(|range| range.end <= self.buffer.len());
        let range = range.ok_or_else(|| lie("were not asked for"))?;
        let before = self.covered.range(..range.end).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end > range.start) {
            return Err(lie("came twice"));
        }
        let start = before.filter(|(_, end)| *end == range.start).map_or(range.start, |one| one.0);
        let end = self.covered.remove(&range.end).unwrap_or(range.end);
        self.covered.insert(start, end);
        Ok(range)
    }
}

impl Answer for Filling<'_> {
    fn simple(&mut self, from: &mut dyn Read) -> Result<(), Failure> {
        from.read_exact(self.buffer).map_err(Failure::lost)?;
        self.covered = BTreeMap::from([(0, self.buffer.len())]);
        Ok(())
    }

    fn chunk(&mut self, kind: u16, length: u32, from: &mut dyn Read) -> Result<(), Failure> {
        match kind {
            OFFSET_DATA if length > 8 => {
                let range = self.place(wire::u64(from)?, length - 8)?;
                from.read_exact(&mut self.buffer[range]).map_err(Failure::lost)
            }
            OFFSET_HOLE if length == 12 => {
                let (at, length) = (wire::u64(from)?, wire::u32(from)?);
                let range = self.place(at, length)?;
                self.buffer[range].fill(0);
                Ok(())
            }
            _ => Err(misplaced(kind, length, "a read")),
        }
    }

    fn complete(&self) -> Result<(), Failure> {
        let first = self.covered.first_key_value().map(|(start, end)| (*start, *end));
        if first == Some((0, self.buffer.len())) {
            return Ok(());
        }
        let missing = first.filter(|(start, _)| *start == 0).map_or(0, |(_, end)| end);
        let missing = self.offset + u64::try_from(missing).unwrap_or(u64::MAX);
        Err(Failure::Lie(format!("a reply ended without the data at byte {missing}")))
    }
}

/// The answer to what a range holds.
#[derive(Debug)]
pub(super) struct Statuses {
    context: u32,
    /// How far the descriptors came.
    at: u64,
    wanted: Range<u64>,
    came: bool,
    extents: Vec<Extent>,
}

impl Statuses {
    /// Begins with nothing. The question starts at `from`, at or before what is wanted of the answer.
    pub(super) fn new(context: u32, from: u64, wanted: Range<u64>) -> Self {
        Self { context, at: from, wanted, came: false, extents: Vec::new() }
    }

    /// Returns what is known of the wanted range: from its start on, at most to its end, at least one extent.
    pub(super) fn extents(self) -> Vec<Extent> {
        if !self.extents.is_empty() {
            return self.extents;
        }
        let (offset, length) = (self.wanted.start, self.wanted.end - self.wanted.start);
        vec![Extent { offset, length, content: Content::Data }]
    }

    fn push(&mut self, length: u32, flags: u32) -> Result<(), Failure> {
        if length == 0 {
            return Err(Failure::Lie(format!("it describes 0 bytes at byte {}", self.at)));
        }
        let start = self.at.max(self.wanted.start);
        self.at = self.at.saturating_add(length.into());
        let end = self.at.min(self.wanted.end);
        if start >= end {
            return Ok(());
        }
        let content = if flags & ZERO_FLAG == 0 { Content::Data } else { Content::Zero };
        match self.extents.last_mut() {
            Some(last) if last.content == content => last.length = end - last.offset,
            _ => self.extents.push(Extent { offset: start, length: end - start, content }),
        }
        Ok(())
    }
}

impl Answer for Statuses {
    fn simple(&mut self, _: &mut dyn Read) -> Result<(), Failure> {
        Err(Failure::Lie("it tells what a range holds in a simple reply".to_owned()))
    }

    fn chunk(&mut self, kind: u16, length: u32, from: &mut dyn Read) -> Result<(), Failure> {
        let descriptors = length.saturating_sub(4) / 8;
        if kind != STATUS || length < 4 || length - 4 != descriptors * 8 {
            return Err(misplaced(kind, length, "what a range holds"));
        }
        if !(1..=DESCRIPTORS_MAX).contains(&descriptors) || self.came {
            let came = if self.came { ", again" } else { "" };
            return Err(Failure::Lie(format!("it describes a range by {descriptors} parts{came}")));
        }
        let context = wire::u32(from)?;
        if context != self.context {
            return Err(Failure::Lie(format!("it describes context {context}, which is unknown")));
        }
        self.came = true;
        for _ in 0..descriptors {
            let (length, flags) = (wire::u32(from)?, wire::u32(from)?);
            self.push(length, flags)?;
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), Failure> {
        if self.came {
            return Ok(());
        }
        Err(Failure::Lie("a reply ended without telling what the range holds".to_owned()))
    }
}

fn misplaced(kind: u16, length: u32, asked: &str) -> Failure {
    Failure::Lie(format!("it answers {asked} by a chunk of type {kind} and {length} bytes"))
}

#[cfg(test)]
mod tests;
