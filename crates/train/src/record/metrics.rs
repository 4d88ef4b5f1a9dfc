//! `metrics.jsonl`: the scalars of TensorBoard as one JSON object a line, for trackers that read no event
//! files. Each line has the step and the time in the words of Weights & Biases (`_step`, `_timestamp`) and of
//! trackio (`step`, `timestamp`).

use super::log::cut;
use lingot_spec::event::Step;
use lingot_spec::problem::{Problem, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file in a run's folder, without what it says about steps after `resume_step`.
    pub fn open(folder: &Path, resume_step: u64) -> Result<MetricsFile> {
        let path = folder.join("metrics.jsonl");
        cut(&path, resume_step)?;
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|error| Problem::io("open", &path, &error))?;
        Ok(MetricsFile { path, file })
    }

    /// Adds scalars of one step. A value that is not finite has no place in JSON and is left out.
    pub fn scalars(&mut self, unix_time_s: f64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut row = Map::new();
        row.insert("_step".into(), step.into());
        row.insert("_timestamp".into(), json!(unix_time_s));
        row.insert("step".into(), step.into());
        row.insert("timestamp".into(), iso_8601(unix_time_s).into());
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        row.extend(finite.map(|(name, value)| ((*name).to_owned(), json!(value))));
        // One write for each line, so that a reader never sees half of one.
        let line = format!("{}\n", Value::Object(row));
        self.file.write_all(line.as_bytes()).map_err(|error| Problem::io("write", &self.path, &error))
    }
}

/// The scalars of a step, by the names that trackers show.
pub(super) fn of_step(step: &Step) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("train/loss", step.loss),
        ("train/main_loss", step.main_loss),
        ("train/balance_loss", step.balance_loss),
        ("train/z_loss", step.z_loss),
        ("train/rate", step.rate),
        ("train/gradient_norm", step.gradient_norm),
        ("speed/tokens_per_s", step.tokens_per_s),
    ];
    values.extend(step.mtp_loss.map(|loss| ("train/mtp_loss", loss)));
    values.extend(step.money.map(|money| ("money/spent", money)));
    values
}

/// The moment in UTC, to the millisecond: `2026-11-26T20:15:00.250Z`.
fn iso_8601(unix_time_s: f64) -> String {
    let millis = (unix_time_s.max(0.0) * 1000.0) as u64;
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    // Days since 1970 to a date by whole cycles of 400 years, which begin in March (Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let [hours, minutes, seconds] =
        [in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60].map(|part| format!("{part:02}"));
    format!("{year:04}-{month:02}-{day:02}T{hours}:{minutes}:{seconds}.{:03}Z", in_day % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_the_date_of_the_calendar() {
        for (unix_time_s, wanted) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199.25, "2024-02-29T23:59:59.250Z"),
            (1_709_251_200.0, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso_8601(unix_time_s), wanted);
        }
    }

    #[test]
    fn a_resumed_file_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |resume_step: u64, steps: std::ops::RangeInclusive<u64>| {
            let mut file = MetricsFile::open(folder.path(), resume_step).unwrap();
            for step in steps {
                file.scalars(1e9, step, &[("train/loss", step as f64), ("bad", f64::NAN)]).unwrap();
            }
        };
        write(0, 1..=7);
        write(4, 5..=9);
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps: Vec<u64> = rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=9).collect::<Vec<u64>>());
        assert!(rows.iter().all(|row| row["_step"] == row["step"] && row.get("bad").is_none()));
        // A run that begins anew leaves nothing of the one before.
        write(0, 1..=1);
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
    }
}
