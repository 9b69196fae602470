//! Precedence and errors, in surroundings that are made up.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;

struct World {
    folder: tempfile::TempDir,
    variables: BTreeMap<&'static str, String>,
    root: bool,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home").to_str().unwrap().to_owned();
        Self { folder, variables: BTreeMap::from([("HOME", home)]), root: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn resolve(&self, config: Option<&str>, flags: &Flags) -> Result<Settings, SettingsError> {
        let surroundings = Surroundings {
            variable: &|name| self.variables.get(name).map(OsString::from),
            machine_file: &self.path("etc/ferry.yaml"),
            current: self.folder.path(),
            root: self.root,
        };
        Settings::resolve_in(&surroundings, config.map(Path::new), flags)
    }

    /// Shows each setting with its origin, or the error.
    fn check(&self, config: Option<&str>, flags: &Flags, expected: Expect) {
        let shown = match self.resolve(config, flags) {
            Ok(settings) => settings.origins.iter().fold(
                String::new(),
                |shown, Shown { key, value, origin }| {
                    shown + &format!("{key} = {value}  ({origin})\n")
                },
            ),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&shown.replace(self.folder.path().to_str().unwrap(), "ROOT"));
    }
}

/// Checks one file.
fn check(text: &str, expected: Expect) {
    let world = World::new();
    world.write("conf/ferry.yaml", text);
    world.check(Some("conf/ferry.yaml"), &Flags::default(), expected);
}

#[test]
fn nothing_set_leaves_the_defaults() {
    World::new().check(
        None,
        &Flags::default(),
        expect![[r#"
            repository.branch = main  (default)
            repository.path =   (default)
            status.branch = ferry/status  (default)
            status.author = Ferry <ferry@localhost>  (default)
            status.minInterval = 60s  (default)
            instance = ferry  (default)
            stateDir = ROOT/home/.local/state/ferry  (default)
            allowPaths =   (default)
            limits.vmsInFlight = 20  (default)
            limits.copyMemory = 256MiB  (default)
            limits.checkpointEvery = 128MiB  (default)
            limits.manifestBytes = 1MiB  (default)
            limits.documentsPerFile = 1000  (default)
        "#]],
    );
    let mut world = World::new();
    world.root = true;
    let settings = world.resolve(None, &Flags::default()).unwrap();
    assert_eq!(settings.state_dir, Path::new("/var/lib/ferry"));
    world.root = false;
    world.variables.insert("XDG_STATE_HOME", "/x/state".into());
    let settings = world.resolve(None, &Flags::default()).unwrap();
    assert_eq!(settings.state_dir, Path::new("/x/state/ferry"));
    world.variables.clear();
    world.check(None, &Flags::default(), expect![[r"
        settings: there is no place for the journal: neither XDG_STATE_HOME nor HOME is set … hint: give `--state-dir DIR`, or `stateDir` in ferry.yaml
    "]]);
}

#[test]
fn flags_beat_the_environment_and_that_the_file() {
    let mut world = World::new();
    world.write(
        "conf/ferry.yaml",
        "# ours\nrepository: # here\n  url: ../vms.git\n  branch: # this one\n    file\n  path: plans/\n\nstatus: { author: 'A B <a@b>', minInterval: 1h 30m }\n\
         instance: file\nstateDir: state\nallowPaths: [ova, /srv/vms]\nlimits:\n  vmsInFlight: 3\n  copyMemory: 1GiB\n",
    );
    world.variables.insert("FERRY_REPOSITORY_BRANCH", "variable".into());
    world.variables.insert("FERRY_INSTANCE", "variable".into());
    world.variables.insert("FERRY_LIMITS_VMS_IN_FLIGHT", "5".into());
    let flags = Flags { branch: Some("flag".into()), ..Flags::default() };
    world.check(
        Some("conf/ferry.yaml"),
        &flags,
        expect![[r#"
            repository.url = ../vms.git  (ROOT/conf/ferry.yaml:3)
            repository.branch = flag  (flag --branch)
            repository.path = plans/  (ROOT/conf/ferry.yaml:6)
            status.branch = ferry/status  (default)
            status.author = A B <a@b>  (ROOT/conf/ferry.yaml:8)
            status.minInterval = 1h 30m  (ROOT/conf/ferry.yaml:8)
            instance = variable  (env FERRY_INSTANCE)
            stateDir = state  (ROOT/conf/ferry.yaml:10)
            allowPaths = ova, /srv/vms  (ROOT/conf/ferry.yaml:11)
            limits.vmsInFlight = 5  (env FERRY_LIMITS_VMS_IN_FLIGHT)
            limits.copyMemory = 1GiB  (ROOT/conf/ferry.yaml:14)
            limits.checkpointEvery = 128MiB  (default)
            limits.manifestBytes = 1MiB  (default)
            limits.documentsPerFile = 1000  (default)
        "#]],
    );
    let settings = world.resolve(Some("conf/ferry.yaml"), &flags).unwrap();
    assert_eq!(settings.repository().unwrap(), world.path("vms.git"));
    assert_eq!(settings.state_dir, world.path("conf/state"));
    assert_eq!(settings.allow_paths, [world.path("conf/ova"), PathBuf::from("/srv/vms")]);
    assert_eq!(settings.below, "plans");
    assert_eq!(settings.status_min_interval, SignedDuration::from_mins(90));
    assert_eq!(settings.copy_memory, Bytes::mib(1024));
    world.variables.insert("FERRY_ALLOW_PATHS", "a:/b".into());
    let settings = world.resolve(Some("conf/ferry.yaml"), &flags).unwrap();
    assert_eq!(settings.allow_paths, [world.path("a"), PathBuf::from("/b")]);
}

#[test]
fn the_machines_file_comes_before_the_persons() {
    let world = World::new();
    world.write("home/.config/ferry/ferry.yaml", "instance: person\n");
    let instance = |world: &World| world.resolve(None, &Flags::default()).unwrap().instance;
    assert_eq!(instance(&world).as_str(), "person");
    world.write("etc/ferry.yaml", "# nothing set\n");
    assert_eq!(instance(&world).as_str(), "ferry");
    world.write("etc/ferry.yaml", "instance: machine\n");
    assert_eq!(instance(&world).as_str(), "machine");
    world.check(
        Some("missing.yaml"),
        &Flags::default(),
        expect![[r"
        ROOT/missing.yaml: cannot read the settings: No such file or directory (os error 2)
    "]],
    );
}

#[test]
fn a_repository_must_be_named_and_here() {
    let world = World::new();
    let error =
        world.resolve(None, &Flags::default()).unwrap().repository().unwrap_err().to_string();
    expect!["settings: no repository of plans is named … hint: give `--repo DIR`, or `repository: { url: DIR }` in ferry.yaml; `ferry init DIR` makes both"].assert_eq(&error);
    for (url, expected) in
        [("file:///srv/a", "/srv/a"), ("/srv/a/../b", "/srv/b"), ("./a:b", "a:b")]
    {
        let flags = Flags { repo: Some(url.into()), ..Flags::default() };
        let settings = world.resolve(None, &flags).unwrap();
        assert_eq!(settings.repository().unwrap(), world.folder.path().join(expected), "{url}");
    }
    let refused = |url: &str, expected: Expect| {
        let flags = Flags { repo: Some(url.into()), ..Flags::default() };
        world.check(None, &flags, expected);
    };
    refused(
        "ssh://git@git.example.org/vms.git",
        expect![[r"
        flag --repo: `repository.url`: the repository `ssh://git@git.example.org/vms.git` is not on this machine, and remote ones are not supported yet … hint: name a folder on this machine: a clone, or a bare repository that people push to
    "]],
    );
    refused(
        "git@git.example.org:vms.git",
        expect![[r"
        flag --repo: `repository.url`: the repository `git@git.example.org:vms.git` is not on this machine, and remote ones are not supported yet … hint: name a folder on this machine: a clone, or a bare repository that people push to
    "]],
    );
    refused(
        "file://host/a",
        expect![[r"
        flag --repo: `repository.url`: cannot read the URL `file://host/a` … hint: write `file:///FOLDER`, or the folder alone
    "]],
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    check(
        "repository:\n  url: /a\n  brunch: main\n",
        expect![[r"
        ROOT/conf/ferry.yaml:3:3: repository: unknown field `brunch`, expected one of `url`, `branch`, `path`, `pollInterval`, `timeout`, `credentials`, `verify`
    "]],
    );
    check(
        "instance: [a]\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1:11: instance: invalid type: sequence, expected a text or a number
    "]],
    );
    check(
        "instance: a\ninstance: b\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1:1: duplicate field `instance`
    "]],
    );
    check(
        "instance: {\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1:11: instance: invalid type: map, expected a text or a number
    "]],
    );
    check(
        "\ninstance: Prod\n",
        expect![[r"
        ROOT/conf/ferry.yaml:2: `instance`: `Prod` cannot name an instance … hint: use lower-case letters, digits and `-`, at most 63, with a letter or digit at both ends
    "]],
    );
    check(
        "limits: { vmsInFlight: 0 }\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1: `limits.vmsInFlight`: expected a number from 1 to 1000, got `0`
    "]],
    );
    check(
        "limits:\n  copyMemory: 256MB\n",
        expect![[r"
        ROOT/conf/ferry.yaml:2: `limits.copyMemory`: `256MB` is no size … hint: write it as `256MiB` or `1GiB`
    "]],
    );
    check(
        "limits:\n  copyMemory: 1MiB\n",
        expect![[r"
        ROOT/conf/ferry.yaml:2: `limits.copyMemory`: expected 16.0 MiB to 1.0 TiB, got 1.0 MiB
    "]],
    );
}

#[test]
fn mistakes_in_texts_are_named_with_their_line_too() {
    check(
        "status:\n  author: Ferry\n",
        expect![[r"
        ROOT/conf/ferry.yaml:2: `status.author`: `Ferry` names no author … hint: write it as `Ferry <ferry@example.org>`
    "]],
    );
    check(
        "status:\n  minInterval: soon\n",
        expect![[r"
        ROOT/conf/ferry.yaml:2: `status.minInterval`: `soon` is no duration of a second or more … hint: write it as `60s`, `15m` or `1h 30m`
    "]],
    );
    check(
        "repository: { path: ../x }\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1: `repository.path`: `../x` is no folder within the repository … hint: write it as seen from the repository's root, such as `plans`
    "]],
    );
    check(
        "---\ninstance: a\n---\ninstance: b\n",
        expect![[r"
        ROOT/conf/ferry.yaml: deserializing from YAML containing more than one document is not supported
    "]],
    );
}

#[test]
fn every_known_setting_that_is_not_honoured_refuses_to_start() {
    check(
        "instance: a\nrepository:\n  url: /a\n  verify: { mode: off }\n",
        expect![[r"
        ROOT/conf/ferry.yaml:4: FY9001: `repository.verify` is not supported yet … hint: take it out; nothing that is written is ignored
    "]],
    );
    let world = World::new();
    let sample = [
        "repository: { pollInterval: 60s }",
        "repository: { timeout: 60s }",
        "repository: { credentials: git }",
        "repository: { verify: { mode: signed } }",
        "status: { directory: /x }",
        "credentials: { git: { hosts: [a] } }",
        "hooks: { commands: {} }",
        "limits: { disksPerHost: 8 }",
        "limits: { hostInFlight: 32MiB }",
        "cutover: { requireWindow: true }",
        "precopy: { interval: 60m }",
        "libvirt: { uri: qemu:///system }",
        "convert: { parallel: 1 }",
        "vddk: { libDir: /x }",
        "listen: 127.0.0.1:8080",
    ];
    for text in sample {
        world.write("ferry.yaml", text);
        let error = world.resolve(Some("ferry.yaml"), &Flags::default()).unwrap_err();
        assert!(
            error.text.starts_with("FY9001: `") && error.text.ends_with("` is not supported yet"),
            "{error}"
        );
        assert!(error.place.ends_with("ferry.yaml:1"), "{error}");
    }
}
