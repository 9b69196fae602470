//! Repositories of plans on other machines: git's own server behind nginx with TLS, and OpenSSH's daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use base64ct::{Base64, Encoding as _};

use crate::course::both_stand;
use crate::kill::until;
use crate::peers;
use crate::shop::Shop;

const PASSWORD: &str = "pw-CANARY-pw";
/// A time that no test sees.
const LATE: &str = "20490101000000Z";

/// A server of the estate's repository of plans, which ends with the test.
struct Server {
    shop: Shop,
    daemons: Vec<Child>,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn new() -> Self {
        let shop = Shop::pair();
        fs::create_dir_all(shop.sandbox.path("srv")).unwrap();
        Self { shop, daemons: Vec::new(), port: free_port() }
    }

    fn path(&self, name: &str) -> String {
        self.shop.sandbox.path(name).display().to_string()
    }

    /// Makes a certificate that holds until a time, and returns the files of its key and of it.
    fn certify(&self, until: &str) -> (String, String) {
        let at = |name: &str| self.path(&format!("srv/{name}"));
        let folder = at("");
        self.shop.sandbox.write(
            "srv/ca.conf",
            format!(
                "[req]\ndistinguished_name = name\n[name]\n[ca]\ndefault_ca = own\n[own]\n\
                 database = {folder}index\nnew_certs_dir = {folder}\nrand_serial = yes\n\
                 default_md = sha256\npolicy = any\nx509_extensions = more\n\
                 [any]\ncommonName = supplied\n[more]\nsubjectAltName = DNS:localhost\n"
            ),
        );
        self.shop.sandbox.write("srv/index", "");
        let (config, key, request, made) =
            (at("ca.conf"), at("key.pem"), at("csr.pem"), at("cert.pem"));
        #[rustfmt::skip]
        peers::run("openssl", [
            "req", "-config", &config, "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=localhost", "-keyout", &key, "-out", &request,
        ]);
        #[rustfmt::skip]
        peers::run("openssl", [
            "ca", "-config", &config, "-batch", "-selfsign", "-notext", "-keyfile", &key, "-in", &request,
            "-startdate", "20250101000000Z", "-enddate", until, "-out", &made,
        ]);
        (key, made)
    }

