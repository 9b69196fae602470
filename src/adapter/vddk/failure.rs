//! Why VDDK gave no data, what is done about it, and what a person reads of it.

use vddk_sys::{LoadError, StartError, VddkError};

use crate::adapter::vddk::Place;
use crate::journal::record::Mend;
use crate::port::PortError;

/// The error of a request that was never issued, and what VDDK itself calls cancelled.
const CANCELLED: u16 = 10;

/// Why VDDK gave no data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// VDDK failed.
    #[error("{}", said(.0))]
    Vddk(VddkError),
    /// VDDK failed, by its log for want of the server's memory.
    #[error("{}; the server has no memory for it", said(.0))]
    NoMemory(VddkError),
    /// The disk has another size than before.
    #[error("the disk had {before} bytes and has {now} now")]
    Resized {
        /// When it was opened.
        before: u64,
        /// After the connection was made again.
        now: u64,
    },
    /// The thread that calls VDDK is gone.
    #[error("the thread that calls VDDK ended by a bug of ferry")]
    Gone,
}

impl From<VddkError> for Failure {
    fn from(error: VddkError) -> Self {
        Self::Vddk(error)
    }
}

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Connect again, after a pause, and ask again.
    Again,
    /// Ask for less at once.
    Less,
    /// The session or the number of logins does not allow it now; who started the worker may try again.
    Later,
    /// The disk or its snapshot is not what it was.
    Changed,
    /// A person is told.
    Stop,
}

use Class::{Again, Changed, Later, Less, Stop};

/// The errors that are known, by `VIX_E_…`. Numbers and names: ffi-vix_disk_lib; that what is not here stops is on purpose.
const KNOWN: [(u16, &str, Class); 61] = [
    (1, "FAIL", Again),
    (2, "OUT_OF_MEMORY", Less),
    (3, "INVALID_ARG", Stop),
    (4, "FILE_NOT_FOUND", Changed),
    (5, "OBJECT_IS_BUSY", Again),
    (6, "NOT_SUPPORTED", Stop),
    (7, "FILE_ERROR", Stop),
    (CANCELLED, "CANCELLED", Again),
    (13, "FILE_ACCESS_ERROR", Changed),
    (15, "FILE_ALREADY_LOCKED", Again),
    (20, "NOT_SUPPORTED_ON_REMOTE_OBJECT", Stop),
    (22, "FILE_NAME_INVALID", Stop),
    (25, "OBJECT_NOT_FOUND", Stop),
    (26, "HOST_NOT_CONNECTED", Again),
    (30, "NEED_KEY", Stop),
    (32, "LICENSE", Stop),
    (34, "VM_HOST_DISCONNECTED", Again),
    (AUTHENTICATION_FAIL, "AUTHENTICATION_FAIL", Stop),
    (36, "HOST_CONNECTION_LOST", Again),
    (1000, "INVALID_HANDLE", Stop),
    (1002, "TOO_MANY_HANDLES", Stop),
    (HOST_USER_PERMISSIONS, "HOST_USER_PERMISSIONS", Stop),
    (3046, "TOO_MANY_LOGONS", Later),
    (3047, "INVALID_AUTHENTICATION_SESSION", Later),
    (VM_NOT_FOUND, "VM_NOT_FOUND", Stop),
    (4002, "CANNOT_READ_VM_CONFIG", Stop),
    (4003, "TEMPLATE_VM", Stop),
    (13_000, "SNAPSHOT_INVAL", Stop),
    (13_002, "SNAPSHOT_DISKLIB", Stop),
    (13_003, "SNAPSHOT_NOTFOUND", Changed),
    (13_006, "SNAPSHOT_NOPERM", Stop),
    (13_010, "SNAPSHOT_LOCKED", Stop),
    (13_014, "SNAPSHOT_DISKLOCKED", Stop),
    (13_016, "SNAPSHOT_INDEPENDENTDISK", Stop),
    (14_003, "HOST_DISK_INVALID_VALUE", Stop),
    (14_004, "HOST_DISK_SECTORSIZE", Stop),
    (14_005, "HOST_FILE_ERROR_EOF", Stop),
    (14_006, "HOST_NETBLKDEV_HANDSHAKE", Again),
    (14_007, "HOST_SOCKET_CREATION_ERROR", Again),
    (14_008, "HOST_SERVER_NOT_FOUND", Again),
    (14_009, "HOST_NETWORK_CONN_REFUSED", Again),
    (14_010, "HOST_TCP_SOCKET_ERROR", Again),
    (14_011, "HOST_TCP_CONN_LOST", Again),
    (16_000, "DISK_INVAL", Stop),
    (16_002, "DISK_NOIO", Again),
    (16_003, "DISK_PARTIALCHAIN", Stop),
    (16_006, "DISK_NEEDSREPAIR", Stop),
    (16_007, "DISK_OUTOFRANGE", Changed),
    (16_008, "DISK_CID_MISMATCH", Stop),
    (16_014, "DISK_NEEDKEY", Stop),
    (16_027, "DISK_TOOMANYOPENFILES", Again),
    (16_054, "DISK_INVALID_CONNECTION", Again),
    (16_063, "DISK_INVALIDDISK", Stop),
    (16_064, "DISK_NOLICENSE", Stop),
    (16_067, "DISK_CAPACITY_MISMATCH", Changed),
    (18_000, "CANNOT_CONNECT_TO_HOST", Again),
    (30_006, "NET_HTTP_COULDNT_RESOLVE_HOST", Again),
    (30_007, "NET_HTTP_COULDNT_CONNECT", Again),
    (30_022, "NET_HTTP_HTTP_RETURNED_ERROR", Again),
    (30_028, "NET_HTTP_OPERATION_TIMEDOUT", Again),
    (30_200, "NET_HTTP_TRANSFER", Again),
];

