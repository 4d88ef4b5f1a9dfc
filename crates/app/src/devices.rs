//! `lingot devices`: what can compute on this machine, and why the rest cannot.

use crate::failure::Result;
use crate::output;
use crate::terminal::bytes;
use lingot_device::open;
use serde::Serialize;

/// List the devices of this machine
///
/// `device.name` in RUN.toml and `--device` take these names. Devices whose name begins with
/// `torch:` are found through the PyTorch that LINGOT_TORCH or the active Python environment
/// names; vendor libraries listed in LINGOT_TORCH_EXTENSION are opened first.
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
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    devices: Vec<Found>,
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Found {
    name: String,
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

pub fn run(args: &Args) -> Result<()> {
    let mut report = Report { devices: vec![], missing: vec![] };
    for (name, found) in open::survey() {
        match found {
            Ok(open::Found { info, routes }) => report.devices.push(Found {
                name,
                description: info.description,
                threads: info.threads,
                memory_bytes: info.memory_bytes,
                routes,
            }),
            Err(error) => report.missing.push(Missing { name, reason: error.problem }),
        }
    }
    if args.json {
        return output::json(&report);
    }
    output::result(&text(&report, args.verbose))
}

fn text(report: &Report, is_verbose: bool) -> String {
    let mut text = String::new();
    for Found { name, description, memory_bytes, routes, .. } in &report.devices {
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
