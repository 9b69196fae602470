//! Against real files, and against processes that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use expect_test::expect;

use super::hold::HoldFile;
use super::journal::JournalReader;
use super::*;
use crate::domain::id::{CommitId, MigrationName, RunId, SourceVm};
use crate::journal::record::{Disposition, Entry, Fact, RepoFact};
use crate::port::{Hold, JournalStore};

/// Tells the test binary, run once more, what to be.
const ROLE: &str = "FERRY_TEST_STORE_ROLE";

fn instance() -> Instance {
    Instance::new("prod")
}

fn accepted(number: usize) -> Entry {
    Entry::Repo(RepoFact::Accepted { commit: CommitId::new(number.to_string()) })
}

fn of_run(fact: Fact) -> Entry {
    let vm = SourceVm::Ova { archive: "ab".into(), system: "web".into() };
    Entry::Run { run: RunId { vm, migration: MigrationName::new("m"), attempt: 1 }, fact }
}

/// Starts this test binary again as one of the children below.
#[expect(clippy::disallowed_methods, reason = "a process must be killed to see what survives")]
fn child(role: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "adapter::store::tests::child_of_another_test", "--nocapture"]);
    command.env(ROLE, role).env("FERRY_TEST_STORE_FOLDER", folder).stdout(Stdio::piped());
    command
}

/// Does nothing by itself; the other tests run it as a process of its own.
#[test]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it talks to its parent test")]
fn child_of_another_test() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(std::env::var("FERRY_TEST_STORE_FOLDER").unwrap());
    let state = StateDir::open(&folder, &instance(), Timestamp::UNIX_EPOCH).unwrap();
    let mut journal = state.journal().unwrap();
    match role.as_str() {
        "append" => {
            for number in 0.. {
                journal.append(Timestamp::UNIX_EPOCH, &[accepted(number)]).unwrap();
                println!("acknowledged {number}");
            }
        }
        "fill" => {
            let mut count = 0;
            let mut error = None;
            // Large transactions up to the brink, then small ones over it.
            for size in [200, 1] {
                error = loop {
                    let entries: Vec<_> = (0..size).map(accepted).collect();
                    match journal.append(Timestamp::UNIX_EPOCH, &entries) {
                        Ok(()) => count += size,
                        Err(error) => break Some(error.fault.text),
                    }
                };
            }
            let text = error.unwrap().replace(folder.to_str().unwrap(), "STATE");
            println!("full: {} records read back, {text}", journal.read().unwrap().len() == count);
            println!("full: reserve stands {}", folder.join("reserve").exists());
            let undone = journal.append(Timestamp::UNIX_EPOCH, &[of_run(Fact::Undone)]);
            println!("full: an undo fits {}", undone.is_ok());
            println!("full: reserve stands {}", folder.join("reserve").exists());
            let began = journal.append(Timestamp::UNIX_EPOCH, &[of_run(Fact::ForceIntended)]);
            println!("full: a beginning fits {}", began.is_ok());
        }
        other => panic!("unknown role {other}"),
    }
}

#[test]
fn what_is_appended_is_read_back_in_order_by_the_next_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
    let mut journal = state.journal().unwrap();
    let id = journal.id();
    assert_eq!(id.as_str().len(), 32);
    journal.append(Timestamp::UNIX_EPOCH, &[accepted(1), of_run(Fact::Claimed)]).unwrap();
    journal.append(Timestamp::UNIX_EPOCH, &[accepted(2)]).unwrap();
    let written = journal.read().unwrap();
    assert_eq!(written.len(), 3);
    assert_eq!(written[1].entry, of_run(Fact::Claimed));
    drop((journal, state));
    let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
    let mut journal = state.journal().unwrap();
    assert_eq!(journal.id(), id);
    journal.append(Timestamp::UNIX_EPOCH, &[accepted(3)]).unwrap();
    assert_eq!(journal.read().unwrap().len(), 4);
}