const AUTHENTICATION_FAIL: u16 = 35;
const HOST_USER_PERMISSIONS: u16 = 3014;
const VM_NOT_FOUND: u16 = 4000;

/// The call that a wrong thumbprint shows at, as error 1.
const OPEN: &str = "Open";

/// Errors of encrypted disks.
const CRYPTO: std::ops::RangeInclusive<u16> = 17_000..=17_012;

impl Failure {
    /// Tells what is done about it.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Vddk(error) if is_thumbprint(error) => Stop,
            Self::Vddk(VddkError { code, .. }) => {
                KNOWN.iter().find(|known| known.0 == *code).map_or(Stop, |known| known.2)
            }
            Self::NoMemory(_) => Less,
            Self::Resized { .. } => Changed,
            Self::Gone => Stop,
        }
    }

    /// Says it to a person: what was tried, where, why it failed, what VDDK logged, what to do.
    pub(super) fn told(
        &self,
        what: &str,
        place: &Place,
        offset: Option<u64>,
        logged: &str,
    ) -> PortError {
        let at = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let text = format!("cannot {what} {place}{at}: {self}{logged}");
        match self.class() {
            Again => PortError::passing(
                text,
                format!(
                    "see whether {}, and port 902 of the ESXi hosts, are reached from here, and whether they are well",
                    place.address()
                ),
            ),
            Less => PortError::passing(
                text,
                "the ESXi host has no memory for more requests: let fewer disks be copied from it at once",
            ),
            Later => PortError::passing(
                text,
                "the session ended, or too many are open: close those that nobody uses",
            ),
            Changed => PortError::lasting(
                text,
                "the disk, or its snapshot, is not what it was: begin again",
                Mend::Source,
            ),
            Stop => PortError::lasting(text, self.remedy(place), Mend::Person),
        }
    }

    /// Tells what a person can do about what does not pass.
    fn remedy(&self, place: &Place) -> String {
        let Self::Vddk(error) = self else { return "report it with the worker's log".to_owned() };
        match error.code {
            _ if is_thumbprint(error) => format!(
                "this is nearly always a wrong thumbprint: {} is not SHA-1 of the certificate of {} (`openssl s_client -connect {} </dev/null | openssl x509 -noout -fingerprint -sha1`)",
                place.thumbprint,
                place.server,
                place.address()
            ),
            AUTHENTICATION_FAIL => {
                format!("check the credentials of {} at {}", place.user, place.address())
            }
            HOST_USER_PERMISSIONS => format!(
                "give {} the privileges VirtualMachine.Provisioning.DiskRandomRead and VirtualMachine.Provisioning.GetVmFiles",
                place.user
            ),
            VM_NOT_FOUND => format!(
                "{} is no VM of {}: the same one has another id at its vCenter than at its ESXi host",
                place.vm, place.server
            ),
            code if CRYPTO.contains(&code) => {
                "the disk is encrypted: decrypt it, or give the user the privileges of the Cryptographer group".to_owned()
            }
            _ => "the log of VDDK may tell more (`--log debug`); its `bin64/vixDiskCheck` reads the same disk without ferry".to_owned(),
        }
    }
}

