//! Who signed a commit: SSH signatures, judged by a file of allowed signers as `ssh-keygen` describes it (ssh-keygen(1), ALLOWED
//! SIGNERS). The file stands outside the repository: whoever can push must not decide who may sign.
//!
//! As with `git verify-commit`, a key counts at the time that the commit itself states. A line that asks for something which is
//! not honoured here (`cert-authority`, times without a zone) makes the whole file wrong: skipping it could trust too much.

use std::fs;
use std::path::Path;

use git2::{ErrorCode, Oid, Repository};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use ssh_key::{HashAlg, PublicKey, SshSig};

use crate::adapter::git::failed;
use crate::domain::text::visible;
use crate::journal::record::Mend;
use crate::port::PortError;

/// What git's signatures are made for; one that was made for something else proves nothing here.
const NAMESPACE: &str = "git";
/// A file of signers is small; a larger one is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signer {
    principals: String,
    namespaces: Option<String>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
    key: PublicKey,
}

/// Tells why nobody of the file stands behind a commit; `None` where somebody does.
pub(super) fn distrust(
    repository: &Repository,
    commit: Oid,
    file: &Path,
) -> Result<Option<String>, PortError> {
    let signers = read(file)?;
    let (signature, content) = match repository.extract_signature(&commit, None) {
        Ok(found) => found,
        Err(error) if error.code() == ErrorCode::NotFound => {
            return Ok(Some(format!("{commit} is not signed")));
        }
        Err(error) => {
            return Err(failed(&format!("cannot read the signature of {commit}"), &error));
        }
    };
    let committed = repository.find_commit(commit).map(|commit| commit.time().seconds());
    let committed = committed.map_err(|error| failed(&format!("cannot read {commit}"), &error))?;
    let at = Timestamp::from_second(committed).unwrap_or(Timestamp::MIN);
    Ok(objection(&signature, &content, at, &signers).map(|why| format!("{commit} {why}")))
}

fn objection(
    signature: &[u8],
    content: &[u8],
    at: Timestamp,
    signers: &[Signer],
) -> Option<String> {
    if !signature.starts_with(b"-----BEGIN SSH SIGNATURE-----") {
        return Some(
            "is not signed with an SSH key, and no other signatures are checked".to_owned(),
        );
    }
    let Ok(signature) = SshSig::from_pem(signature) else {
        return Some("has a signature that cannot be read".to_owned());
    };
    let key = PublicKey::from(signature.public_key().clone());
    let print = key.fingerprint(HashAlg::Sha256);
    if key.verify(NAMESPACE, content, &signature).is_err() {
        return Some(format!("has a signature of {print} that does not fit it"));
    }
    let lines = signers.iter().filter(|signer| signer.key.key_data() == key.key_data());
    let mut why = format!("is signed with {print}, which the allowed signers do not name");
    for Signer { principals, namespaces, after, before, key: _ } in lines {
        let principals = visible(principals);
        if namespaces.as_ref().is_some_and(|all| all.split(',').all(|one| one != NAMESPACE)) {
            why = format!("is signed by {principals}, whose key may not sign for git");
        } else if after.is_some_and(|after| at < after) || before.is_some_and(|before| at >= before)
        {
            why = format!("is signed by {principals}, whose key did not count at {at}");
        } else {
            return None;
        }
    }
    Some(why)
}

fn read(path: &Path) -> Result<Vec<Signer>, PortError> {
    let wrong = |text: String| {
        PortError::lasting(
            text,
            "mend the file that `repository.verify.allowedSigners` names: lines such as `ada@example.org namespaces=\"git\" ssh-ed25519 AAAA…`",
            Mend::Person,
        )
    };
    let shown = path.display();
    let size = fs::metadata(path).map_or(0, |about| about.len());
    if size > FILE_BYTES_MAX {
        return Err(wrong(format!("the allowed signers in {shown} are more than 1 MiB")));
    }
    let text = fs::read_to_string(path)
        .map_err(|error| wrong(format!("cannot read the allowed signers in {shown}: {error}")))?;
    let mut signers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let signer = signer(line);
        signers.push(signer.map_err(|why| wrong(format!("{shown}:{}: {why}", number + 1)))?);
    }
    Ok(signers)
}

/// Reads `principals [options] keytype base64 [comment]`.
fn signer(line: &str) -> Result<Signer, String> {
    let (principals, mut rest) = word(line);
    let found = |namespaces, after, before, key| Signer {
        principals: principals.to_owned(),
        namespaces,
        after,
        before,
        key,
    };
    let (mut namespaces, mut after, mut before) = (None, None, None);
    // A key begins with the name of its kind; everything in front of it is options.
    if PublicKey::from_openssh(rest).is_err() {
        let (options, key) = word(rest);
        rest = key;
        for option in split_options(options)? {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" => namespaces = Some(value.to_owned()),
                "valid-after" => after = Some(time(value)?),
                "valid-before" => before = Some(time(value)?),
                other => return Err(format!("`{}` is not supported", visible(other))),
            }
        }
    }
    match PublicKey::from_openssh(rest) {
        Ok(key) => Ok(found(namespaces, after, before, key)),
        Err(_) => Err("there is no public key that Ferry can read".to_owned()),
    }
}

/// Splits off the first word; blanks within quotes do not end it.
fn word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = text.find(|letter: char| {
        quoted ^= letter == '"';
        letter.is_whitespace() && !quoted
    });
    let (first, rest) = text.split_at(end.unwrap_or(text.len()));
    (first, rest.trim_start())
}