#[test]
fn every_journal_has_an_id_of_its_own() {
    let open = || {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
        state.journal().unwrap().id()
    };
    assert_ne!(open(), open());
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    for kill_after in [1, 7, 40] {
        let before = match JournalReader::open(folder.path()).unwrap() {
            Some(reader) => reader.read().unwrap().len(),
            None => 0,
        };
        let mut writer = child("append", folder.path()).spawn().unwrap();
        let mut said = BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledged = said.by_ref().filter(|line| line.starts_with("acknowledged"));
        for _ in 0..kill_after {
            acknowledged.next().expect("the child appends until it is killed");
        }
        // Read beside the running writer, from another process.
        let reader = JournalReader::open(folder.path()).unwrap().unwrap();
        let beside = reader.read().unwrap().len() - before;
        assert!(beside >= kill_after, "{beside} of {kill_after}");
        writer.kill().unwrap();
        writer.wait().unwrap();
        let rest = acknowledged.count();
        // The reader goes on beside nobody, and the next writer finds it all.
        let after = reader.read().unwrap().len() - before;
        assert!(after >= kill_after + rest, "{after} of {}", kill_after + rest);
        drop(reader);
        // The first reader of a file that nobody closed mends it, which may bring back one more commit: one that was durable
        // and not acknowledged yet.
        let mended = JournalReader::open(folder.path()).unwrap().unwrap();
        let found = mended.read().unwrap().len() - before;
        assert!(found == after || found == after + 1, "{found} of {after}");
        drop(mended);
        let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
        let records = state.journal().unwrap().read().unwrap();
        let ours = records.iter().skip(before).map(|record| record.entry.clone());
        assert!(ours.eq((0..found).map(accepted)), "in order and without gaps");
    }
}

#[test]
fn a_second_holder_is_told_who_the_first_is() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(holder(folder.path()).unwrap(), None);
    let since: Timestamp = "2026-11-25T02:00:00Z".parse().unwrap();
    let state = StateDir::open(folder.path(), &instance(), since).unwrap();
    let second = StateDir::open(folder.path(), &Instance::new("other"), since).unwrap_err();
    let text = second.fault.text.replace(&std::process::id().to_string(), "PID");
    let text = text.replace(folder.path().to_str().unwrap(), "STATE");
    expect!["the state folder STATE is held by ferry of the instance `prod`, process PID, since 2026-11-25T02:00:00Z"]
        .assert_eq(&text);
    let named = holder(folder.path()).unwrap().unwrap();
    assert_eq!(named, Holder { pid: std::process::id(), instance: instance(), since });
    drop(state);
    assert_eq!(holder(folder.path()).unwrap(), None);
    StateDir::open(folder.path(), &instance(), since).unwrap();
}

#[test]
fn the_folder_is_made_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let state = StateDir::open(&folder, &instance(), Timestamp::UNIX_EPOCH).unwrap();
    state.journal().unwrap();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = StateDir::open(&file, &instance(), Timestamp::UNIX_EPOCH).unwrap_err();
    assert!(error.fault.text.starts_with("cannot make"), "{error}");
}

