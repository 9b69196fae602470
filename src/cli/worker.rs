//! `ferry worker`: the data plane's process. Only a controller starts it.

use std::path::PathBuf;
use std::thread;

use crate::adapter::confine::Confine;
use crate::adapter::convert::VirtV2v;
use crate::adapter::image::LocalImages;
use crate::adapter::vsphere::ServerImages;
use crate::cli::Exit;
use crate::cli::settings::program_folders;
use crate::copy::protocol::{ConvertJob, CopyJob};
use crate::copy::worker::{Opened, Terms, serve};
use crate::port::Images;

/// Copies the disks of one VM, or converts its guest, for a controller; nobody else needs it.
///
/// The protocol is on standard input and output. A message is one frame: a length (u32,
/// little-endian, at most 16 MiB) and that many bytes of JSON.
///
/// The controller says first
///   {"start": {"protocol": 3, "job": {"copy": {…}}}}    or {"convert": {…}}
/// and then, at any time
///   {"acknowledge": {"number": N}}        everything up to N is journaled
///   "resend"                              say again what is not acknowledged
///   "stop"                                make a checkpoint and end
///
/// The worker says
///   {"said": {"number": N, "news": …}}    kept until acknowledged; N counts from 1
///   {"progress": {…}}                     ten times a second at most; may be lost
///   {"doing": {"text": "…"}}              the converter's words; may be lost
/// News are `checkpointed`, `copied`, `verified`, `converted`, `committed`, and as the last one
/// `failed` or "ended".
///
/// It ends after its last message was acknowledged, and at once when its standard input closes.
/// Its log is on standard error.
///
/// Exit codes: 0 it ended as told, 1 the pipes made no sense.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {}

/// Serves one job.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments {} = arguments;
    let images = |job: &CopyJob| -> Box<dyn Images> {
        let local = LocalImages::new(Confine::new(job.allow_paths.iter().map(PathBuf::from)));
        match &job.access {
            Some(access) => Box::new(ServerImages::new(local, access.clone())),
            None => Box::new(local),
        }
    };
    let converter =
        |job: &ConvertJob| -> Opened { Ok(Box::new(VirtV2v::open(job, program_folders())?)) };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let terms = Terms { images: &images, converter: &converter, threads, gone: &end_at_once };
    serve(&mut std::io::stdin(), &mut std::io::stdout(), &terms)?;
    Ok(Exit::Done)
}

/// A worker whose controller is gone must not touch its target any more, whatever it waits for. Nothing of it runs on: the library
/// of VMware would meet its own threads while it is taken down.
fn end_at_once() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}
