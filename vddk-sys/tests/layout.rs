//! What the library and we take each other's memory for: the offsets stand in public declarations for the library's versions.

use std::mem::{align_of, offset_of, size_of};

use vddk_sys::raw::*;

macro_rules! check {
    ($of:ty, $size:expr, { $($field:ident)* } $offsets:expr) => {
        assert_eq!(size_of::<$of>(), $size, stringify!($of));
        assert_eq!([$(offset_of!($of, $field)),*], $offsets, stringify!($of));
    };
}

#[test]
fn structures_are_laid_out_as_the_library_has_them() {
    check!(VixDiskLibConnectParams, 128, {
        vmxSpec serverName thumbPrint reserved credType creds port nfcHostPort vimApiVer reserved2 state spec specType
    } [0, 8, 16, 24, 32, 40, 64, 68, 72, 80, 88, 96, 120]);
    check!(VixDiskLibCreds, 24, { uid sessionId ticketId } [0, 0, 0]);
    check!(VixDiskLibUidPasswdCreds, 16, { userName password } [0, 8]);
    check!(VixDiskLibSessionIdCreds, 24, { cookie userName key } [0, 8, 16]);
    check!(VixDiskLibVStorageObjectSpec, 24, { id datastoreMoRef ssId } [0, 8, 16]);
    check!(VixDiskLibGeometry, 12, { cylinders heads sectors } [0, 4, 8]);
    check!(VixDiskLibInfo, 64, {
        biosGeo physGeo capacity adapterType numLinks parentFileNameHint uuid logicalSectorSize physicalSectorSize
    } [0, 12, 24, 32, 36, 40, 48, 56, 60]);
    check!(VixDiskLibBlock, 16, { offset length } [0, 8]);
    check!(VixDiskLibBlockList, 24, { numBlocks blocks } [0, 8]);
    assert_eq!(align_of::<VixDiskLibConnectParams>(), 8);
}

#[test]
fn numbers_are_the_librarys() {
    assert_eq!((VIX_ASYNC, VIXDISKLIB_FLAG_OPEN_READ_ONLY), (25_000, 4));
    assert_eq!(VixDiskLibCredType::VIXDISKLIB_CRED_UID.0, 1);
    assert_eq!(VixDiskLibCredType::VIXDISKLIB_CRED_SESSIONID.0, 2);
    assert_eq!(VixDiskLibSpecType::VIXDISKLIB_SPEC_VMX.0, 0);
    assert_eq!(vddk_sys::SECTOR_BYTES, u64::from(VIXDISKLIB_SECTOR_SIZE));
    assert_eq!(vddk_sys::CHUNK_SECTORS, u64::from(VIXDISKLIB_MIN_CHUNK_SIZE));
    assert_eq!(vddk_sys::CHUNKS_MAX, u64::from(VIXDISKLIB_MAX_CHUNK_NUMBER));
}

/// Its lines differ at once where somebody edited one of the two.
#[cfg(feature = "buildtime-bindgen")]
#[test]
fn the_bindings_are_what_the_header_says() {
    let made = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));
    let kept = include_str!("../src/bindings.rs");
    let differs = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert_eq!(differs, None, "copy the first one to vddk-sys/src/bindings.rs");
    assert_eq!(made.len(), kept.len());
}