    /// Starts nginx with a certificate that holds until a time.
    fn https(until: &str) -> Self {
        let mut server = Self::new();
        let shop = &server.shop;
        let root = server.path("srv");
        let (plans, port) = (server.path("plans"), server.port);
        peers::run("git", ["-C", plans.as_str(), "config", "http.receivepack", "true"]);
        let (key, certificate) = server.certify(until);
        let hash = peers::run("openssl", ["passwd", "-apr1", PASSWORD]);
        shop.sandbox.write("srv/htpasswd", format!("ferry:{hash}"));
        shop.sandbox.write("secret", format!("{PASSWORD}\n"));
        let folder = server.path("").trim_end_matches('/').to_owned();
        shop.sandbox.write(
            "srv/nginx.conf",
            format!(
                "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\nevents {{}}\nhttp {{\n\
                 access_log {root}/access.log; client_max_body_size 0;\n\
                 client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;\n\
                 uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;\nserver {{\n\
                 listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
                 auth_basic git; auth_basic_user_file {root}/htpasswd;\nlocation / {{\n\
                 include /etc/nginx/fastcgi_params;\n\
                 fastcgi_param SCRIPT_FILENAME {root}/backend;\nfastcgi_param GIT_PROJECT_ROOT {folder};\n\
                 fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param PATH_INFO $uri;\n\
                 fastcgi_param REMOTE_USER $remote_user; fastcgi_pass unix:{root}/socket;\n}} }} }}\n",
            ),
        );
        server.backend("");
        let (socket, settings) = (format!("unix:{root}/socket"), format!("{root}/nginx.conf"));
        server.daemons.push(peers::start("fcgiwrap", ["-c", "4", "-s", socket.as_str()]));
        server.daemons.push(peers::start("nginx", ["-c", settings.as_str()]));
        server.answers();
        let url = format!("https://localhost:{port}/plans/.git");
        server.settings(&url, "username: ferry, passwordFile: secret, caFile: srv/cert.pem");
        server
    }

    /// Starts OpenSSH's daemon.
    fn ssh() -> Self {
        let mut server = Self::new();
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["srv/host", "srv/id", "srv/other"] {
            let path = server.path(key);
            peers::run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", path.as_str()]);
        }
        let (root, port) = (server.path("srv"), server.port);
        let known = fs::read_to_string(format!("{root}/host.pub")).unwrap();
        let other = fs::read_to_string(format!("{root}/other.pub")).unwrap();
        fs::write(format!("{root}/known"), format!("[localhost]:{port} {known}")).unwrap();
        fs::write(format!("{root}/strange"), format!("[localhost]:{port} {other}")).unwrap();
        fs::copy(format!("{root}/id.pub"), format!("{root}/authorized")).unwrap();
        fs::write(
            format!("{root}/sshd_config"),
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {root}/host\nPidFile {root}/pid\n\
                 AuthorizedKeysFile {root}/authorized\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
            ),
        )
        .unwrap();
        let (settings, log) = (format!("{root}/sshd_config"), format!("{root}/log"));
        let sshd = ["-D", "-f", settings.as_str(), "-E", log.as_str()];
        server.daemons.push(peers::start("/usr/sbin/sshd", sshd));
        server.answers();
        server.settings(&server.ssh_url(), "sshKeyFile: srv/id, knownHostsFile: srv/known");
        server
    }

    fn ssh_url(&self) -> String {
        let user = peers::run("id", ["-un"]);
        format!("ssh://{}@localhost:{}{}", user.trim(), self.port, self.path("plans"))
    }

    fn answers(&self) {
        until(30, "the server answers", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Writes settings that reach the repository with a credential.
    fn settings(&self, url: &str, credential: &str) {
        let root = self.path("").trim_end_matches('/').to_owned();
        self.shop.sandbox.write(
            "ferry.yaml",
            format!(
                "repository: {{ url: \"{url}\", credentials: git, timeout: 20s, pollInterval: 2s }}\n\
                 credentials: {{ git: {{ hosts: [localhost], {credential} }} }}\n\
                 stateDir: {root}/state\ninstance: test\nallowPaths: [{root}/ova, {root}/vms]\n\
                 limits: {{ checkpointEvery: 8MiB }}\n"
            ),
        );
    }

    /// Installs a hook of the server.
    fn hook(&self, name: &str, body: &str) {
        self.script(&format!("plans/.git/hooks/{name}"), body);
    }

    /// Lets the server do something before it answers a request.
    fn backend(&self, first: &str) {
        let programs = peers::run("git", ["--exec-path"]);
        self.script("srv/backend", &format!("{first}\nexec {}/git-http-backend", programs.trim()));
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.shop.sandbox.write(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts nginx once more.
    fn revive(&mut self) {
        let settings = self.path("srv/nginx.conf");
        self.daemons.push(peers::start("nginx", ["-c", settings.as_str()]));
        self.answers();
    }

    /// Lets one look or push take three seconds at most.
    fn be_impatient(&self) {
        let text = fs::read_to_string(self.path("ferry.yaml")).unwrap();
        self.shop.sandbox.write("ferry.yaml", text.replace("timeout: 20s", "timeout: 3s"));
    }

    fn requests(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("srv/access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Checks a server from the plan to the report, and that nothing is done twice.
fn moves(server: &Server) {
    let shop = &server.shop;
    shop.ferry(&["diff"]).expect(2);
    let ran = shop.ferry(&["run", "--once"]).expect(0);
    assert!(!format!("{ran:?}").contains("CANARY"));
    both_stand(shop);
    let report = shop.plans.files("ferry/status");
    assert!(report.keys().any(|path| path.contains("test/plans/shop")), "{:?}", report.keys());
    let tip = shop.plans.tip("ferry/status");
    shop.ferry(&["run", "--once"]).expect(0);
    assert_eq!(shop.plans.tip("ferry/status"), tip, "nothing changed, so nothing is written");
    shop.ferry(&["doctor"]).expect(0);
}

#[test]
fn plans_over_https_end_in_a_report_there() {
    let server = Server::https(LATE);
    moves(&server);
    let before = server.requests().len();
    server.shop.ferry(&["diff"]).expect(0);
    let requests = server.requests().split_off(before);
    // The first is the same without a login.
    assert!(
        requests.len() <= 2 && requests.iter().all(|line| line.contains("info/refs")),
        "{requests:?}"
    );
}

#[test]
fn plans_over_ssh_end_in_a_report_there() {
    moves(&Server::ssh());
}

#[test]
fn a_wrong_password_is_tried_once_and_told_nowhere() {
    let server = Server::https(LATE);
    server.shop.sandbox.write("secret", "wrong-CANARY\n");
    let ran = server.shop.ferry(&["run", "--once"]).expect(1);
    assert!(ran.stderr.contains("refused the login of `ferry`"), "{}", ran.stderr);
    assert!(!format!("{ran:?}").contains("CANARY"), "{}", ran.stderr);
    let logins = server.requests().iter().filter(|line| line.contains(" ferry [")).count();
    assert_eq!(logins, 1, "{:?}", server.requests());
    assert_eq!(server.shop.target().len(), 0);
}

/// Safety rule 25: a secret that works is written nowhere, whatever is logged.
#[test]
fn a_password_that_opens_everything_stands_nowhere() {
    let server = Server::https(LATE);
    let logged = ["--log", "trace"];
    let mut told = String::new();
    for command in [&["run", "--once"][..], &["diff"], &["status", "--why"], &["doctor"]] {
        let ran = server.shop.ferry(&[&logged, command].concat());
        told.push_str(&format!("{ran:?}"));
    }
    both_stand(&server.shop);
    let basic = Base64::encode_string(format!("ferry:{PASSWORD}").as_bytes());
    let secrets = [PASSWORD, basic.as_str()];
    assert!(secrets.iter().all(|secret| !told.contains(secret)), "{told}");
    let mut open = vec![server.shop.sandbox.path("state"), server.shop.sandbox.path("plans")];
    let mut read = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        read += 1;
        let bytes = fs::read(&path).unwrap();
        let holds =
            |secret: &&str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!secrets.iter().any(holds), "{} holds the password", path.display());
    }
    assert!(read > 5, "{read} files are few");
    let report = peers::run("git", ["-C", &server.path("plans"), "log", "-p", "ferry/status"]);
    assert!(report.contains("VirtualMachineImport") && !report.contains(PASSWORD), "{report}");
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let wrong = "username: ferry, passwordFile: secret";
    let server = Server::https(LATE);
    server.settings(&format!("https://localhost:{}/plans/.git", server.port), wrong);
    let unknown = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(unknown.contains("certificate"), "{unknown}");
    assert_eq!(server.requests(), Vec::<String>::new());
    let expired = Server::https("20250201000000Z");
    let told = expired.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("expired"), "{told}");
    assert_eq!(expired.requests(), Vec::<String>::new());

    let server = Server::ssh();
    server.settings(&server.ssh_url(), "sshKeyFile: srv/id, knownHostsFile: srv/strange");
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("is not one that"), "{told}");
    server.settings(&server.ssh_url(), "sshKeyFile: srv/other, knownHostsFile: srv/known");
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("refused"), "{told}");
}

#[test]
fn what_a_hook_refuses_is_told_and_the_vms_move_all_the_same() {
    let server = Server::https(LATE);
    server.hook("pre-receive", "echo 'branch is protected by policy 7' >&2; exit 1");
    let ran = server.shop.ferry(&["run", "--once"]);
    assert!(ran.stderr.contains("branch is protected by policy 7"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(server.shop.plans.tip("ferry/status"), None);
    fs::remove_file(server.path("plans/.git/hooks/pre-receive")).unwrap();
    server.shop.ferry(&["run", "--once"]).expect(0);
    assert!(server.shop.plans.tip("ferry/status").is_some());
    both_stand(&server.shop);
}

#[test]
fn a_report_whose_answer_is_lost_is_written_once() {
    let server = Server::https(LATE);
    server.be_impatient();
    // The branch is moved; then the server says nothing for longer than anyone waits.
    let once = server.path("srv/once");
    server.hook("post-receive", &format!("[ -e {once} ] || {{ touch {once}; sleep 8; }}"));
    let ran = server.shop.ferry(&["run", "--once"]).expect(1);
    assert!(ran.stderr.contains("did not come to an end within 3 s"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("the report was not committed").count(), 1, "{}", ran.stderr);
    server.shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&server.shop);
    let plans = server.path("plans");
    let log = ["-C", plans.as_str(), "log", "--format=%T", "ferry/status"];
    let mut trees: Vec<_> = peers::run("git", log).lines().map(str::to_owned).collect();
    let all = trees.len();
    trees.dedup();
    assert_eq!(trees.len(), all, "no report was committed twice");
}

#[test]
fn a_commit_that_nobody_known_signed_is_held() {
    let server = Server::ssh();
    let (settings, plans) = (server.path("ferry.yaml"), server.path("plans"));
    let text = fs::read_to_string(&settings).unwrap();
    let signed = "verify: { mode: signed, allowedSigners: srv/signers }, timeout";
    fs::write(settings, text.replace("timeout", signed)).unwrap();
    let key = fs::read_to_string(server.path("srv/other.pub")).unwrap();
    server.shop.sandbox.write("srv/signers", format!("ada@example.org {key}"));
    let ran = server.shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains("is not signed"), "{}", ran.stderr);
    assert_eq!(server.shop.target().len(), 0);
    let signer =
        |name: &str| format!("user.signingkey={}", server.path(&format!("srv/{name}.pub")));
    for (name, code) in [("id", 3), ("other", 0)] {
        let signer = signer(name);
        #[rustfmt::skip]
        peers::run("git", [
            "-C", &plans, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "gpg.format=ssh", "-c", &signer,
            "commit", "-q", "-S", "--allow-empty", "-m", name,
        ]);
        server.shop.ferry(&["run", "--once"]).expect(code);
    }
    both_stand(&server.shop);
}

#[test]
fn a_report_that_somebody_was_faster_than_is_made_again_on_theirs() {
    let server = Server::https(LATE);
    let plans = server.path("plans");
    let theirs = peers::run(
        "git",
        [
            "-C",
            &plans,
            "-c",
            "user.name=B",
            "-c",
            "user.email=b@example.org",
            "commit-tree",
            "-m",
            "theirs",
            "main^{tree}",
        ],
    );
    // Another writer moves the branch between our look at it and the server's own update.
    let once = server.path("srv/once");
    server.hook(
        "pre-receive",
        &format!(
            "[ -e {once} ] && exit 0; touch {once}\n\
             env -u GIT_QUARANTINE_PATH git update-ref refs/heads/ferry/status {}",
            theirs.trim()
        ),
    );
    server.shop.ferry(&["run", "--once"]).expect(0);
    assert!(fs::exists(once).unwrap());
    let log = peers::run("git", ["-C", &plans, "log", "--format=%H", "ferry/status"]);
    assert_eq!(log.lines().last(), Some(theirs.trim()), "nothing of theirs was pushed away");
    assert!(server.shop.plans.files("ferry/status").keys().any(|path| path.starts_with("test/")));
    both_stand(&server.shop);
}

#[test]
fn a_server_that_dies_under_a_push_is_pushed_to_again() {
    let mut server = Server::https(LATE);
    let (pid, once) = (server.path("srv/pid"), server.path("srv/once"));
    server.hook(
        "pre-receive",
        &format!("[ -e {once} ] || {{ touch {once}; kill -9 $(cat {pid}); }}"),
    );
    server.shop.ferry(&["run", "--once"]).expect(1);
    server.shop.ferry(&["run", "--once"]).expect(1);
    server.revive();
    server.shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&server.shop);
    assert!(server.shop.plans.tip("ferry/status").is_some());
}

#[test]
fn a_server_that_dies_under_a_fetch_is_asked_again() {
    let mut server = Server::https(LATE);
    server.backend(&format!(
        "[ $REQUEST_METHOD = GET ] || kill -9 $(cat {})",
        server.path("srv/pid")
    ));
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("the repository is not read: https://localhost"), "{told}");
    server.backend("");
    server.revive();
    server.shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&server.shop);
}

