//! The checksums that archives state of their members, worked out while the bytes pass by. SHA-1 is an old export's best: it
//! shows damage, and no intent.

use sha1::Sha1;
use sha2::digest::Digest;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Sha256, Sha512};

use crate::domain::vm::Checksum;

/// A checksum over what passed by until now.
#[derive(Clone, Debug)]
pub(super) enum Running {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Running {
    /// Begins one of the kind that is stated; `None` where nothing that is known is.
    pub(super) fn of(stated: &Checksum) -> Option<Self> {
        match stated {
            Checksum::Sha1(_) => Some(Self::Sha1(Sha1::new())),
            Checksum::Sha256(_) => Some(Self::Sha256(Sha256::new())),
            Checksum::Sha512(_) => Some(Self::Sha512(Sha512::new())),
            Checksum::Unchecked(_) | Checksum::Absent => None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// Returns all that is needed to go on later, in hexadecimal.
    pub(super) fn state(&self) -> String {
        match self {
            Self::Sha1(hash) => hex::encode(hash.serialize()),
            Self::Sha256(hash) => hex::encode(hash.serialize()),
            Self::Sha512(hash) => hex::encode(hash.serialize()),
        }
    }

    /// Goes on from a state of the same kind; `None` where it is none.
    pub(super) fn resumed(&self, state: &str) -> Option<Self> {
        fn read<T: SerializableState>(state: &[u8]) -> Option<T> {
            T::deserialize(state.try_into().ok()?).ok()
        }
        let state = hex::decode(state).ok()?;
        match self {
            Self::Sha1(_) => read(&state).map(Self::Sha1),
            Self::Sha256(_) => read(&state).map(Self::Sha256),
            Self::Sha512(_) => read(&state).map(Self::Sha512),
        }
    }

    /// Returns the checksum, in hexadecimal.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha1(hash) => hex::encode(hash.finalize()),
            Self::Sha256(hash) => hex::encode(hash.finalize()),
            Self::Sha512(hash) => hex::encode(hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_in_two_sittings_has_the_checksum_of_the_whole() {
        // The hashes of `abc` that FIPS 180-4 gives.
        let stated = [
            Checksum::Sha1("a9993e364706816aba3e25717850c26c9cd0d89d".into()),
            Checksum::Sha256(
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            ),
            Checksum::Sha512(
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
                    .into(),
            ),
        ];
        for stated in &stated {
            let fresh = Running::of(stated).unwrap();
            let mut first = fresh.clone();
            first.update(b"ab");
            let mut second = fresh.resumed(&first.state()).unwrap();
            second.update(b"c");
            assert_eq!(Some(second.finish().as_str()), stated.stated().map(|(_, hash)| hash));
            assert!(fresh.resumed("00").is_none() && fresh.resumed("x").is_none());
        }
        assert!(Running::of(&Checksum::Absent).is_none());
    }
}
