//! `lingot devices`: what can compute here.

use crate::failure::Result;
use crate::json;
use crate::terminal::bytes;
use lingot_spec::run::DeviceSpec;
use lingot_train::devices;
use serde::Serialize;

/// List the devices of this machine.
///
/// The name is what `device.name` in RUN.toml takes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lingot devices\n  lingot devices --json")]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    devices: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    name: String,
    description: String,
    threads: usize,
    /// 0 where nobody knows.
    memory_bytes: u64,
}

/// The backends that are built in.
const NAMES: [&str; 2] = ["cpu", "reference"];

pub fn run(args: &Args) -> Result<()> {
    let mut devices = Vec::new();
    for name in NAMES {
        let device = devices::open(&DeviceSpec { name: name.into(), ..DeviceSpec::default() })?;
        let info = device.info();
        devices.push(Found {
            name: info.name.clone(),
            description: info.description.clone(),
            threads: info.threads,
            memory_bytes: info.memory_bytes,
        });
    }
    if args.json {
        return json::print(&Report { devices });
    }
    let mut text = String::new();
    for device in devices {
        let memory = if device.memory_bytes == 0 {
            String::new()
        } else {
            format!(", {}", bytes(device.memory_bytes))
        };
        text += &format!("{:<10} {}{memory}\n", device.name, device.description);
    }
    json::write(&text);
    Ok(())
}