#[test]
fn a_newer_record_and_a_newer_format_refuse_to_start() {
    for (key, table) in [("newest-record", "meta"), ("format", "meta"), ("", "records")] {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
        state.journal().unwrap().append(Timestamp::UNIX_EPOCH, &[accepted(1)]).unwrap();
        let database = redb::Database::create(folder.path().join("journal.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        if table == "meta" {
            let meta = redb::TableDefinition::<&str, &str>::new("meta");
            transaction.open_table(meta).unwrap().insert(key, "9").unwrap();
        } else {
            let records = redb::TableDefinition::<u64, &[u8]>::new("records");
            let record: &[u8] = br#"{"version":9,"what":"nobody knows"}"#;
            transaction.open_table(records).unwrap().insert(9, record).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let refused = |error: PortError| {
            assert!(error.fault.text.contains("was written by a newer ferry"), "{error}");
            assert!(matches!(error.fault.disposition, Disposition::Stall(Mend::Person)));
        };
        match table {
            "meta" => {
                refused(state.journal().unwrap_err());
                refused(JournalReader::open(folder.path()).unwrap_err());
            }
            _ => refused(state.journal().unwrap().read().unwrap_err()),
        }
    }
}

#[test]
fn a_file_that_is_no_journal_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    std::fs::write(&path, "precious, and long enough to be looked at").unwrap();
    let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
    assert!(state.journal().unwrap_err().fault.text.starts_with("cannot open the journal"));
    assert!(std::fs::read_to_string(path).unwrap().starts_with("precious"));
}

#[test]
fn the_reserve_takes_room_and_gives_it_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path(), &instance(), Timestamp::UNIX_EPOCH).unwrap();
    let blocks = std::fs::metadata(folder.path().join("reserve")).unwrap().blocks();
    assert!(blocks * 512 >= u64::try_from(RESERVE_BYTES).unwrap(), "{blocks} blocks");
    assert!(state.release_reserve().unwrap());
    assert!(!state.release_reserve().unwrap());
    assert!(state.reserve().unwrap());
}

/// A limit on the size of files stands for a full disk: writing fails in the same way, at a place that the test chooses.
#[test]
fn a_full_state_folder_says_so_and_stays_readable() {
    let folder = tempfile::tempdir().unwrap();
    let parts = child("fill", folder.path());
    #[expect(clippy::disallowed_methods, reason = "the limit must hold for the child alone")]
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 4000; exec \"$@\"", "sh"]).arg(parts.get_program());
    shell.args(parts.get_args());
    shell.envs(parts.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.output().unwrap();
    // The reserve is no help against a limit on the size of one file, so the undo fails as well.
    expect![[r"
        true records read back, state folder full: STATE has no room for the journal
        reserve stands true
        an undo fits false
        reserve stands false
        a beginning fits false"]]
    .assert_eq(&said_of_full(&output.stdout));
}

fn said_of_full(output: &[u8]) -> String {
    let said = String::from_utf8_lossy(output);
    let lines = said.lines().filter_map(|line| line.split_once("full: "));
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// A file system that is really full, in a mount namespace of its own.
#[cfg(feature = "peers")]
#[test]
fn on_a_full_disk_the_reserve_lets_an_undo_through() {
    let folder = tempfile::tempdir().unwrap();
    let parts = child("fill", &folder.path().join("state"));
    #[expect(clippy::disallowed_methods, reason = "a small file system must be mounted")]
    let mut shell = Command::new("unshare");
    let script = "mount -t tmpfs -o size=6m tmpfs \"$1\" && shift && exec \"$@\"";
    shell.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(folder.path());
    shell.arg(parts.get_program()).args(parts.get_args());
    shell.envs(parts.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.output().unwrap();
    expect![[r"
        true records read back, state folder full: STATE has no room for the journal
        reserve stands true
        an undo fits true
        reserve stands false
        a beginning fits false"]]
    .assert_eq(&said_of_full(&output.stdout));
}

#[test]
fn the_brake_works_without_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let brake = HoldFile::new(&path);
    assert!(!brake.engaged());
    assert_eq!(brake.held_by().unwrap(), None);
    brake.engage("power works in hall 2\n").unwrap();
    assert!(brake.engaged());
    assert_eq!(brake.held_by().unwrap().unwrap(), "power works in hall 2");
    let _state = StateDir::open(&path, &instance(), Timestamp::UNIX_EPOCH).unwrap();
    assert!(brake.release().unwrap());
    assert!(!brake.release().unwrap());
    assert!(!brake.engaged());
}

#[test]
fn a_brake_that_cannot_be_looked_at_counts_as_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(HoldFile::new(&file).engaged());
}
