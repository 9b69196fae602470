use proptest::prelude::*;

use super::{Answer, Filling, Statuses};
use crate::adapter::nbd::failure::Failure;
use crate::adapter::nbd::wire::{OFFSET_DATA, OFFSET_HOLE, STATUS};
use crate::extent::{Content, Extent};

const OFFSET: u64 = 1000;

/// A chunk of a read: where it begins, and its data or the length of its zeros.
#[derive(Clone, Debug)]
enum Chunk {
    Data(u64, Vec<u8>),
    Hole(u64, u32),
}

impl Chunk {
    fn give(&self, filling: &mut Filling<'_>) -> Result<(), Failure> {
        let (kind, payload) = match self {
            Self::Data(at, data) => (OFFSET_DATA, [&at.to_be_bytes(), data.as_slice()].concat()),
            Self::Hole(at, length) => {
                (OFFSET_HOLE, [at.to_be_bytes().as_slice(), &length.to_be_bytes()].concat())
            }
        };
        let length = u32::try_from(payload.len()).unwrap();
        let mut from = payload.as_slice();
        filling.chunk(kind, length, &mut from)
    }

    fn range(&self) -> (u64, u64) {
        match self {
            Self::Data(at, data) => (*at, *at + u64::try_from(data.len()).unwrap()),
            Self::Hole(at, length) => (*at, at.saturating_add((*length).into())),
        }
    }
}

/// Chunks that follow each other from `OFFSET` on, in some order, and what they make.
fn whole() -> impl Strategy<Value = (Vec<Chunk>, Vec<u8>)> {
    let piece =
        prop_oneof![prop::collection::vec(1_u8.., 1..40).prop_map(Some), Just(None::<Vec<u8>>)];
    prop::collection::vec((piece, 1_u32..40), 1..12).prop_flat_map(|pieces| {
        let (mut chunks, mut content, mut at) = (Vec::new(), Vec::new(), OFFSET);
        for (data, zeros) in pieces {
            let chunk = data.map_or(Chunk::Hole(at, zeros), |data| Chunk::Data(at, data));
            match &chunk {
                Chunk::Data(_, data) => content.extend(data),
                Chunk::Hole(_, zeros) => content.extend((0..*zeros).map(|_| 0)),
            }
            at = chunk.range().1;
            chunks.push(chunk);
        }
        (Just(chunks).prop_shuffle(), Just(content))
    })
}

proptest! {
    #[test]
    fn chunks_in_any_order_make_the_content_and_all_of_them_are_needed(
        (chunks, content) in whole(), missing in any::<prop::sample::Index>()
    ) {
        let mut buffer = vec![0xee; content.len()];
        let mut filling = Filling::new(OFFSET, &mut buffer);
        for chunk in &chunks {
            prop_assert!(filling.complete().is_err());
            prop_assert_eq!(chunk.give(&mut filling), Ok(()));
        }
        prop_assert_eq!(filling.complete(), Ok(()));
        // Nothing fits beside a whole.
        prop_assert!(chunks[missing.index(chunks.len())].give(&mut filling).is_err());
        prop_assert_eq!(buffer, content);
    }

    #[test]
    fn whatever_chunks_come_each_byte_is_taken_once_and_from_within(
        chunks in prop::collection::vec(
            prop_oneof![
                (OFFSET - 20..OFFSET + 120, prop::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(at, data)| Chunk::Data(at, data)),
                (prop_oneof![OFFSET - 20..OFFSET + 120, any::<u64>()], prop_oneof![0_u32..40, any::<u32>()])
                    .prop_map(|(at, length)| Chunk::Hole(at, length)),
            ],
            0..30
        )
    ) {
        let mut taken = [false; 100];
        let mut buffer = [0xee; 100];
        let mut filling = Filling::new(OFFSET, &mut buffer);
        for chunk in &chunks {
            let (from, to) = chunk.range();
            let within = from >= OFFSET && to <= OFFSET + 100 && from < to;
            let place = within.then(|| {
                usize::try_from(from - OFFSET).unwrap()..usize::try_from(to - OFFSET).unwrap()
            });
            let fits = place.filter(|place| !taken[place.clone()].contains(&true));
            prop_assert_eq!(chunk.give(&mut filling).is_ok(), fits.is_some(), "{:?}", chunk);
            if let Some(place) = fits {
                taken[place].fill(true);
            }
            prop_assert_eq!(filling.complete().is_ok(), !taken.contains(&false));
        }
    }

    #[test]
    fn descriptors_cover_the_start_of_what_was_wanted_and_only_promised_zeros_are_zero(
        parts in prop::collection::vec((1_u32..3000, 0_u32..4), 1..12),
        before in 0_u64..512, length in 1_u64..9000
    ) {
        let wanted = 4096 + before..4096 + before + length;
        let mut statuses = Statuses::new(7, 4096, wanted.clone());
        let mut payload = 7_u32.to_be_bytes().to_vec();
        let mut zeros = Vec::new();
        for (length, flags) in &parts {
            payload.extend(length.to_be_bytes());
            payload.extend(flags.to_be_bytes());
            zeros.extend((0..*length).map(|_| flags & 2 != 0));
        }
        let size = u32::try_from(payload.len()).unwrap();
        statuses.chunk(STATUS, size, &mut payload.as_slice()).unwrap();
        statuses.complete().unwrap();
        let extents = statuses.extents();
        let mut at = wanted.start;
        for Extent { offset, length, content } in &extents {
            prop_assert!(*offset == at && *length > 0);
            at += length;
            for byte in *offset..at {
                let told = zeros.get(usize::try_from(byte - 4096).unwrap());
                prop_assert_eq!(*content == Content::Zero, told == Some(&true));
            }
        }
        prop_assert!(at <= wanted.end && !extents.is_empty());
        prop_assert!(extents.windows(2).all(|pair| pair[0].content != pair[1].content));
    }
}
