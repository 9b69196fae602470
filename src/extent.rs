//! Range algebra over disks: what is known of a range without reading it, aligned to leaves and split into requests.

/// What is known of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It must be read: it holds data, or nobody knows.
    Data,
    /// It reads as zeros, by the promise of the format or the server. "Not allocated" alone is no such promise.
    Zero,
}

/// A range of a disk as the guest sees it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: u64,
    /// How long it is; never 0.
    pub length: u64,
    /// What is known of it.
    pub content: Content,
}

impl Extent {
    /// Returns the byte behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Turns extents that follow each other into requests: bounds on multiples of `align` (a part that holds data makes the whole
/// multiple data), neighbours of one content together, data no longer than `longest`. The end of the last extent stays.
pub fn requests(extents: &[Extent], align: u64, longest: u64) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    let end = extents.last().map_or(0, Extent::end);
    for same in extents.chunk_by(|one, other| one.content == other.content) {
        let extent = same[0];
        let (mut from, mut to) = (extent.offset, same[same.len() - 1].end());
        if extent.content == Content::Data {
            from -= from % align;
            to = to.next_multiple_of(align).min(end);
        } else {
            from = from.next_multiple_of(align);
            to = if to == end { to } else { to - to % align };
        }
        from = from.max(merged.last().map_or(extents[0].offset, Extent::end));
        if from >= to {
            continue;
        }
        match merged.last_mut() {
            Some(last) if last.content == extent.content => last.length = to - last.offset,
            _ => merged.push(Extent { offset: from, length: to - from, content: extent.content }),
        }
    }
    let split = |extent: Extent| {
        let step = if extent.content == Content::Data { longest } else { extent.length };
        let steps = extent.length.div_ceil(step);
        (0..steps).map(move |nth| {
            let offset = extent.offset + nth * step;
            Extent { offset, length: step.min(extent.end() - offset), ..extent }
        })
    };
    merged.into_iter().flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Content, Extent, requests};

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        (0_u64..4, prop::collection::vec((1_u64..300, any::<bool>()), 1..20)).prop_map(
            |(start, runs)| {
                let mut offset = start * 64;
                let mut extents = Vec::new();
                for (length, data) in runs {
                    let content = if data { Content::Data } else { Content::Zero };
                    extents.push(Extent { offset, length, content });
                    offset += length;
                }
                extents
            },
        )
    }

    proptest! {
        #[test]
        fn requests_cover_the_same_range_once_and_lose_no_data(extents in extents()) {
            let requests = requests(&extents, 64, 128);
            let (start, end) = (extents[0].offset, extents.last().unwrap().end());
            let mut at = start;
            for request in &requests {
                prop_assert_eq!(request.offset, at);
                prop_assert!(request.length > 0 && request.offset % 64 == 0);
                prop_assert!(request.content == Content::Zero || request.length <= 128);
                at = request.end();
            }
            prop_assert_eq!(at, end);
            let holds = |list: &[Extent], byte| {
                list.iter().find(|one| (one.offset..one.end()).contains(&byte)).unwrap().content
            };
            for byte in start..end {
                let leaf = byte / 64 * 64;
                let data = (leaf..(leaf + 64).min(end)).any(|byte| holds(&extents, byte) == Content::Data);
                let expected = if data { Content::Data } else { Content::Zero };
                prop_assert_eq!(holds(&requests, byte), expected, "{}", byte);
            }
        }
    }
}
