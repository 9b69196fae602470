//! Ferry moves virtual machines from VMware vSphere and OVA files to KubeVirt or to a local folder of disks with libvirt
//! domains, driven by a git repository.
//!
//! # One direction
//!
//! ```text
//!  git ─► manifest ─► desired ─► policy::clear ─► Cleared ─► decide(now) ─► actions ─► execute ─► the world
//!  source, target ─► collect ─► Observed ──────────┴──────────▲    │                              │ Fact
//!  journal::phase ◄── records ◄── journal::record ◄───────────│────│──────────────────────────────┘
//!        └──────────── Progress ──────────────────────────────┘    └─► status ─► git, status branch only
//! ```
//!
//! # Invariants
//!
//! 1. `decide` never sees a document, a client or a clock.
//! 2. A forward action on a VM holds a `Cleared` (only `policy::clear` makes one), an undo or finish action a `Begun`
//!    (only the journal fold makes one).
//! 3. Only facts are journaled, intents among them; a phase is never stored. Recovery and normal running are the same
//!    fold; folding step by step equals folding from zero.
//! 4. Reports are write-only for the controller; manifest parsing never reads their ref; equal bytes make no commit.
//! 5. The journal is truth, the report is a view; losing a report loses nothing.
//! 6. A pass takes no hint about what changed: events only say "look". Every memo is keyed by all its inputs and may be
//!    dropped at any time.
//! 7. The data plane runs in its own process behind the port `Workers`; the binary links `libc` and `libgcc_s` only.
//! 8. A checkpoint is recorded only after the blocks before it are durable on the target.
//! 9. Every wait, retry and queue has a named bound; past it the VM stalls with a reason, never silently.
//! 10. Nothing destroys the source: its disks are only read.
//! 11. The git tree is read as blobs from the object database, never checked out; symlinks and submodules are refused by
//!     name; nothing of a repository is executed.
//! 12. Trust comes from the watched branch and the settings. A preview of another commit contacts nothing and reads no
//!     credential.
//!
//! `tests/it/tidy.rs` checks which module may name which (the order below), and that the pure ones (`domain` to `status`)
//! name no runtime, file system, client or clock.

mod planted;

pub mod domain;

pub mod extent;

pub mod xml;

pub mod manifest;

pub mod observed;

pub mod desired;

pub mod journal;

pub mod policy;

pub mod decide;

pub mod preview;

pub mod status;

pub mod port;

pub mod collect;

pub mod copy;

pub mod execute;

pub mod adapter;

pub mod sim;

pub mod controller;

pub mod cli;
