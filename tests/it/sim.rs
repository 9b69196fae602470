//! `ferry sim vsphere` from outside: what it prints is where it is, and it ends when it is asked to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use openssl::hash::MessageDigest;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::Sandbox;

/// Asks for a path and returns the SHA-256 of the server's certificate and the answer.
fn get(address: &str, path: &str) -> (String, String) {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    // The fingerprint is compared instead.
    connector.set_verify(SslVerifyMode::NONE);
    let stream = TcpStream::connect(address).unwrap();
    let mut stream = connector.build().connect("localhost", stream).unwrap();
    let certificate = stream.ssl().peer_certificate().unwrap();
    let digest = certificate.digest(MessageDigest::sha256()).unwrap();
    let digest: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    // A server that closes without a farewell of TLS has said everything all the same.
    let _ = stream.read_to_string(&mut answer);
    (digest.join(":"), answer)
}

#[test]
fn a_simulated_vcenter_says_where_it_is_and_ends_when_it_is_asked() {
    let sandbox = Sandbox::new();
    let mut command =
        sandbox.command(["sim", "vsphere", "--listen", "127.0.0.1:0", "--output", "json"]);
    command.env("TMPDIR", sandbox.path("."));
    let mut server = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&started["username"], &started["password"]), (&"user".into(), &"pass".into()));

    let url = started["url"].as_str().unwrap();
    let address = url.strip_prefix("https://").and_then(|url| url.strip_suffix("/sdk")).unwrap();
    let (fingerprint, answer) = get(address, "/sdk/vimServiceVersions.xml");
    assert_eq!(fingerprint, started["sha256Fingerprint"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("<name>urn:vim25</name><version>8.0.2.0</version>"), "{answer}");
    assert!(get(address, "/elsewhere").1.starts_with("HTTP/1.1 404"));

    let list = fs::read_to_string(started["disks"].as_str().unwrap()).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["disks"][0]["path"], "[ds1] web01/web01.vmdk");
    assert_eq!(list["thumbprint"], started["thumbprint"]);

    let id = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let left = fs::read_dir(sandbox.path(".")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "home").collect();
    assert!(left.is_empty(), "{left:?} is left behind");
}

#[test]
fn a_scenario_that_is_wrong_is_told_with_its_place() {
    let sandbox = Sandbox::new();
    let run = |text: &str| {
        sandbox.write("lab.yaml", text);
        let arguments = ["sim", "vsphere", "--listen", "127.0.0.1:0", "--scenario", "lab.yaml"];
        sandbox.ferry(arguments).expect(1).stderr
    };
    let told = run("datacenters:\n  - name: DC1\n    vm: []\n");
    assert!(told.starts_with("error: lab.yaml:3:5: datacenters[0]: unknown field `vm`"), "{told}");
    let told = run("datacenters: [{ name: DC1, vms: [{ name: a }] }]\n");
    assert!(told.contains("the VM a has no host to run on"), "{told}");
    let told = run("faults: [{ method: Login, fault: Oops }]\n");
    assert!(told.contains("Oops is no fault that the server knows"), "{told}");
}