/// Splits options at commas outside of quotes.
fn split_options(text: &str) -> Result<Vec<&str>, String> {
    let mut quoted = false;
    let options = text.split(|letter: char| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    });
    let options = options.collect();
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok(options) }
}

/// Reads `YYYYMMDDZ` or `YYYYMMDDHHMM[SS]Z`.
fn time(text: &str) -> Result<Timestamp, String> {
    let wrong =
        || format!("`{}` is no time in UTC, such as `20261231Z` or `202612312359Z`", visible(text));
    let digits = text.strip_suffix('Z').ok_or_else(wrong)?;
    let at = match digits.len() {
        8 => Date::strptime("%Y%m%d", digits).map(DateTime::from),
        12 => DateTime::strptime("%Y%m%d%H%M", digits),
        _ => DateTime::strptime("%Y%m%d%H%M%S", digits),
    };
    at.and_then(|at| at.to_zoned(TimeZone::UTC)).map(|at| at.timestamp()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use ssh_key::PrivateKey;
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        let pair = Ed25519Keypair::from_seed(&[seed; 32]);
        PrivateKey::new(KeypairData::Ed25519(pair), "").unwrap()
    }

    fn line(key: &PrivateKey) -> String {
        key.public_key().to_openssh().unwrap()
    }

    fn signed(key: &PrivateKey, namespace: &str, content: &[u8]) -> String {
        let signature = SshSig::sign(key, namespace, HashAlg::Sha512, content).unwrap();
        signature.to_pem(ssh_key::LineEnding::LF).unwrap()
    }

    fn check(signature: &str, signers: &str, expected: Expect) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("signers");
        fs::write(&file, signers).unwrap();
        let at: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let shown = match read(&file) {
            Ok(signers) => objection(signature.as_bytes(), b"tree", at, &signers)
                .unwrap_or_else(|| "trusted".to_owned()),
            Err(error) => error.fault.text.replace(folder.path().to_str().unwrap(), "ROOT"),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_known_key_that_signed_this_is_trusted() {
        let (ada, bob) = (key(1), key(2));
        let good = signed(&ada, "git", b"tree");
        let (a, b) = (line(&ada), line(&bob));
        let trusted = || expect!["trusted"];
        check(&good, &format!("# ours\n\nada@example.org {a} comment\n"), trusted());
        check(
            &good,
            &format!("x {b}\nada@example.org,*@x.org namespaces=\"file,git\" {a}\n"),
            trusted(),
        );
        let times = "valid-after=20260101Z,valid-before=\"20270101000000Z\"";
        check(&good, &format!("ada {times} {a}"), trusted());
        // One line that holds is enough.
        check(&good, &format!("ada valid-before=20260101Z {a}\nada {a}\n"), trusted());
    }

    #[test]
    fn what_is_not_trusted_says_why() {
        let (ada, bob) = (key(1), key(2));
        let good = signed(&ada, "git", b"tree");
        let a = line(&ada);
        let own = format!("ada {a}\n");
        check(
            &good,
            &format!("bob {}\n", line(&bob)),
            expect![
                "is signed with SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8, which the allowed signers do not name"
            ],
        );
        check(
            &good,
            "",
            expect![
                "is signed with SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8, which the allowed signers do not name"
            ],
        );
        check(
            &signed(&ada, "git", b"other"),
            &own,
            expect![
                "has a signature of SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8 that does not fit it"
            ],
        );
        check(
            &signed(&ada, "file", b"tree"),
            &own,
            expect![
                "has a signature of SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8 that does not fit it"
            ],
        );
        check(
            "-----BEGIN PGP SIGNATURE-----\n",
            &own,
            expect!["is not signed with an SSH key, and no other signatures are checked"],
        );
        check(
            "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----",
            &own,
            expect!["has a signature that cannot be read"],
        );
        check(
            &good,
            &format!("ada namespaces=\"file\" {a}"),
            expect!["is signed by ada, whose key may not sign for git"],
        );
        check(
            &good,
            &format!("ada valid-before=20261125Z {a}"),
            expect!["is signed by ada, whose key did not count at 2026-11-25T12:00:00Z"],
        );
        check(
            &good,
            &format!("ada valid-after=202611251201Z {a}"),
            expect!["is signed by ada, whose key did not count at 2026-11-25T12:00:00Z"],
        );
    }

    #[test]
    fn a_wrong_line_makes_the_file_wrong() {
        let a = line(&key(1));
        let good = signed(&key(1), "git", b"tree");
        let own = format!("ada {a}\n");
        check(
            &good,
            &format!("{own}* cert-authority {a}\n"),
            expect!["ROOT/signers:2: `cert-authority` is not supported"],
        );
        check(
            &good,
            &format!("{own}ada valid-after=20260101 {a}\n"),
            expect![
                "ROOT/signers:2: `20260101` is no time in UTC, such as `20261231Z` or `202612312359Z`"
            ],
        );
        check(
            &good,
            &format!("{own}ada namespaces=\"git {a}\n"),
            expect!["ROOT/signers:2: a quote is not closed"],
        );
        check(
            &good,
            &format!("{own}ada ssh-ed25519 AAAA\n"),
            expect!["ROOT/signers:2: `ssh-ed25519` is not supported"],
        );
        check(&good, &format!("{own}ada\n"), expect!["ROOT/signers:2: `` is not supported"]);
    }
}
