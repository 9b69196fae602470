//! The pages of a report for people, in Markdown: one for the instance, one for each plan.

use std::fmt::Write as _;

use crate::domain::text::{file_name, markdown};
use crate::domain::unit::{Bytes, lasting};
use crate::manifest::diagnostic::Severity;
use crate::manifest::document::PlanType;
use crate::preview::seconds_last;
use crate::status::document::{
    ConcernReport, InstanceReport, PlanLine, PlanReport, Totals, VmLine, VmReport, Word,
};
use crate::status::pipeline::measured;

/// Renders the instance's page, which a forge shows where its folder is opened.
pub(super) fn instance(report: &InstanceReport) -> String {
    let InstanceReport {
        api_version: _,
        kind: _,
        instance,
        observed_commit,
        held,
        plans,
        findings,
    } = report;
    let mut page = format!("# {}\n\n", markdown(instance.as_str()));
    let _ = writeln!(page, "At commit {}.", markdown(observed_commit.as_str()));
    if let Some(held) = held {
        let _ = write!(page, "\n> **Held:** {}\n", markdown(held));
    }
    if !findings.is_empty() {
        page.push_str("\n## What is wrong with manifests\n\n");
        for finding in findings {
            page.push_str(&bullet(finding));
        }
    }
    if !plans.is_empty() {
        page.push_str("\n## Plans\n\n| | plan | status | VMs |\n|---|---|---|---|\n");
    }
    for PlanLine { name, status, totals } in plans {
        let _ = writeln!(
            page,
            "| {} | [{}](plans/{}.md) | {} | {} |",
            status.symbol(),
            markdown(name),
            // A percent sign of the file's name is one of the path here, not the beginning of an escape.
            file_name(name).replace('%', "%25"),
            status.as_str(),
            told(totals)
        );
    }
    let words: Vec<Word> = plans.iter().map(|plan| plan.status).collect();
    page.push_str(&legend(&words));
    page
}

/// Renders a plan's page. The sections speak of VMs that need a person.
pub(super) fn plan(report: &PlanReport, sections: &[&str]) -> String {
    let PlanReport {
        api_version: _,
        kind: _,
        metadata,
        instance,
        description,
        source,
        believed,
        target,
        plan_type,
        status,
        totals,
        conditions: _,
        vms,
    } = report;
    let mut page = format!("# {}: {}\n\n", markdown(&metadata.name), status.as_str());
    if let Some(description) = description {
        let _ = write!(page, "{}\n\n", markdown(description));
    }
    let _ = writeln!(page, "**{}** · {}", told(totals), sizes(totals));
    let _ = writeln!(
        page,
        "\n{} from {} to {} · instance {}",
        match plan_type {
            PlanType::Cold => "Cold,",
            PlanType::Warm => "Warm,",
        },
        markdown(source),
        markdown(target),
        markdown(instance.as_str())
    );
    if let Some(url) = believed {
        let _ = writeln!(
            page,
            "\n> **Unchecked:** whoever answers at {} is believed (`tls.insecureSkipVerify`)",
            markdown(url)
        );
    }
    if vms.is_empty() {
        return page;
    }
    page.push_str(
        "\n| | VM | status | on the target | provisioned / written | took | estimate | concerns | waits for |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for vm in vms {
        page.push_str(&row(vm));
    }
    let words: Vec<Word> = vms.iter().map(|vm| vm.status).collect();
    page.push_str(&legend(&words));
    for section in sections {
        page.push_str(section);
    }
    page
}

fn row(vm: &VmLine) -> String {
    let VmLine {
        name,
        status,
        attempt,
        step,
        waits,
        target,
        provisioned,
        written,
        estimate_seconds,
        took_ms,
        concerns,
        digest: _,
    } = vm;
    let bytes = |bytes: &Option<Bytes>| bytes.map_or_else(|| "–".to_owned(), |it| it.to_string());
    let sizes = match (provisioned, written) {
        (None, None) => String::new(),
        (provisioned, written) => format!("{} / {}", bytes(provisioned), bytes(written)),
    };
    let mut state = status.as_str().to_owned();
    if let Some(step) = step {
        let _ = write!(state, ", {}", step.as_str());
    }
    if let Some(attempt) = attempt.filter(|attempt| *attempt > 1) {
        let _ = write!(state, ", attempt {attempt}");
    }
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        status.symbol(),
        markdown(name),
        state,
        markdown(target.as_ref().map_or("", |target| target.as_str())),
        sizes,
        took_ms.map_or_else(String::new, |took| lasting(measured(took))),
        estimate_seconds.map_or_else(String::new, |last| format!("≈ {}", seconds_last(last))),
        if *concerns == 0 { String::new() } else { concerns.to_string() },
        markdown(waits.as_deref().unwrap_or_default()),
    )
}

/// Renders what a person has to know of a VM that does not go its way; nothing for the others.
pub(super) fn section(report: &VmReport) -> String {
    let warnings = !report.conversion_warnings.is_empty();
    let needs = match report.status {
        Word::NotReady | Word::Failed => true,
        Word::Running | Word::Ready => report.remedy.is_some(),
        Word::Completed => warnings,
        Word::Canceled | Word::Archived => false,
    };
    let to_start = super::vm::to_start(report);
    if !needs && to_start.is_none() {
        return String::new();
    }
    let name = markdown(&report.metadata.name);
    let mut section = format!("\n## {name}: {}\n\n", report.status.as_str());
    // Where findings block, they say it better.
    let blocked = report.concerns.iter().any(|concern| concern.category == Severity::Critical);
    let why = report.waits.as_ref().filter(|_| !blocked);
    for (label, text) in
        [("why", why), ("to do", report.remedy.as_ref()), ("result", report.result.as_ref())]
    {
        if let Some(text) = text {
            let _ = writeln!(section, "- **{label}:** {}", markdown(text));
        }
    }
    for warning in &report.conversion_warnings {
        let _ = writeln!(section, "- the converter warned: {}", markdown(warning));
    }
    if let Some(command) = to_start {
        let _ = writeln!(section, "- **not started:** run {}", markdown(command));
    }
    for concern in &report.concerns {
        section.push_str(&bullet(concern));
    }
    section
}

fn bullet(concern: &ConcernReport) -> String {
    let ConcernReport { id, category, assessment, remedy, place } = concern;
    let mut line = format!(
        "- **{category}** {}: {} ({})",
        markdown(&place.to_string()),
        markdown(assessment),
        markdown(id)
    );
    if let Some(remedy) = remedy {
        let _ = write!(line, " … **to do:** {}", markdown(remedy));
    }
    line.push('\n');
    line
}

/// Says how many VMs stand how.
pub(super) fn told(totals: &Totals) -> String {
    let Totals { vms, migrated, moving, ready, not_ready, failed, resting, .. } = totals;
    let mut parts = vec![format!("{migrated} of {vms} migrated")];
    let counts = [
        (moving, "moving"),
        (ready, "ready"),
        (not_ready, "not ready"),
        (failed, "failed"),
        (resting, "canceled or archived"),
    ];
    for (count, words) in counts {
        if *count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    parts.join(" · ")
}

fn sizes(totals: &Totals) -> String {
    let Totals { provisioned, written, .. } = totals;
    format!("{provisioned} provisioned, {written} written")
}

/// Explains the signs that were used.
fn legend(used: &[Word]) -> String {
    let parts: Vec<String> = Word::ALL
        .iter()
        .filter(|word| used.contains(word))
        .map(|word| format!("{} {}", markdown(word.symbol()), word.as_str()))
        .collect();
    if parts.is_empty() { String::new() } else { format!("\n{}\n", parts.join(" · ")) }
}
