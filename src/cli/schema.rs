//! `ferry schema`: the JSON Schemas of the manifests, out of the types.

use std::path::PathBuf;

use anyhow::Context;

use crate::cli::{Exit, answer, tell};
use crate::manifest::document::Kind;
use crate::manifest::schema;

/// Prints the JSON Schema of a kind, or writes those of all kinds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry schema Plan                  print the schema of plans
  ferry schema --write schemas       write one file for each kind, for an editor to check and complete manifests with

Exit codes: 0 done, 1 error, 64 wrong usage")]
pub struct Schema {
    /// The kind; all of them in one list where left out.
    #[arg(value_parser = Kind::ALL.map(Kind::as_str))]
    pub kind: Option<String>,
    /// Writes `KIND.json` of every kind into this folder, which is made where it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    pub write: Option<PathBuf>,
}

/// Prints or writes.
pub fn run(args: Schema) -> anyhow::Result<Exit> {
    let Schema { kind, write } = args;
    if let Some(folder) = write {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        for (name, text) in schema::files() {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            tell(&format!("wrote {}", path.display()));
        }
        return Ok(Exit::Done);
    }
    let text = match kind.as_deref().and_then(Kind::find) {
        Some(kind) => serde_json::to_string_pretty(schema::schema(kind))?,
        None => serde_json::to_string_pretty(&Kind::ALL.map(schema::schema))?,
    };
    answer(&(text + "\n"));
    Ok(Exit::Done)
}
