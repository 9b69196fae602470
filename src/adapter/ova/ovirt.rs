//! What oVirt says in words of its own (`OvfWriter`, `OvfOvaWriter` and `OvfReader` of its engine, and `pack_ova.py`, which packs
//! the archive). Its disks lie on no controllers; one is marked as the one that boots. The `rasd:Address` of a device is its
//! place on the PCI bus. All members are named by UUIDs, but the descriptor, `vm.ovf`, which comes first.

use crate::domain::vm::Firmware;
use crate::xml::Element;

/// Tells whether a descriptor without a `VirtualSystem` is one of those that lie in a storage domain, which have sections
/// without names and refer to volumes of that domain.
pub(super) fn is_export_domain(envelope: &Element) -> bool {
    envelope.all("Content").any(|content| {
        content.attribute("type").is_some_and(|kind| kind.ends_with("VirtualSystem_Type"))
    })
}

/// Returns the firmware. Of the numbers 0 and 1 are BIOS (i440fx and Q35), 2 and 3 UEFI (without and with secure boot): those
/// that the engine had before it knew a default of a cluster, and has kept in descriptors. Older ones state none, and have BIOS.
pub(super) fn firmware(system: &Element) -> Option<Firmware> {
    match system.text_of("BiosType") {
        Some("0" | "1") => Some(Firmware::Bios),
        Some("2" | "3") => Some(Firmware::Efi),
        Some(_) => None,
        None => system.child("ClusterCompatibilityVersion").map(|_| Firmware::Bios),
    }
}

/// Tells whether its firmware starts only what is signed.
pub(super) fn secure_boot(system: &Element) -> bool {
    system.text_of("BiosType") == Some("3")
}

/// Returns the CPUs, where only their arrangement is stated.
pub(super) fn cpus(item: &Element) -> Option<u32> {
    product(item, &["num_of_sockets", "cpu_per_socket", "threads_per_cpu"])
}

/// Returns how many of them are in one socket.
pub(super) fn cores_per_socket(item: &Element) -> Option<u32> {
    product(item, &["cpu_per_socket", "threads_per_cpu"])
}

/// Multiplies what an arrangement states; `None` where it states none.
fn product(item: &Element, names: &[&str]) -> Option<u32> {
    item.child("num_of_sockets")?;
    let count = |name| item.text_of(name).map_or(Some(1), |text| text.parse::<u32>().ok());
    names.iter().try_fold(1_u32, |product, name| product.checked_mul(count(name)?))
}

/// Returns the address of a network card: an `Address` as everybody else writes it is one, `{type=pci, slot=0x03, …}` is none.
pub(super) fn mac(item: &Element) -> Option<&str> {
    let address = || item.text_of("Address").filter(|address| !address.starts_with('{'));
    item.text_of("MACAddress").or_else(address)
}

/// Returns where a disk comes in the order of those that the guest starts from: first the one that is marked, then those with
/// a number, then all others.
pub(super) fn boot_order(boots: bool, item: &Element) -> u32 {
    if boots {
        return 0;
    }
    let number = item.text_of("BootOrder").and_then(|text| text.parse().ok());
    number.filter(|number| *number > 0).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
