//! `ferry sim`: servers that stand in for real ones, for demos and tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::adapter::clock::SystemClock;
use crate::cli::{Exit, answer};
use crate::sim::vsphere::{Scenario, Server};

/// Starts a simulated server, for demos and tests.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ferry sim vsphere   a vCenter with two small VMs

Exit codes: 0 it was interrupted, 1 it does not start, 64 wrong usage")]
pub(super) struct Arguments {
    #[command(subcommand)]
    server: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    Vsphere(Vsphere),
}

/// Simulates a vCenter, or an ESXi host: the API over HTTPS, datastore files, exports, changed block tracking.
///
/// Its inventory is a document of YAML; without one there are two small VMs. Their disks are raw sparse files in a folder,
/// where `disks.json` lists them. Prints the URL, the certificate's fingerprints and the login, and runs until it is
/// interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry sim vsphere
  ferry sim vsphere --scenario lab.yaml --listen 127.0.0.1:0 --output json

A scenario:
  sessions: { idle: 30m }
  faults: [{ method: PowerOffVM_Task, call: 1, lostReply: true }]
  datacenters:
    - name: DC1
      hosts: [{ name: esx1 }]
      datastores: [{ name: ds1, capacity: 1TiB, free: 400GiB }]
      networks: [{ name: VM Network }]
      vms:
        - name: web01
          power: on
          shutdown: 5s          # or ignores, refuses
          disks: [{ size: 1GiB, fill: { seed: 7, allocated: 40% } }]
          nics: [{ network: VM Network }]

Exit codes:
  0    it was interrupted
  1    it does not start
  64   wrong usage")]
struct Vsphere {
    /// Where it listens; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8989")]
    listen: SocketAddr,
    /// What it holds and how it behaves.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Where its disks are made; the list of them stays there [default: a folder for temporary files, removed at the end].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// A line for each value.
    Text,
    /// One object.
    Json,
}

/// What a client needs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Started<'a> {
    url: String,
    sha256_fingerprint: &'a str,
    /// SHA-1, as VMware's products pin certificates.
    thumbprint: &'a str,
    username: &'a str,
    password: &'a str,
    /// The list of the disks and their files.
    disks: PathBuf,
}

/// Starts the server and waits for the end.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Kind::Vsphere(arguments) = arguments.server;
    let Vsphere { listen, scenario, dir, output } = arguments;
    let scenario = scenario.map_or_else(|| Ok(Scenario::demo()), |file| Scenario::read(&file))?;
    let passing = std::env::temp_dir().join(format!("ferry-sim-{}", std::process::id()));
    let folder = dir.as_ref().unwrap_or(&passing);
    let interrupt = Interrupt::watch().context("cannot watch for signals")?;
    let server = Server::start(&scenario, listen, folder, Arc::new(SystemClock::start()))?;
    let (username, password) = server.login();
    let started = Started {
        url: server.url(),
        sha256_fingerprint: server.sha256_fingerprint(),
        thumbprint: server.thumbprint(),
        username,
        password,
        disks: server.disks(),
    };
    answer(&match output {
        Output::Json => serde_json::to_string(&started)? + "\n",
        Output::Text => format!(
            "url          {}\nfingerprint  {} (SHA-256)\nthumbprint   {} (SHA-1)\nuser         {username}\n\
             password     {password}\ndisks        {}\n",
            started.url,
            started.sha256_fingerprint,
            started.thumbprint,
            started.disks.display(),
        ),
    });
    interrupt.wait();
    drop(server);
    if dir.is_none() {
        std::fs::remove_dir_all(&passing)
            .with_context(|| format!("cannot remove {}", passing.display()))?;
    }
    Ok(Exit::Done)
}

/// Hears when the process is asked to end.
struct Interrupt {
    runtime: Runtime,
    signals: [Signal; 2],
}

impl Interrupt {
    fn watch() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        drop(inside);
        Ok(Self { runtime, signals })
    }

    fn wait(self) {
        let Self { runtime, signals: [mut interrupt, mut terminate] } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
    }
}
