//! Plans the copy of a disk that is read at any place: asks ahead what it holds, passes over zeros, and returns requests that
//! whoever has time reads.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::copy::engine::PIECE_BYTES_MAX;
use crate::copy::tree::LEAF_BYTES;
use crate::domain::unit::Bytes;
use crate::extent::{Content, Extent, requests};
use crate::journal::record::Mend;
use crate::port::{BlockReader, Blocks, Piece, PortError, Position, Stored};

/// How much is asked about at once.
const WINDOW_BYTES: u64 = 32 << 30;

/// A reader of [`Blocks`] from their start to their end.
pub struct Planned {
    blocks: Arc<dyn Blocks>,
    /// What was asked about and not returned.
    ahead: VecDeque<Extent>,
    /// Everything before is asked about.
    asked: u64,
    /// Data returned by this reader and those before it.
    read: u64,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Planned {
    /// Reads from the start, or from a position of an earlier reader.
    pub fn new(blocks: Arc<dyn Blocks>, resume: Option<&str>) -> Result<Self, PortError> {
        let (asked, read) = match resume {
            None => (0, 0),
            Some(text) => parse(text).filter(|(at, _)| *at <= blocks.size()).ok_or_else(|| {
                PortError::lasting(
                    format!("`{}` is no place of the source", text.escape_debug()),
                    "the checkpoint is damaged: start the copy again from the beginning",
                    Mend::Person,
                )
            })?,
        };
        Ok(Self { blocks, ahead: VecDeque::new(), asked, read })
    }

    /// Asks about the next part. An answer may end within a leaf: what of it fills leaves is taken, else a leaf is read.
    fn ask(&mut self) -> Result<(), PortError> {
        let (at, size) = (self.asked, self.blocks.size());
        let length = WINDOW_BYTES.min(size - at);
        let mut extents = self.blocks.extents(at, length)?;
        let mut end = at;
        for extent in &extents {
            if extent.offset != end || extent.length == 0 || extent.end() > at + length {
                return Err(PortError::lasting(
                    format!(
                        "the source tells of {} bytes at byte {} where it was asked about byte {end}",
                        extent.length, extent.offset
                    ),
                    "its allocation cannot be trusted: look at the server or the image",
                    Mend::Source,
                ));
            }
            end = extent.end();
        }
        if end < size && !end.is_multiple_of(LEAF_BYTES) {
            end -= end % LEAF_BYTES;
            extents.retain(|extent| extent.offset < end);
            if let Some(last) = extents.last_mut() {
                last.length = last.length.min(end - last.offset);
            }
        }
        if end <= at {
            end = size.min(at + LEAF_BYTES);
            extents = vec![Extent { offset: at, length: end - at, content: Content::Data }];
        }
        self.ahead = requests(&extents, LEAF_BYTES, u64::from(PIECE_BYTES_MAX)).into();
        self.asked = end;
        Ok(())
    }
}

impl BlockReader for Planned {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        loop {
            let Some(Extent { offset, length, content }) = self.ahead.pop_front() else {
                if self.asked >= self.blocks.size() {
                    return Ok(None);
                }
                self.ask()?;
                continue;
            };
            if content == Content::Data {
                self.read += length;
                let length = u32::try_from(length).expect("a request is a piece at most");
                return Ok(Some(Piece { offset, length, stored: Stored::Unread }));
            }
        }
    }

    fn blocks(&self) -> Option<Arc<dyn Blocks>> {
        Some(self.blocks.clone())
    }

    fn position(&self) -> Result<Position, PortError> {
        let at = self.ahead.front().map_or(self.asked, |extent| extent.offset);
        Ok(Position { resume: format!("{at} {}", self.read), read: Bytes(self.read) })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        Ok(true)
    }
}

/// Reads a position: where it goes on, and how much was read before.
fn parse(text: &str) -> Option<(u64, u64)> {
    let (at, read) = text.split_once(' ')?;
    Some((at.parse().ok()?, read.parse().ok()?))
}

#[cfg(test)]
mod tests;
