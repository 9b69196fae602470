//! What people see of the work: logs, the report's commits, and a change as a review reads it.

use std::collections::BTreeMap;

use expect_test::expect;
use git2::{BranchType, Repository};

use crate::sandbox::{BRANCH, Sandbox};
use crate::shop::{Shop, archive};

fn shop(folder: &Sandbox) -> Shop {
    Shop::around(&archive(&folder.path("")))
}

#[test]
fn a_run_logs_the_facts_of_each_vm_and_answers_nothing() {
    let folder = Sandbox::new();
    let shop = shop(&folder);
    let ran = shop.ferry(&["run", "--once", "--log", "info"]).expect(0);
    assert_eq!(ran.stdout, "");
    for vm in ["web01", "web02"] {
        let span = format!("vm{{vm={vm} plan=shop run=shop-1#1}}: fact fact=\"Completed\"");
        assert!(ran.stderr.contains(&span), "{}", ran.stderr);
    }
    let said: Vec<&str> = ran.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert!(said.iter().all(|line| !line.contains('\u{1b}')), "{said:?}");
    let told = |line: &&&str| line.contains("shop/web01: ") && !line.contains(" of ");
    let steps: Vec<&str> =
        said.iter().filter(told).filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    let (last, steps) = steps.split_last().unwrap();
    assert_eq!(steps, ["begin", "create disks", "copy", "create the VM"]);
    assert!(last.starts_with("migrated to web01 in "), "{last}");
    assert!(said.last().unwrap().starts_with("2 migrated in "), "{said:?}");
    let again = shop.ferry(&["run", "--once", "--log", "info", "--log-format", "json"]).expect(0);
    let logged: Vec<serde_json::Value> =
        again.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(logged.len() + 1, again.stderr.lines().count());
    assert_eq!(logged[0]["message"], "following");
    assert!(again.stderr.ends_with("nothing is left to do\n"), "{}", again.stderr);
    assert_eq!(shop.ferry(&["run", "--once"]).expect(0).stderr, "nothing is left to do\n");
    shop.ferry(&["run", "--once", "--log", "loud"]).expect(64);
}

#[test]
fn a_short_migration_makes_few_commits_and_leaves_nothing_unsaid() {
    let folder = Sandbox::new();
    let shop = shop(&folder);
    shop.ferry(&["run", "--once"]).expect(0);
    let records = shop.journal();
    let took = records.last().unwrap().at.duration_since(records[0].at).as_secs();
    let repository = Repository::open(shop.sandbox.path("plans")).unwrap();
    let mut commits = repository.revwalk().unwrap();
    commits.push_ref("refs/heads/ferry/status").unwrap();
    let commits = i64::try_from(commits.count()).unwrap();
    assert!(commits <= 2 + took / 2, "{commits} commits in {took} s");
    let page = &shop.plans.files("ferry/status")["test/plans/shop.md"];
    assert!(page.starts_with("# shop: Completed\n\n**2 of 2 migrated** · 160.0 MiB"), "{page}");
    let shown = shop.ferry(&["status"]).expect(0).stdout;
    assert!(shown.contains("✓ Completed  shop/web01") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn what_is_broken_as_a_whole_is_reported() {
    let folder = Sandbox::new();
    let shop = shop(&folder);
    let mut files = shop.manifests();
    files.insert("broken.yaml", "kind: [".to_owned());
    shop.plans.commit(&files, "broken");
    shop.ferry(&["run", "--once"]);
    let report = shop.plans.files("ferry/status");
    let page = &report["test/README.md"];
    assert!(page.contains("- **Critical** broken.yaml:1:7: "), "{page}");
    let repository = shop.sandbox.path("plans").display().to_string();
    let shown = shop.ferry(&["status", "--repo", &repository]).expect(0).stdout;
    assert!(shown.starts_with("! Critical: broken.yaml:1:7: "), "{shown}");
}

/// Commits files and moves them to a branch that starts there; the watched branch stays.
fn propose(shop: &Shop, files: &BTreeMap<&'static str, String>, branch: &str) {
    let before = shop.plans.head().unwrap();
    let proposed = shop.plans.commit(files, branch);
    let repository = Repository::open(shop.sandbox.path("plans")).unwrap();
    let commit = |id: &str| repository.find_commit(id.parse().unwrap()).unwrap();
    repository.branch(branch, &commit(&proposed), false).unwrap();
    assert!(repository.find_branch(branch, BranchType::Local).is_ok());
    repository.reset(commit(&before).as_object(), git2::ResetType::Hard, None).unwrap();
    assert_eq!(shop.plans.head().unwrap(), before);
}

#[test]
fn a_review_reads_what_a_branch_changes() {
    let folder = Sandbox::new();
    let shop = shop(&folder);
    let mut files = shop.manifests();
    let plan = files["plan.yaml"].clone();
    // One entry goes, and a plan comes that moves it elsewhere.
    files.insert("plan.yaml", plan.replace(", { name: web02 }", ""));
    let added = plan.replace("name: shop", "name: later").replace("{ name: web01 }, ", "");
    let migration = files["migration.yaml"].replace("shop", "later");
    files.insert("later.yaml", format!("{added}---\n{migration}"));
    propose(&shop, &files, "later");
    // A provider that is changed is not looked at before the merge.
    let mut files = shop.manifests();
    let providers = files["providers.yaml"].replace("/vms }", "/vms/lab }");
    files.insert("providers.yaml", providers);
    propose(&shop, &files, "elsewhere");
    let shown = |branch: &str, code| {
        let range = format!("{BRANCH}..{branch}");
        let ran = shop.ferry(&["diff", &range, "--output", "markdown"]).expect(code);
        let id = shop.plans.tip(branch).unwrap();
        let text = ran.stdout.replace(&id[..12], "COMMIT").replace(&id[..10], "COMMIT");
        // Digests cover the folder's path, which is another one each time.
        let row = |line: &str| match line.strip_suffix(" |").and_then(|line| line.rsplit_once(" |"))
        {
            Some((row, digest)) if digest.len() == 13 => format!("{row} | DIGEST |\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(row).collect::<String>()
    };
    expect![[r#"
        **Plan: 1 migrate · 1 undone (commit COMMIT, instance test)**

        Data: 4.1 MiB to copy (32.0 MiB provisioned) · ≈ 1 s one after another (default 110.0 MiB/s)

        | | VM | what | copy | target | estimate | cutover | risk | why | digest |
        |---|---|---|---|---|---|---|---|---|---|
        | `-` | shop/web02 | stop managing; what stands on the target stays |  | lab/web02 |  |  |  |  | DIGEST |
        | `+` | later/web02 | migrate cold | 4.1 MiB of 32.0 MiB | lab/web02 | ≈ 1 s |  | low |  | DIGEST |
    "#]].assert_eq(&shown("later", 2));
    expect![[r#"
        **Plan: 0 migrate · 2 unknown (commit COMMIT, instance test)**

        Data: nothing to copy

        - after the merge: Provider \`lab\` changes

        | | VM | what | copy | target | estimate | cutover | risk | why | digest |
        |---|---|---|---|---|---|---|---|---|---|
        | `?` | shop/web01 | unknown (changes targetSite) |  | lab/web01 |  |  |  | lab is looked at after the merge: COMMIT changes or adds it | DIGEST |
        | `?` | shop/web02 | unknown (changes targetSite) |  | lab/web02 |  |  |  | lab is looked at after the merge: COMMIT changes or adds it | DIGEST |
    "#]].assert_eq(&shown("elsewhere", 2));
    assert_eq!(shop.ferry(&["diff", "main..main"]).expect(0).stderr, "");
}
