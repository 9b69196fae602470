//! The simulated vCenter by pyvmomi, VMware's own client: it checks each answer against VMware's tables of types.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ferry::adapter::clock::SystemClock;
use ferry::sim::vsphere::{Scenario, Server, method_names};

/// Where `tests/run` puts Python with pyvmomi.
fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = target.join("peers/python/bin/python");
    assert!(python.exists(), "{} is missing: `tests/run` installs it", python.display());
    python
}

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}

/// Does what the script asks for, and answers it.
fn deed(server: &Server, words: &[&str]) -> String {
    let said = |result: Result<(), ferry::sim::vsphere::HandError>| result.map(|()| String::new());
    let result = match words {
        ["on", vm] => said(server.power_on(vm)),
        ["off", vm] => said(server.power_off(vm)),
        ["rename", vm, to] => said(server.rename(vm, to)),
        ["relocate", vm, host] => said(server.relocate(vm, host)),
        ["remove", vm] => said(server.remove(vm)),
        ["crash", vm] => said(server.crash(vm)),
        ["answer", vm] => said(server.answer_question(vm)),
        ["write", vm, key, at, bytes] => {
            let bytes = hex::decode(bytes).unwrap();
            said(server.write(vm, key.parse().unwrap(), at.parse().unwrap(), &bytes))
        }
        ["file", vm, key] => {
            server.disk_file(vm, key.parse().unwrap()).map(|file| file.display().to_string())
        }
        ["disks"] => Ok(server.disks().display().to_string()),
        ["advance", seconds] => {
            server.advance(Duration::from_secs(seconds.parse().unwrap()));
            Ok(String::new())
        }
        ["arm", fault @ ..] => {
            server.arm(&fault.join(" ")).unwrap();
            Ok(String::new())
        }
        ["disarm"] => {
            server.disarm();
            Ok(String::new())
        }
        other => return format!("error nobody knows how to do {other:?}"),
    };
    result.map_or_else(|error| format!("error {error}"), |answer| format!("ok {answer}"))
}

#[test]
fn vmwares_own_client_takes_it_for_a_vcenter() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = Scenario::read(&beside("pyvmomi.yaml")).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let clock = Arc::new(SystemClock::start());
    let server = Server::start(&scenario, listen, folder.path(), clock).unwrap();
    let (user, password) = server.login();
    let mut script = Command::new(python())
        .arg(beside("pyvmomi.py"))
        .args([&server.address().port().to_string(), user, password, server.thumbprint()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = script.stdin.take().unwrap();
    let (mut driven, mut part) = (BTreeSet::new(), String::new());
    for line in BufReader::new(script.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        match words.next() {
            Some("do") => {
                let words: Vec<&str> = words.collect();
                writeln!(answers, "{}", deed(&server, &words)).unwrap();
            }
            Some("driven") => driven.extend(words.map(str::to_owned)),
            Some("part") => part = line.clone(),
            _ => panic!("{line}"),
        }
    }
    let output = script.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{part}:\n{told}");
    let missed: Vec<&str> = method_names().filter(|name| !driven.contains(*name)).collect();
    assert!(missed.is_empty(), "the script calls no {missed:?}");
}
