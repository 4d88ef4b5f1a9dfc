//! TensorBoard event files: records with checksums around a few hand-encoded protocol-buffer fields.
//!
//! ```text
//! record   length u64 | masked crc32c of the length | payload | masked crc32c of the payload
//! Event    1 wall_time double  2 step int64  3 file_version string  5 summary  7 session_log
//! Summary  1 value { 1 tag string  2 simple_value float }
//! ```

use lingot_formats::disk::{self, Call};
use lingot_spec::problem::{Problem, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One event file, open for appending.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Makes a new event file in `folder`. Each process has its own; TensorBoard reads them in the order of
    /// their names as one run, and forgets what an earlier file says about steps after `resume_step`.
    pub fn create(folder: &Path, unix_time_s: f64, resume_step: u64) -> Result<EventFile> {
        let made = disk::call(Call::Create, folder, || fs::create_dir_all(folder));
        made.map_err(|error| Problem::io("make the folder", folder, &error))?;
        let (path, file) = create_new(folder, unix_time_s as u64)?;
        let mut events = EventFile { path, file };
        let mut version = Vec::new();
        double(&mut version, 1, unix_time_s);
        bytes(&mut version, 3, b"brain.Event:2");
        events.record(&version)?;
        if resume_step > 0 {
            events.forget_after(unix_time_s, resume_step)?;
        }
        Ok(events)
    }

    /// Adds scalars of one step.
    pub fn scalars(&mut self, unix_time_s: f64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = Vec::new();
            bytes(&mut one, 1, tag.as_bytes());
            float(&mut one, 2, *value as f32);
            bytes(&mut summary, 1, &one);
        }
        let mut event = Vec::new();
        double(&mut event, 1, unix_time_s);
        number(&mut event, 2, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    /// A session that starts at a step makes TensorBoard drop what it has from that step on.
    fn forget_after(&mut self, unix_time_s: f64, step: u64) -> Result<()> {
        const START: u64 = 1;
        let mut session = Vec::new();
        number(&mut session, 1, START);
        let mut event = Vec::new();
        double(&mut event, 1, unix_time_s);
        number(&mut event, 2, step + 1);
        bytes(&mut event, 7, &session);
        self.record(&event)
    }

    fn record(&mut self, payload: &[u8]) -> Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(payload.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_checksum(&length).to_le_bytes());
        record.extend_from_slice(payload);
        record.extend_from_slice(&masked_checksum(payload).to_le_bytes());
        let written = disk::call(Call::Write, &self.path, || self.file.write_all(&record));
        written.map_err(|error| Problem::io("write", &self.path, &error))
    }
}

/// The counter keeps two processes of the same second apart, in order.
fn create_new(folder: &Path, unix_time_s: u64) -> Result<(PathBuf, File)> {
    let mut counter = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{unix_time_s:010}.{counter:04}.lingot"));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => counter += 1,
            Err(error) => return Err(Problem::io("create", &path, &error)),
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, (field << 3) | wire_type);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    key(out, field, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// The record format rotates the checksum and adds a constant, so that checksums of checksums stay useful.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |sum: u32, &byte| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8))
}

const TABLE: [u32; 256] = table();

/// The remainders of all bytes by the Castagnoli polynomial, bits reversed.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ ((remainder & 1) * 0x82f6_3b78);
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of the CRC catalogue and the vectors of RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn two_files_of_the_same_second_are_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 1e9, 0).unwrap();
        let second = EventFile::create(folder.path(), 1e9, 5).unwrap();
        assert!(first.path < second.path);
    }
}
