//! QEMU's qcow2 (QEMU's `docs/interop/qcow2.txt`; what QEMU's `block/qcow2*.c` make of it where the text is silent): disks
//! in single files, read at any place and written. The reader and the writer are our own: `imago`, the one crate for it, is
//! asynchronous, opens the files that an image names, and bounds neither time nor memory on hostile images.

mod clusters;
mod layout;
mod read;
mod tables;
mod write;

pub(super) use {read::Qcow2, write::Qcow2Disk};

#[cfg(feature = "peers")]
#[cfg(test)]
mod peers;