#[test]
fn a_server_that_is_slow_or_sends_elsewhere_is_not_waited_for_and_not_followed() {
    let server = Server::https(LATE);
    server.be_impatient();
    server.backend("sleep 6");
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("did not come to an end within 3 s"), "{told}");
    let elsewhere = format!("https://localhost:{}/elsewhere/.git/info/refs", server.port);
    server.backend(&format!(
        "printf 'Status: 302 Found\\r\\nLocation: {elsewhere}\\r\\n\\r\\n'; exit"
    ));
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("which is not followed"), "{told}");
    assert!(server.requests().iter().all(|line| !line.contains("GET /elsewhere")));
    assert_eq!(server.shop.target().len(), 0);
}

#[test]
fn an_empty_repository_is_waited_for() {
    let server = Server::ssh();
    let (plans, empty) = (server.path("plans"), server.path("empty"));
    peers::run("git", ["init", "-q", "--bare", &empty]);
    server.settings(
        &server.ssh_url().replace(&plans, &empty),
        "sshKeyFile: srv/id, knownHostsFile: srv/known",
    );
    let told = server.shop.ferry(&["run", "--once"]).expect(1).stderr;
    assert!(told.contains("the watched branch `main` does not exist"), "{told}");
    peers::run("git", ["-C", &plans, "push", "-q", &empty, "main"]);
    server.shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&server.shop);
}

