//! A disk that boots: its boot sector prints a line on the first serial port and halts. Behind it lie data that one
//! recognises, noise, and a lot of holes, so that a copy has something to do.

use crate::adapter::image::vmdk_write::GRAIN_BYTES;

/// What the disk of the demo prints.
pub const MARKER: &str = "FERRY-DEMO-UP";

/// 16-bit code at 0x7c00, where the BIOS puts a boot sector; the text follows it.
///
/// ```text
/// 00 31 c0     xor ax, ax        data segment 0
/// 02 8e d8     mov ds, ax
/// 04 fc        cld
/// 05 be 23 7c  mov si, text
/// 08 ac  next: lodsb
/// 09 84 c0     test al, al       a zero ends the text
/// 0b 74 12     jz halt
/// 0d 88 c4     mov ah, al
/// 0f ba fd 03  mov dx, 0x3fd     line status of the first UART
/// 12 ec  wait: in al, dx
/// 13 a8 20     test al, 0x20     room for a character?
/// 15 74 fb     jz wait
/// 17 ba f8 03  mov dx, 0x3f8     its data register
/// 1a 88 e0     mov al, ah
/// 1c ee        out dx, al
/// 1d eb e9     jmp next
/// 1f fa  halt: cli
/// 20 f4        hlt
/// 21 eb fd     jmp $-1
/// 23     text:
/// ```
const CODE: [u8; 0x23] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x23, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x12, 0x88, 0xc4, 0xba,
    0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9, 0xfa,
    0xf4, 0xeb, 0xfd,
];

/// How many grains follow one pattern: a run of data, then holes.
const PERIOD: u64 = 64;
/// Grains of data in each period: half of them text, half of them noise that no compression makes smaller.
const DATA: u64 = 16;

/// The grains of a disk that boots, for [`super::make::DiskSpec`].
///
/// The marker is printed with a line end. Of it as much is kept as fits before the partition table: 400 bytes.
pub fn boot_disk(capacity: u64, marker: &str) -> Box<dyn Iterator<Item = (u64, Vec<u8>)> + Send> {
    let mut sector = CODE.to_vec();
    sector.extend(marker.bytes().filter(|&byte| byte != 0).take(400));
    sector.extend(b"\r\n\0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let grains = (0..capacity.div_ceil(GRAIN_BYTES)).filter(|grain| grain % PERIOD < DATA);
    Box::new(grains.map(move |grain| {
        let offset = grain * GRAIN_BYTES;
        let length = usize::try_from((capacity - offset).min(GRAIN_BYTES)).expect("64 KiB");
        let bytes = match grain {
            0 => [sector.as_slice(), &vec![0; length.saturating_sub(512)]].concat(),
            _ if grain % 2 == 0 => {
                let line = format!("ferry: these bytes stand at {offset}\n");
                line.bytes().cycle().take(length).collect()
            }
            _ => {
                let mut noise = vec![0; length];
                let mut hasher = blake3::Hasher::new();
                hasher.update(&offset.to_le_bytes()).finalize_xof().fill(&mut noise);
                noise
            }
        };
        (offset, bytes)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_disk_is_a_boot_sector_data_and_holes() {
        let capacity = 8 << 20;
        let grains: Vec<_> = boot_disk(capacity, MARKER).collect();
        assert_eq!(grains.len(), 32);
        let (offset, first) = &grains[0];
        assert_eq!((*offset, &first[510..512]), (0, &[0x55, 0xaa][..]));
        assert!(first[0x23..].starts_with(b"FERRY-DEMO-UP\r\n\0"));
        assert!(grains[2].1.starts_with(b"ferry: these bytes stand at 131072\n"));
        assert_eq!(boot_disk(capacity, MARKER).collect::<Vec<_>>(), grains);
        let small: Vec<_> = boot_disk(512, &"x".repeat(1000)).collect();
        assert_eq!((small.len(), small[0].1.len()), (1, 512));
    }
}
