//! Precedence and errors, in surroundings that are made up.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::adapter::git::wire::Access;

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
            repository.pollInterval = 60s  (default)
            repository.timeout = 60s  (default)
            repository.verify.mode = off  (default)
            allowPaths =   (default)
            limits.vmsInFlight = 20  (default)
            limits.copyMemory = 256MiB  (default)
            limits.checkpointEvery = 128MiB  (default)
            limits.manifestBytes = 1MiB  (default)
            limits.documentsPerFile = 1000  (default)
            cutover.requireWindow = true  (default)
            cutover.lateness = 15m  (default)
            cutover.rollbackReserve = 15m  (default)
            convert.path = virt-v2v-in-place  (default)
            convert.tmpDir = /var/tmp  (default)
            convert.virtioWin = /usr/share/virtio-win  (default)
            convert.parallel = 1  (default)
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
            repository.branch = flag  (flag --branch)
            repository.path = plans/  (ROOT/conf/ferry.yaml:6)
            status.branch = ferry/status  (default)
            status.author = A B <a@b>  (ROOT/conf/ferry.yaml:8)
            status.minInterval = 1h 30m  (ROOT/conf/ferry.yaml:8)
            instance = variable  (env FERRY_INSTANCE)
            stateDir = state  (ROOT/conf/ferry.yaml:10)
            repository.url = ../vms.git  (ROOT/conf/ferry.yaml:3)
            repository.pollInterval = 60s  (default)
            repository.timeout = 60s  (default)
            repository.verify.mode = off  (default)
            allowPaths = ova, /srv/vms  (ROOT/conf/ferry.yaml:11)
            limits.vmsInFlight = 5  (env FERRY_LIMITS_VMS_IN_FLIGHT)
            limits.copyMemory = 1GiB  (ROOT/conf/ferry.yaml:14)
            limits.checkpointEvery = 128MiB  (default)
            limits.manifestBytes = 1MiB  (default)
            limits.documentsPerFile = 1000  (default)
            cutover.requireWindow = true  (default)
            cutover.lateness = 15m  (default)
            cutover.rollbackReserve = 15m  (default)
            convert.path = virt-v2v-in-place  (default)
            convert.tmpDir = /var/tmp  (default)
            convert.virtioWin = /usr/share/virtio-win  (default)
            convert.parallel = 1  (default)
        "#]],
    );
    let settings = world.resolve(Some("conf/ferry.yaml"), &flags).unwrap();
    assert_eq!(settings.repository().unwrap(), &Place::Folder(world.path("vms.git")));
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
        let expected = Place::Folder(world.folder.path().join(expected));
        assert_eq!(settings.repository().unwrap(), &expected, "{url}");
    }
    let refused = |url: &str, expected: Expect| {
        let flags = Flags { repo: Some(url.into()), ..Flags::default() };
        world.check(None, &flags, expected);
    };
    refused(
        "ssh://git@git.example.org/vms.git",
        expect![[r#"
            settings: ssh://git@git.example.org/vms.git needs a key, and no credential is named … hint: add `repository: { credentials: git }` and `credentials: { git: { hosts: [git.example.org], sshKeyFile: /run/secrets/git, knownHostsFile: /etc/ferry/known_hosts } }`
        "#]],
    );
    refused(
        "git@git.example.org:vms.git",
        expect![[r#"
            flag --repo: `repository.url`: `git@git.example.org:vms.git` is the short form of SSH, which Ferry does not read … hint: write `ssh://git@git.example.org/vms.git`
        "#]],
    );
    refused(
        "file://host/a",
        expect![[r"
        flag --repo: `repository.url`: cannot read the URL `file://host/a` … hint: write `file:///FOLDER`, or the folder alone
    "]],
    );
}

#[test]
fn a_credential_goes_to_its_hosts_only_and_says_what_it_lacks() {
    let (https, ssh) = ("https://git.example.org:8443/vms", "ssh://git@git.example.org/vms");
    let cases = [
        (https, "git", "hosts: [example.org], tokenFile: t"),
        (https, "git", "hosts: ['git.example.org:443'], tokenFile: t"),
        (https, "git", "hosts: [git.example.org], passwordFile: p"),
        (https, "git", "hosts: [git.example.org], passwordFile: p, tokenFile: t"),
        (https, "git", "hosts: [git.example.org], token: canary"),
        (https, "other", "hosts: [git.example.org], tokenFile: t"),
        (ssh, "git", "hosts: [git.example.org]"),
        (ssh, "git", "hosts: [git.example.org], sshKeyFile: k"),
    ];
    let world = World::new();
    let write = |url: &str, name: &str, credential: &str| {
        let text = format!(
            "repository: {{ url: \"{url}\", credentials: {name} }}\ncredentials:\n  git: {{ {credential} }}\n"
        );
        world.write("ferry.yaml", &text);
        world.resolve(Some("ferry.yaml"), &Flags::default())
    };
    let told: String = cases
        .iter()
        .map(|(url, name, credential)| write(url, name, credential).unwrap_err().to_string() + "\n")
        .collect();
    let root = world.folder.path().display().to_string();
    expect![[r#"
        ROOT/ferry.yaml:3: the credential `git` is not bound to the host git.example.org, so it is not sent there … hint: add `git.example.org` to `credentials.git.hosts` if it may be
        ROOT/ferry.yaml:3: the credential `git` is not bound to the host git.example.org, so it is not sent there … hint: add `git.example.org` to `credentials.git.hosts` if it may be
        ROOT/ferry.yaml:3: the credential `git` has a password and no `username` … hint: add `username`, or let `tokenFile` name a token
        ROOT/ferry.yaml:3: the credential `git` has a `passwordFile` and a `tokenFile` … hint: leave one of them
        ROOT/ferry.yaml:3:36: credentials.git: unknown field `token`, expected one of `hosts`, `username`, `passwordFile`, `tokenFile`, `sshKeyFile`, `passphraseFile`, `knownHostsFile`, `caFile`, `providerTls`
        ROOT/ferry.yaml:1: there is no credential `other` … hint: add `credentials: { other: { hosts: [git.example.org], … } }`
        ROOT/ferry.yaml:3: the credential `git` has no `sshKeyFile` … hint: let `sshKeyFile` name a private key
        ROOT/ferry.yaml:3: the credential `git` has no `knownHostsFile`, without which nobody can tell who answers … hint: `ssh-keyscan git.example.org` prints lines for it; compare them with what the server's people say
    "#]].assert_eq(&told.replace(&root, "ROOT"));
    let settings = write(https, "git", "hosts: ['git.example.org:8443'], tokenFile: t").unwrap();
    let Place::Remote(remote) = settings.repository().unwrap() else { unreachable!() };
    let secret = world.path("t");
    assert_eq!(remote.access, Access::Login { username: "git".into(), secret });
}

#[test]
fn signed_commits_need_somebody_who_may_sign() {
    let world = World::new();
    world.write("ferry.yaml", "repository: { url: a, verify: { mode: signed } }\n");
    world.check(Some("ferry.yaml"), &Flags::default(), expect![[r#"
        ROOT/ferry.yaml: `repository.verify.mode` is `signed`, and nobody is named who may sign … hint: let `repository.verify.allowedSigners` name a file as ssh-keygen(1) describes it
    "#]]);
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
        expect![[r#"
            ROOT/conf/ferry.yaml:1:11: instance: invalid type: sequence, expected a text, a number or a truth value
        "#]],
    );
    check(
        "instance: a\ninstance: b\n",
        expect![[r"
        ROOT/conf/ferry.yaml:1:1: duplicate field `instance`
    "]],
    );
    check(
        "instance: {\n",
        expect![[r#"
            ROOT/conf/ferry.yaml:1:11: instance: invalid type: map, expected a text, a number or a truth value
        "#]],
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
fn a_libvirt_is_named_by_something_that_is_no_option() {
    let world = World::new();
    for (text, expected) in [
        ("", None),
        ("libvirt: {}", None),
        ("libvirt: { uri: 'qemu:///system' }", Some("qemu:///system")),
    ] {
        world.write("ferry.yaml", text);
        let settings = world.resolve(Some("ferry.yaml"), &Flags::default()).unwrap();
        assert_eq!(settings.libvirt_uri.as_deref(), expected, "{text}");
    }
    for (uri, hinted) in [("", "\"\""), ("--help", "\"--help\""), ("a b", "\"a b\"")] {
        world.write("ferry.yaml", &format!("libvirt: {{ uri: '{uri}' }}"));
        let error = world.resolve(Some("ferry.yaml"), &Flags::default()).unwrap_err();
        assert_eq!(error.text, format!("`libvirt.uri`: {hinted} is no URI of a libvirt"));
        assert!(error.hint.is_some() && error.place.ends_with("ferry.yaml:1"), "{error}");
    }
    for uri in ["qemu+ssh://root@kvm1/system", "qemu://kvm1/system", "qemu+tls:///system"] {
        world.write("ferry.yaml", &format!("libvirt: {{ uri: '{uri}' }}"));
        let error = world.resolve(Some("ferry.yaml"), &Flags::default()).unwrap_err();
        assert!(error.text.contains("of another machine"), "{error}");
    }
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
        "instance: a\nstatus:\n  branch: a\n  directory: /x\n",
        expect![[r#"
            ROOT/conf/ferry.yaml:4: FY9001: `status.directory` is not supported yet … hint: take it out; nothing that is written is ignored
        "#]],
    );
    let world = World::new();
    let sample = [
        "status: { directory: /x }",
        "hooks: { commands: {} }",
        "limits: { disksPerHost: 8 }",
        "limits: { hostInFlight: 32MiB }",
        "precopy: { interval: 60m }",
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

#[test]
fn the_converter_is_set() {
    let world = World::new();
    let read = |text: &str| {
        world.write("conf/ferry.yaml", text);
        let settings = world.resolve(Some("conf/ferry.yaml"), &Flags::default());
        settings.map(|settings| (settings.convert, settings.convert_parallel))
    };
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let (tools, parallel) = read("instance: a\n").unwrap();
    let log_dir = path("home/.local/state/ferry/conversions");
    let expected = ConvertTools {
        program: "virt-v2v-in-place".to_owned(),
        tmp_dir: "/var/tmp".to_owned(),
        virtio_win: "/usr/share/virtio-win".to_owned(),
        log_dir,
    };
    assert_eq!((tools, parallel), (expected, 1));
    let text = "stateDir: state\nconvert: { path: ./v2v, tmpDir: tmp, virtioWin: ../win.iso, parallel: 4 }\n";
    let expected = ConvertTools {
        program: path("conf/v2v"),
        tmp_dir: path("conf/tmp"),
        virtio_win: path("win.iso"),
        log_dir: path("conf/state/conversions"),
    };
    assert_eq!(read(text).unwrap(), (expected, 4));
    let named = read("convert: { path: v2v }\n").unwrap().0.program;
    assert_eq!(named, "v2v");

    let bad = [
        "convert: { path: '' }",
        "convert: { tmpDir: '' }",
        "convert: { virtioWin: '' }",
        "convert: { parallel: 0 }",
        "convert: { parallel: 101 }",
        "convert: { parallel: many }",
        "convert: { program: x }",
    ];
    let told: String = bad.iter().map(|text| read(text).unwrap_err().to_string() + "\n").collect();
    expect![[r#"
        ROOT/conf/ferry.yaml:1: `convert.path`: expected a path … hint: write `.` for the folder itself
        ROOT/conf/ferry.yaml:1: `convert.tmpDir`: expected a path … hint: write `.` for the folder itself
        ROOT/conf/ferry.yaml:1: `convert.virtioWin`: expected a path … hint: write `.` for the folder itself
        ROOT/conf/ferry.yaml:1: `convert.parallel`: expected a number from 1 to 100, got `0`
        ROOT/conf/ferry.yaml:1: `convert.parallel`: expected a number from 1 to 100, got `101`
        ROOT/conf/ferry.yaml:1: `convert.parallel`: expected a number from 1 to 100, got `many`
        ROOT/conf/ferry.yaml:1:12: convert: unknown field `program`, expected one of `path`, `tmpDir`, `virtioWin`, `parallel`
    "#]].assert_eq(&told.replace(world.folder.path().to_str().unwrap(), "ROOT"));
}
