//! Planted texts run through every output: a secret that somebody wrote into git comes out nowhere, and what could move a
//! terminal's cursor or turn its text around comes out only in its escaped form (safety rule 25).

use std::fs;
use std::path::Path;

use crate::shop::{Shop, archive_of, system};

/// A password. The middle of it stands for every cut that a snippet may make.
const SECRET: &str = "hunter2-CANARY-hunter2";
const SECRET_CORE: &str = "CANARY";
/// As YAML: an escape sequence, a direction override, a line break, HTML and Markdown.
const HOSTILE: &str = r#""pay\e[2Jload\u202E <b>x</b> [x](http://e) | `x`\nnext""#;
/// What a terminal must never get.
const RAW: [char; 2] = ['\u{1b}', '\u{202e}'];

/// A shop whose manifests hold both, in places that count and in places that do not.
fn shop() -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive_of(folder.path(), "web", vec![system("web01", 1 << 20)]);
    let shop = Shop::around(&archive);
    let mut files = shop.manifests();
    let plan = files["plan.yaml"].replace("{ name: web02 }", &format!("{{ name: {HOSTILE} }}"));
    let plan = plan.replace("spec:\n", &format!("spec:\n  description: {HOSTILE}\n"));
    files.insert("plan.yaml", plan);
    let head = "apiVersion: ferry.dev/v1alpha1\nkind: Provider\n";
    // By a known name, by an unknown one, in a URL, and in a text that is no YAML.
    files.insert(
        "secrets.yaml",
        format!(
            "{head}metadata: {{ name: one }}\nspec: {{ type: ova, ova: {{ path: /x }}, password: {SECRET} }}\n---\n\
             {head}metadata: {{ name: two }}\nspec:\n  type: ova\n  ova: {{ path: /x }}\n  vsphere:\n    apiToken: \"{SECRET}\"\n---\n\
             {head}metadata: {{ name: three }}\nspec: {{ type: vsphere, url: \"https://root:{SECRET}@vcenter.example.org/sdk\" }}\n"
        ),
    );
    files.insert("broken.yaml", format!("{head}spec: {{ secretKey: {SECRET}\n  a: : [\n"));
    shop.plans.commit(&files, "canary");
    shop
}

fn clean(what: &str, text: &str) {
    let at = text.find(SECRET_CORE).map(|at| text.get(at.saturating_sub(200)..at + 20));
    assert!(at.is_none(), "{what} tells the secret: {at:?}");
    let raw = text.find(RAW).map(|at| text.get(at.saturating_sub(40)..at + 40));
    assert!(raw.is_none(), "{what} moves the cursor: {raw:?}");
}

#[test]
fn no_output_tells_a_secret_or_moves_the_cursor() {
    let shop = shop();
    let plans = shop.sandbox.path("plans").display().to_string();
    let logged = ["--log", "trace", "--log-format", "json"];
    let commands: &[&[&str]] = &[
        &["check", &plans],
        &["check", &plans, "--output", "json"],
        &["check", &plans, "--output", "github"],
        &["check", &plans, "--rev", "main"],
        &["diff"],
        &["diff", "--output", "markdown"],
        &["diff", "--output", "json"],
        &["diff", "main..main"],
        &["run", "--once"],
        &["status", "--why"],
        &["status", "--why", "--output", "json"],
        &["verify", "shop"],
        &["doctor"],
        &["doctor", "--output", "json"],
        &["migrate", "shop"],
        &["cancel", "shop/web01"],
        &["hold", "on", "--reason", "\u{1b}[2J\u{202e}"],
        &["hold"],
        &["status"],
    ];
    let mut said = String::new();
    for command in commands {
        for log in [&[][..], &logged[..]] {
            let ran = shop.ferry(&[command, log].concat());
            clean(&format!("stdout of {command:?} {log:?}"), &ran.stdout);
            clean(&format!("stderr of {command:?} {log:?}"), &ran.stderr);
            said.push_str(&ran.stdout);
        }
    }
    for (path, text) in shop.plans.files("ferry/status") {
        clean(&format!("the report {path}"), &text);
        said.push_str(&text);
    }
    // What was planted was there to be told: its finding was, and the hostile text in its escaped form.
    assert!(said.contains("FY0211") && said.contains("u{1b}"), "{said}");
    stays_out_of(&shop.sandbox.path("state"));
    stays_out_of(&shop.sandbox.path("vms"));
}

/// Tells that no file below a folder holds the secret, the journal included.
fn stays_out_of(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            stays_out_of(&path);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found =
                bytes.windows(SECRET_CORE.len()).any(|found| found == SECRET_CORE.as_bytes());
            assert!(!found, "{} holds the secret", path.display());
        }
    }
}
