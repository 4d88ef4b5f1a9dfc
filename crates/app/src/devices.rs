//! `lingot devices`: what can compute on this machine, and why the rest cannot.

use crate::failure::Result;
use crate::output;
use crate::probe;
use crate::terminal::bytes;
use lingot_device::{DeviceInfo, open};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// List the devices of this machine
///
/// `device.name` in RUN.toml and `--device` take these names. Devices whose name begins with
/// `torch:` are found through the PyTorch that LINGOT_TORCH or the active Python environment
/// names; vendor libraries listed in LINGOT_TORCH_EXTENSION are opened first. Each is looked for
/// in a process of its own, so that a library that crashes or hangs is told and harms no other.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  lingot devices\n  lingot devices -v\n  \
                  LINGOT_TORCH_EXTENSION=/opt/npu/lib/libtorch_npu.so lingot devices --json"
)]
pub struct Args {
    /// Also print how ops reach each device, and why other devices were not found
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Give each device N seconds to open
    #[arg(long, value_name = "N", default_value_t = probe::LIMIT_S)]
    timeout_s: u32,
    /// Open this device alone, in this process
    #[arg(long, value_name = "NAME", hide = true)]
    probe: Option<String>,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    devices: Vec<Device>,
    missing: Vec<Missing>,
}

/// A device that could be opened.
#[derive(Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    description: String,
    threads: usize,
    /// 0 where it is unknown.
    memory_bytes: u64,
    routes: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    name: String,
    reason: String,
}

impl From<open::Found> for Device {
    fn from(open::Found { info, routes }: open::Found) -> Device {
        let DeviceInfo { name, description, memory_bytes, threads } = info;
        Device { name, description, threads, memory_bytes, routes }
    }
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.probe {
        return output::json(&probe::answer(name));
    }
    let mut report = Report { devices: vec![], missing: vec![] };
    for (name, found) in probe::survey(Duration::from_secs(args.timeout_s.into()))? {
        match found {
            Ok(device) => report.devices.push(device),
            Err(reason) => report.missing.push(Missing { name, reason }),
        }
    }
    if args.json {
        return output::json(&report);
    }
    output::result(&text(&report, args.verbose))
}

fn text(report: &Report, is_verbose: bool) -> String {
    let mut text = String::new();
    for Device { name, description, memory_bytes, routes, .. } in &report.devices {
        let memory = if *memory_bytes == 0 { String::new() } else { format!(", {}", bytes(*memory_bytes)) };
        text += &format!("{name:<14} {description}{memory}\n");
        if is_verbose {
            text.extend(routes.iter().map(|route| format!("{:<14}   {route}\n", "")));
        }
    }
    if !is_verbose {
        return text;
    }
    text += "\nnot found:\n";
    for Missing { name, reason } in &report.missing {
        let reason = reason.strip_prefix(&format!("{name}: ")).unwrap_or(reason);
        text += &format!("{name:<22} {reason}\n");
    }
    text
}
