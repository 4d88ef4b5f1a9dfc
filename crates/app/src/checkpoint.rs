//! Finds what a path on the command line means: a checkpoint, its run, and its tokenizer.

use crate::failure::{Failure, Result};
use crate::output;
use clap::Args;
use lingot_data::Tokenizer;
use lingot_device::Device;
use lingot_spec::RunSpec;
use lingot_spec::manifest::Manifest;
use lingot_spec::run::DeviceSpec;
use lingot_train::checkpoint::{manifest, newest};
use lingot_train::{config, data};
use std::path::{Component, Path, PathBuf};

/// The options of commands that compute on one device.
#[derive(Args)]
pub struct DeviceArgs {
    /// Compute on this device; `lingot devices` lists those of this machine
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    pub threads: u32,
}

impl DeviceArgs {
    pub fn open(&self) -> Result<Device> {
        open_device(&DeviceSpec { name: self.device.clone(), threads: self.threads, ..DeviceSpec::default() })
    }
}

/// Opens a device. A failure to do so has an exit code of its own.
pub fn open_device(spec: &DeviceSpec) -> Result<Device> {
    lingot_device::open::open(spec)
        .map_err(|error| Failure { code: crate::failure::Code::Device, ..error.into() })
}

/// A checkpoint on disk.
pub struct Found {
    pub path: PathBuf,
    pub manifest: Manifest,
    /// The run that made it; none for an imported or merged model.
    pub run: Option<RunSpec>,
}

/// Finds the checkpoint that a path names, or the newest one of the run's folder that it names.
pub fn find(path: &Path) -> Result<Found> {
    if !path.exists() {
        return Err(Failure::input(
            format!("there is no {}", path.display()),
            "name a run's folder, such as out/quickstart, or a checkpoint in it",
        ));
    }
    let path = newest::resolve(path)?;
    let manifest = manifest::read(&path)?;
    let text = &manifest.head.run;
    let run = (!text.is_empty()).then(|| config::parse(text, Path::new("run.toml"), &[])).transpose()?;
    Ok(Found { path, manifest, run: run.map(|resolved| resolved.run) })
}

impl Found {
    /// The folder that holds `tokenizer.json`: the checkpoint's own, its run's, or where the run kept its
    /// data.
    pub fn tokenizer_folder(&self) -> Option<PathBuf> {
        let own = self.path.clone();
        let mut folders = std::iter::once(own).chain(self.data_folders());
        folders.find(|folder| folder.join("tokenizer.json").is_file())
    }

    /// The folder of the run's shards, where it is there.
    pub fn data_folder(&self) -> Option<PathBuf> {
        self.data_folders().into_iter().find(|folder| folder.join("data.json").is_file())
    }

    /// Where the data of the run may lie, the likeliest place first.
    fn data_folders(&self) -> Vec<PathBuf> {
        let Some(folder) = self.path.parent().and_then(Path::parent) else { return Vec::new() };
        let mut folders = vec![folder.join("data")];
        if let Some(run) = &self.run {
            let own = data::data_folder(run);
            folders.extend(start_of(folder, Path::new(&run.folder)).map(|start| start.join(&own)));
            folders.push(own);
        }
        folders
    }

    /// Loads the tokenizer that is given, or else the one that belongs to the checkpoint.
    pub fn tokenizer(&self, given: Option<&Path>) -> Result<Tokenizer> {
        let found = self.tokenizer_folder().map(|folder| folder.join("tokenizer.json"));
        let path = given.map(Path::to_owned).or(found).ok_or_else(|| {
            Failure::input(
                format!("no tokenizer.json belongs to {}", self.path.display()),
                "give it with --tokenizer; it is looked for in the checkpoint and in its run's data folder",
            )
        })?;
        let tokenizer = Tokenizer::load(&path)?;
        self.check_tokenizer(&path, given.is_some())?;
        Ok(tokenizer)
    }

    /// Errors if the tokenizer that was found is not the one that the checkpoint was trained with: its
    /// numbers would mean other words. One that the user gives is used, and a note says so.
    fn check_tokenizer(&self, path: &Path, is_given: bool) -> Result<()> {
        let Some(trained) = self.manifest.head.data.as_ref().map(|data| &data.tokenizer) else {
            return Ok(());
        };
        let found = lingot_data::hash_of(path)?;
        if found == *trained {
            return Ok(());
        }
        let short = |hash: &str| hash.get(..16).unwrap_or(hash).to_owned();
        let problem = format!(
            "{} is not the tokenizer that {} was trained with: its BLAKE3 is {}, that one's was {}",
            path.display(),
            self.path.display(),
            short(&found),
            short(trained)
        );
        if is_given {
            output::notice(&format!("note: {problem}"));
            return Ok(());
        }
        Err(Failure::input(problem, "put back the tokenizer, or give one with --tokenizer"))
    }
}

/// The folder in which a run was started, where paths of its RUN.toml begin: `folder` without the path that
/// the run calls it by.
fn start_of(folder: &Path, called: &Path) -> Option<PathBuf> {
    if called.is_absolute() {
        return None;
    }
    let mut start = std::path::absolute(folder).ok()?;
    let parts = called.components().filter(|part| *part != Component::CurDir).collect::<Vec<_>>();
    for part in parts.into_iter().rev() {
        if start.file_name() != Some(part.as_os_str()) || !start.pop() {
            return None;
        }
    }
    Some(start)
}
