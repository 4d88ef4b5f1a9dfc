//! The entries of `devices` in a run: a device's name, or a device made weaker to try a fleet that is not
//! there.
//!
//! `cpu`, `torch:cuda:0`; `cpu@0.5` computes at half the speed;
//! `throttled(cpu, speed=0.5, memory=4GiB, latency=20us, dies=9000)` says more. `dies`, `hangs` and
//! `corrupts` take the number of ops after which it happens; `slows` also takes the speed from then on, as in
//! `slows=9000:0.33`.

use crate::device::Device;
use crate::open;
use crate::throttled::{Fault, Throttle, Throttled};
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::DeviceSpec;
use std::sync::Arc;
use std::time::Duration;

/// A function that opens the device of an entry.
pub type Opener = Arc<dyn Fn(&str) -> Result<Device> + Send + Sync>;

/// An entry of `devices`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As it was written.
    pub text: String,
    /// The device's name, as in `device.name`.
    pub device: String,
    /// How much weaker the device is made, if at all.
    pub throttle: Option<Throttle>,
}

const HINT: &str = "an entry is a device such as cpu or torch:cuda:0, a weaker one such as cpu@0.5, or \
                    throttled(cpu, speed=0.5, memory=4GiB, latency=20us, dies=OPS, hangs=OPS, \
                    slows=OPS:SPEED)";

/// Splits a list such as `cpu, throttled(cpu, speed=0.5)` into the texts of its entries.
pub fn split(list: &str) -> Vec<String> {
    let mut depth = 0;
    let outside = |letter: char| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    };
    list.split(outside).map(|entry| entry.trim().to_owned()).collect()
}

/// Parses the entries of a list. Errors if a real device is named twice; throttled ones may be.
pub fn parse_all(texts: &[String]) -> Result<Vec<Entry>> {
    let entries: Vec<Entry> = texts.iter().map(|text| parse(text)).collect::<Result<_>>()?;
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.throttle.is_none()) {
        let twice = entries[..index]
            .iter()
            .position(|other| other.throttle.is_none() && chip(&other.device) == chip(&entry.device));
        if let Some(first) = twice {
            return Err(Problem::new(
                format!(
                    "devices names one accelerator twice: entry {} is `{}`, entry {} is `{}`",
                    first + 1,
                    entries[first].text,
                    index + 1,
                    entry.text
                ),
                "name it once; only emulated devices, such as cpu@0.5, may stand there several times",
            ));
        }
    }
    Ok(entries)
}

/// Parses one entry.
///
/// ```
/// let entry = lingot_device::entry::parse("throttled(cpu, speed=0.25, memory=4GiB)")?;
/// assert_eq!(entry.device, "cpu");
/// assert_eq!(entry.throttle.and_then(|throttle| throttle.memory_bytes), Some(4 << 30));
/// # Ok::<(), lingot_spec::problem::Problem>(())
/// ```
pub fn parse(text: &str) -> Result<Entry> {
    let text = text.trim();
    let wrong = |what: String| Problem::new(format!("`{text}` in devices: {what}"), HINT);
    if let Some(inside) = text.strip_prefix("throttled(") {
        let inside =
            inside.strip_suffix(')').ok_or_else(|| wrong("the closing parenthesis is missing".into()))?;
        let mut parts = inside.split(',').map(str::trim);
        let device = parts.next().unwrap_or_default();
        let mut throttle = Throttle::default();
        for part in parts {
            option(&mut throttle, part).map_err(wrong)?;
        }
        return named(text, device, Some(throttle)).map_err(wrong);
    }
    let Some((device, speed)) = text.split_once('@') else { return named(text, text, None).map_err(wrong) };
    let speed = self::speed(speed).map_err(wrong)?;
    named(text, device, Some(Throttle { speed, ..Throttle::default() })).map_err(wrong)
}

/// Returns a function that opens the devices of a run. The entries that compute on the processor share its
/// threads equally.
pub fn opener(run: &RunSpec, entries: &[Entry]) -> Opener {
    let on_cores = entries.iter().filter(|entry| chip(&entry.device) == "cpu").count().max(1);
    let all = match run.device.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads as usize,
    };
    let threads = (all / on_cores).max(1) as u32;
    let spec = run.device.clone();
    Arc::new(move |text| {
        let entry = parse(text)?;
        let name = chip(&entry.device).to_owned();
        let device = open::open(&DeviceSpec { name, threads, ..spec.clone() })?;
        Ok(match entry.throttle {
            None => device,
            Some(throttle) => Device::new(Throttled::new(device, text, throttle).0),
        })
    })
}