#[test]
fn a_branch_that_goes_away_moves_nothing_and_may_come_back() {
    let server = Server::ssh();
    let plans = server.path("plans");
    let main = server.shop.plans.head().unwrap();
    let git = |arguments: &[&str]| peers::run("git", ["-C", &plans].iter().chain(arguments));
    git(&["update-ref", "-d", "refs/heads/main"]);
    let ran = server.shop.ferry(&["run", "--once"]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    assert!(ran.stderr.contains("branch `main` does not exist"), "{}", ran.stderr);
    git(&["update-ref", "refs/heads/main", &main]);
    server.shop.ferry(&["run", "--once"]).expect(0);
    git(&["update-ref", "-d", "refs/heads/main"]);
    let ran = server.shop.ferry(&["run", "--once"]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    git(&["update-ref", "refs/heads/main", &main]);
    both_stand(&server.shop);
}

#[test]
fn a_branch_that_was_moved_by_force_is_held_until_a_person_takes_it() {
    let server = Server::https(LATE);
    let shop = &server.shop;
    let first = shop.plans.head().unwrap();
    let mut files = shop.manifests();
    let plan = files["plan.yaml"].replace("spec:\n", "spec:\n  description: second\n");
    files.insert("plan.yaml", plan);
    let second = shop.plans.commit(&files, "second");
    shop.ferry(&["run", "--once"]).expect(0);
    let git = |arguments: &[&str]| {
        peers::run("git", ["-C", &server.path("plans")].iter().chain(arguments))
    };
    git(&["update-ref", "refs/heads/main", &first]);
    let told = shop.ferry(&["run", "--once"]).expect(3).stderr;
    let words = format!("the branch was rewound: {first} does not descend from {second}");
    assert!(told.contains(&words), "{told}");
    both_stand(shop);
    shop.ferry(&["adopt", &first, "--yes"]).expect(0);
    let told = shop.ferry(&["run", "--once"]).expect(0).stderr;
    assert!(!told.contains("rewound"), "{told}");
    both_stand(shop);
}

#[test]
fn ten_thousand_files_are_followed() {
    let server = Server::ssh();
    let shop = &server.shop;
    let mut files = shop.manifests();
    let names: Vec<String> =
        (0..10_000).map(|number| format!("more/{}/{number}.yaml", number % 100)).collect();
    for (number, name) in names.iter().enumerate() {
        let window = format!(
            "apiVersion: ferry.dev/v1alpha1\nkind: CutoverWindow\nmetadata: {{ name: w-{number} }}\n\
             spec: {{ allow: [{{ schedule: \"0 22 * * 6\", duration: 6h, timeZone: UTC }}], selector: {{ matchLabels: {{ a: b }} }} }}\n"
        );
        files.insert(name, window);
    }
    shop.plans.commit(&files, "many");
    shop.ferry(&["diff"]).expect(2);
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(shop);
}
