//! What an editor makes of the schemas: the YAML language server, which most of them use, over its own protocol.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The language server with one folder of documents, each judged by the schema of any manifest.
struct Editor {
    folder: TempDir,
    server: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u64,
    /// What it found in the document that was published last.
    findings: Vec<Value>,
}

impl Editor {
    fn new() -> Self {
        let program = server();
        let mut command = Command::new(&program);
        command.arg("--stdio").stdin(Stdio::piped()).stdout(Stdio::piped());
        assert!(program.exists(), "{} is missing: `tests/run` installs it", program.display());
        let mut server = command.spawn().unwrap();
        let (input, output) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let output = BufReader::new(output);
        let mut editor = Self { folder, server, input, output, asked: 0, findings: Vec::new() };
        let capabilities = json!({
            "workspace": { "configuration": true },
            "textDocument": { "publishDiagnostics": {}, "hover": { "contentFormat": ["plaintext"] } },
        });
        editor.ask(
            "initialize",
            &json!({ "processId": null, "rootUri": null, "capabilities": capabilities }),
        );
        editor.tell("initialized", &json!({}));
        editor.tell("workspace/didChangeConfiguration", &json!({ "settings": settings() }));
        editor
    }

    /// Opens a document and waits until it was judged; returns what was found, a line each.
    fn open(&mut self, name: &str, text: &str) -> Vec<String> {
        let uri = self.uri(name);
        let document = json!({ "uri": uri, "languageId": "yaml", "version": 1, "text": text });
        self.tell("textDocument/didOpen", &json!({ "textDocument": document }));
        loop {
            let message = self.receive();
            if message["method"] == "textDocument/publishDiagnostics"
                && message["params"]["uri"] == uri
            {
                break;
            }
        }
        let line = |found: &Value| {
            let line = found["range"]["start"]["line"].as_u64().unwrap() + 1;
            format!("{line}: {}", found["message"].as_str().unwrap())
        };
        self.findings.iter().map(line).collect()
    }

    /// Asks about a place, by line (from 1) and column (from 0).
    fn at(&mut self, method: &str, name: &str, (line, character): (u32, u32)) -> Value {
        let position = json!({ "line": line - 1, "character": character });
        let document = json!({ "uri": self.uri(name) });
        self.ask(method, &json!({ "textDocument": document, "position": position }))
    }

    fn hover(&mut self, name: &str, place: (u32, u32)) -> String {
        let hover = self.at("textDocument/hover", name, place);
        hover["contents"]["value"].as_str().unwrap_or_default().to_owned()
    }

    fn complete(&mut self, name: &str, place: (u32, u32)) -> Vec<String> {
        let list = self.at("textDocument/completion", name, place);
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["label"].as_str().unwrap().to_owned()).collect()
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}", self.folder.path().join(name).display())
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.receive();
            if message["id"] == id && message.get("method").is_none() {
                return message["result"].clone();
            }
        }
    }

    fn tell(&mut self, method: &str, params: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        self.input.flush().unwrap();
    }

    /// Reads a message; what it asks is answered, what it found is kept.
    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the language server ended");
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut text = vec![0; length];
        self.output.read_exact(&mut text).unwrap();
        let message: Value = serde_json::from_slice(&text).unwrap();
        if message["method"] == "textDocument/publishDiagnostics" {
            let found = message["params"]["diagnostics"].as_array().unwrap();
            self.findings.clone_from(found);
        }
        if message.get("method").is_some() && message.get("id").is_some() {
            let settings = settings();
            let asked = message["params"]["items"].as_array().into_iter().flatten();
            let answers: Vec<&Value> =
                asked.map(|item| &settings[item["section"].as_str().unwrap_or_default()]).collect();
            self.send(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": answers }));
        }
        message
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where `tests/run` puts the language server.
fn server() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("peers/node_modules/.bin/yaml-language-server")
}

/// What the README tells people to write into their editor's settings.
fn settings() -> Value {
    let schema = format!("file://{}/schemas/manifest.json", env!("CARGO_MANIFEST_DIR"));
    json!({ "yaml": {
        "schemas": { schema: "*.yaml" }, "validate": true, "hover": true, "completion": true,
        "schemaStore": { "enable": false },
    } })
}

#[test]
fn an_editor_finds_nothing_wrong_with_the_samples() {
    let mut editor = Editor::new();
    let mut read = 0;
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample-plans");
    let mut open = vec![samples];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml")
                && path.file_name().is_some_and(|name| name != "ferry.yaml")
            {
                read += 1;
                let text = fs::read_to_string(&path).unwrap();
                let found = editor.open(&format!("{read}.yaml"), &text);
                assert_eq!(found, Vec::<String>::new(), "{}", path.display());
            }
        }
    }
    assert!(read >= 10, "{read} files are few");
    let wrong = editor.open("wrong.yaml", "apiVersion: ferry.dev/v1alpha1\nkind: Plain\n");
    assert!(!wrong.is_empty(), "nothing is judged");
}

#[test]
fn an_editor_completes_explains_and_checks_a_plan_beside_its_provider() {
    let text = "\
apiVersion: ferry.dev/v1alpha1
kind: Provider
metadata: { name: archive }
spec: { type: ova, ova: { path: 5 } }
---
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata: { name: web }
spec:
  provider: { source: archive, destination: rack }
  verify: most
  colour: red
  vms:
    - name: web-01
      
";
    let mut editor = Editor::new();
    let mut found = editor.open("plan.yaml", text);
    found.sort();
    assert_eq!(
        found,
        [
            "11: Value is not accepted. Valid values: \"full\", \"changed\", \"none\".",
            "12: Property colour is not allowed.",
            "4: Incorrect type. Expected \"string\".",
        ]
    );
    let hover = editor.hover("plan.yaml", (11, 4));
    for part in ["How much of a target disk is read again", "`changed`: What this migration wrote"]
    {
        assert!(hover.contains(part), "{hover}");
    }
    let fields = editor.complete("plan.yaml", (15, 6));
    for field in ["targetName", "targetPowerState", "hooks"] {
        assert!(fields.iter().any(|label| label == field), "{fields:?}");
    }
    assert!(fields.iter().all(|label| label != "name"), "{fields:?}");
    let words = editor.complete("plan.yaml", (11, 10));
    assert_eq!(
        words.iter().filter(|word| ["full", "changed", "none"].contains(&word.as_str())).count(),
        3
    );
}
