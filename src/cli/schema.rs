//! `ferry schema`: the JSON Schemas of the manifests and of a preview's JSON form, out of the types.

use std::path::PathBuf;

use anyhow::Context;

use crate::cli::{Exit, answer, tell};
use crate::manifest::document::Kind;
use crate::manifest::schema;
use crate::preview;

/// The name of what `ferry diff --output json` prints.
const PREVIEW: &str = "preview";

/// Prints the JSON Schema of a kind or of a preview, or writes all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry schema Plan                  print the schema of plans
  ferry schema preview               print the schema of what `ferry diff --output json` prints
  ferry schema --write schemas       write one file for each, for an editor to check and complete manifests with

Exit codes: 0 done, 1 error, 64 wrong usage")]
pub struct Schema {
    /// The kind, or `preview`; all kinds in one list where left out.
    #[arg(value_parser = Kind::ALL.map(Kind::as_str).into_iter().chain([PREVIEW]).collect::<Vec<_>>())]
    pub kind: Option<String>,
    /// Writes `KIND.json` of every kind, `manifest.json` for files of any kind, and `preview.json` into this folder, which is made where it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    pub write: Option<PathBuf>,
}

/// Prints or writes.
pub fn run(args: Schema) -> anyhow::Result<Exit> {
    let Schema { kind, write } = args;
    if let Some(folder) = write {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        for (name, text) in files() {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            tell(&format!("wrote {}", path.display()));
        }
        return Ok(Exit::Done);
    }
    let text = match kind.as_deref() {
        None => serde_json::to_string_pretty(&Kind::ALL.map(schema::schema))?,
        Some(name) => match Kind::find(name) {
            Some(kind) => serde_json::to_string_pretty(schema::schema(kind))?,
            None => serde_json::to_string_pretty(&preview::schema())?,
        },
    };
    answer(&(text + "\n"));
    Ok(Exit::Done)
}

/// Returns the files of `schemas/`, each with its name and its text.
fn files() -> impl Iterator<Item = (String, String)> {
    let kinds = Kind::ALL.into_iter().map(|kind| (kind.as_str(), schema::schema(kind).clone()));
    kinds.chain([("manifest", schema::of_any_kind()), (PREVIEW, preview::schema())]).map(
        |(name, schema)| {
            let text = serde_json::to_string_pretty(&schema).expect("a value always prints");
            (format!("{name}.json"), text + "\n")
        },
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_schemas_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        for (name, text) in files() {
            let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(
                committed == text,
                "{name} is out of date: `cargo run -- schema --write schemas`"
            );
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), files().count());
    }
}
