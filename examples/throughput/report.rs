//! The tables that the README quotes, and the same as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::meter::Outcome;

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Ratio to the baseline.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtMost(f64),
    /// Nothing: the row is for the reader.
    None,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it is compared with, measured in the same run.
    pub(crate) baseline: Option<f64>,
    pub(crate) baseline_name: Option<&'static str>,
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<String>,
    pub(crate) met: Option<bool>,
}

/// A run behind the rows.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) runs: Vec<Run>,
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn row(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        baseline: Option<(&'static str, f64)>,
        goal: Goal,
    ) {
        let ratio = baseline.map(|(_, baseline)| value / baseline);
        let (text, met) = match (goal, ratio) {
            (Goal::RatioAtLeast(least), Some(ratio)) => (Some(format!("≥ {least:.2} x")), Some(ratio >= least)),
            (Goal::RatioAtMost(most), Some(ratio)) => (Some(format!("≤ {most:.2} x")), Some(ratio <= most)),
            (Goal::AtMost(most), _) => (Some(format!("≤ {most} {unit}")), Some(value <= most)),
            _ => (None, None),
        };
        self.rows.push(Row {
            name: name.into(),
            value,
            unit,
            baseline: baseline.map(|(_, baseline)| baseline),
            baseline_name: baseline.map(|(name, _)| name),
            ratio,
            goal: text,
            met,
        });
    }

    pub(crate) fn run(&mut self, name: impl Into<String>, outcome: &Outcome) {
        self.runs.push(Run { name: name.into(), outcome: outcome.clone() });
    }

    /// Both tables in Markdown.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}\n\n", self.machine);
        out.push_str("| name | value | unit | baseline | ratio | goal | met |\n|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let baseline = row.baseline.map(|value| format!("{} {}", row.baseline_name.unwrap_or(""), short(value)));
            let ratio = row.ratio.map(|ratio| format!("{ratio:.2}"));
            let met = row.met.map(|met| if met { "yes" } else { "no" });
            let cells =
                [baseline.as_deref(), ratio.as_deref(), row.goal.as_deref(), met].map(|cell| cell.unwrap_or(""));
            let _ = writeln!(out, "| {} | {} | {} | {} |", row.name, short(row.value), row.unit, cells.join(" | "));
        }
        out.push_str(
            "\n| run | records | k records/s | CPU µs/record | emit p50 µs | p99 µs | peak RSS MiB | lost |\n",
        );
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for Run { name, outcome } in &self.runs {
            let emit = [outcome.p50, outcome.p99].map(|ns| if ns > 0.0 { short(ns / 1e3) } else { String::new() });
            let numbers = [outcome.rate() / 1e3, outcome.cpu()].map(short);
            let rss = outcome.peak_rss_mib;
            let cells = [&numbers[0], &numbers[1], &emit[0], &emit[1], &short(rss)].map(String::as_str).join(" | ");
            let _ = writeln!(out, "| {name} | {} | {cells} | {} |", outcome.records, outcome.lost);
        }
        for note in &self.notes {
            let _ = write!(out, "\n{note}\n");
        }
        out
    }

    pub(crate) fn lost(&self) -> i64 {
        self.runs.iter().map(|run| run.outcome.lost.max(0)).sum()
    }
}

/// Three digits are as many as a noisy machine deserves.
fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