fn is_thumbprint(error: &VddkError) -> bool {
    error.code == 1 && error.call == OPEN
}

/// Names an error.
fn said(VddkError { code, call, text }: &VddkError) -> String {
    let name = KNOWN.iter().find(|known| known.0 == *code).map(|known| known.1);
    let words = [name.unwrap_or_default(), text.trim()];
    let words: Vec<&str> = words.into_iter().filter(|words| !words.is_empty()).collect();
    match words.as_slice() {
        [] => format!("VDDK answered {call} with error {code}"),
        words => format!("VDDK answered {call} with error {code} ({})", words.join(": ")),
    }
}

/// Says why there is no library to read with.
pub(super) fn unloaded(error: LoadError) -> PortError {
    let remedy = match &error {
        LoadError::Absent { .. } => {
            "unpack VMware's VDDK for Linux, 6.7 or newer, and name its folder vmware-vix-disklib-distrib"
        }
        LoadError::Refused { .. } => {
            "unpack VMware's VDDK for Linux on x86-64 again, all of it: it needs the other files of its lib64"
        }
        LoadError::TooOld { .. } => "take VMware's VDDK 6.7 or newer",
    };
    PortError::lasting(error.to_string(), remedy, Mend::Person)
}

/// Says why the library did not start.
pub(super) fn unstarted(error: StartError) -> PortError {
    let (text, remedy) = match error {
        StartError::Again => (error.to_string(), "report it with the worker's log"),
        StartError::Refused(error) => (
            said(&error),
            "its folder must be whole and readable, and there must be room for its temporary files",
        ),
    };
    PortError::lasting(format!("VDDK does not start: {text}"), remedy, Mend::Person)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_are_in_order_and_once_there() {
        assert!(KNOWN.is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn what_is_not_known_stops_and_one_is_a_thumbprint_only_where_a_disk_is_opened() {
        let error =
            |code, call, text: &str| Failure::Vddk(VddkError { code, call, text: text.to_owned() });
        for (failure, class, said) in [
            (error(1, "Open", "Unknown error"), Stop, "Open with error 1 (FAIL: Unknown error)"),
            (error(1, "ReadAsync", ""), Again, "ReadAsync with error 1 (FAIL)"),
            (error(999, "Open", "what now"), Stop, "Open with error 999 (what now)"),
            (error(999, "Open", ""), Stop, "Open with error 999"),
            (error(2, "ReadAsync", ""), Less, "ReadAsync with error 2 (OUT_OF_MEMORY)"),
        ] {
            assert_eq!(failure.class(), class);
            assert_eq!(failure.to_string(), format!("VDDK answered {said}"));
        }
        assert_eq!(Failure::Resized { before: 1, now: 2 }.class(), Changed);
    }
}
