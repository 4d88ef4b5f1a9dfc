//! `--json`: one object on standard output. `docs/json.md` lists the keys.

use crate::failure::{Failure, Result};
use serde::Serialize;
use std::io::Write;

/// Prints one object. A reader that hung up is no failure.
pub fn print(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::input(format!("cannot write JSON: {error}"), "this is a bug; report it"))?;
    write(&format!("{text}\n"));
    Ok(())
}

/// Writes to standard output; a closed pipe ends the output, not the program.
pub fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