/// The name of a device that has another one too.
fn chip(device: &str) -> &str {
    if device == "cpu:0" { "cpu" } else { device }
}

fn named(text: &str, device: &str, throttle: Option<Throttle>) -> std::result::Result<Entry, String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || ":._-".contains(letter);
    if device.is_empty() {
        return Err("the device's name is missing".into());
    }
    if !device.chars().all(is_name) {
        return Err(format!("`{device}` is not the name of a device"));
    }
    Ok(Entry { text: text.to_owned(), device: device.to_owned(), throttle })
}

fn option(throttle: &mut Throttle, part: &str) -> std::result::Result<(), String> {
    let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not key=value"))?;
    match key.trim() {
        "speed" => throttle.speed = speed(value)?,
        "memory" => throttle.memory_bytes = Some(quantity(value, MEMORY)? as u64),
        "latency" => throttle.latency = Duration::from_secs_f64(quantity(value, TIME)?),
        "dies" => throttle.fault = Some((ops(value)?, Fault::Dies)),
        "hangs" => throttle.fault = Some((ops(value)?, Fault::Hangs)),
        "corrupts" => throttle.fault = Some((ops(value)?, Fault::Corrupts)),
        "slows" => {
            let (at, to) = value.split_once(':').ok_or_else(|| format!("slows={value} is not OPS:SPEED"))?;
            throttle.fault = Some((ops(at)?, Fault::Slows(speed(to)?)));
        }
        other => return Err(format!("unknown option `{other}`")),
    }
    Ok(())
}

fn speed(text: &str) -> std::result::Result<f64, String> {
    let speed: f64 = text.trim().parse().map_err(|_| format!("the speed `{text}` is not a number"))?;
    if speed > 0.0 && speed <= 1.0 {
        return Ok(speed);
    }
    Err(format!("the speed {speed} is not above 0 and at most 1"))
}

fn ops(text: &str) -> std::result::Result<u64, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is not a number of ops"))
}

type Units = &'static [(&'static str, f64)];

const MEMORY: Units =
    &[("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("TiB", 1_099_511_627_776.0)];
const TIME: Units = &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];

fn quantity(text: &str, units: Units) -> std::result::Result<f64, String> {
    let text = text.trim();
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let number = found.and_then(|(number, factor)| Some(number.trim().parse::<f64>().ok()? * factor));
    let names: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
    number
        .filter(|number| (0.0..1e15).contains(number))
        .ok_or_else(|| format!("`{text}` is not a number with one of the units {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_how_much_weaker_a_device_is() {
        assert_eq!(parse("torch:cuda:0").unwrap().throttle, None);
        assert_eq!(parse("cpu@0.5").unwrap().throttle.unwrap().speed, 0.5);
        let whole = parse("throttled(cpu:0, speed=0.25, memory=4GiB, latency=20us, slows=7:0.1)").unwrap();
        let throttle = whole.throttle.unwrap();
        assert_eq!((whole.device.as_str(), throttle.speed), ("cpu:0", 0.25));
        assert_eq!(throttle.memory_bytes, Some(4 << 30));
        assert_eq!(throttle.latency, Duration::from_micros(20));
        assert_eq!(throttle.fault, Some((7, Fault::Slows(0.1))));
    }

    #[test]
    fn a_list_is_cut_outside_of_parentheses() {
        assert_eq!(split("cpu, throttled(cpu, speed=0.5),x"), ["cpu", "throttled(cpu, speed=0.5)", "x"]);
    }

    #[test]
    fn an_error_says_what_is_wrong_with_an_entry() {
        for (text, words) in [
            ("cpu@2", "2 is not above 0"),
            ("cpu@0", "0 is not above 0"),
            ("cpu@fast", "`fast` is not a number"),
            ("", "name is missing"),
            ("throttled(cpu", "closing parenthesis"),
            ("throttled(cpu, speed)", "not key=value"),
            ("throttled(cpu, colour=3)", "unknown option `colour`"),
            ("throttled(cpu, memory=4)", "KiB"),
            ("throttled(cpu, slows=4)", "OPS:SPEED"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.problem.contains(words) && !error.hint.is_empty(), "{text}: {error}");
        }
    }

    #[test]
    fn one_accelerator_cannot_stand_in_a_list_twice_but_emulated_ones_can() {
        let list = |texts: &[&str]| parse_all(&texts.iter().map(|&text| text.into()).collect::<Vec<_>>());
        assert!(list(&["cpu@0.5", "cpu@0.5", "cpu"]).is_ok());
        let error = list(&["cpu", "cpu@0.5", "cpu:0"]).unwrap_err();
        assert!(error.problem.contains("entry 1") && error.problem.contains("entry 3"), "{error}");
    }
}
