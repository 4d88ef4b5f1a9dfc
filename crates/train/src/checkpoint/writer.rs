//! Writing a checkpoint: as a partial folder that is renamed once it is complete, in the background while a
//! run goes on.

use super::places::{beside, folder_name, is_there, remove, rename, sync_folder};
use super::snapshot::Snapshot;
use super::{Named, OPTIMIZER, STATE, Tensor, WEIGHTS, manifest, newest};
use crate::patience;
use lingot_formats::disk::{self, Call};
use lingot_formats::tensor_file;
use lingot_spec::manifest::{FORMAT, FileEntry, Manifest, ManifestHead, TensorEntry};
use lingot_spec::problem::{Problem, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Writes checkpoints in the background, one at a time.
pub(crate) struct Saver {
    folder: PathBuf,
    newest: PathBuf,
    /// How long a disk that is full or fails is waited for.
    wait: Duration,
    running: Option<Running>,
    /// Whether the run is to end soon.
    is_hurried: Arc<AtomicBool>,
}

/// A checkpoint to be written.
pub(crate) struct Saving {
    pub(crate) head: ManifestHead,
    pub(crate) snapshot: Snapshot,
    /// Checkpoints to keep, this one included; 0 keeps all.
    pub(crate) keep: u32,
    /// The newest checkpoint up to this step is sound, and stays.
    pub(crate) sound_step: Option<u64>,
    /// Seconds that the run has waited for it.
    pub(crate) waited_s: f64,
}

/// A checkpoint that is being written.
struct Running {
    step: u64,
    waited_s: f64,
    /// Errors if it was not written. Returns why older ones could not be removed, where they could not.
    thread: JoinHandle<Result<Option<Problem>>>,
    /// What the disk is waited for, until it was told.
    trouble: Arc<Mutex<Option<Problem>>>,
}

/// A checkpoint that is on the disk.
pub(crate) struct Saved {
    pub(crate) step: u64,
    pub(crate) path: PathBuf,
    /// Seconds that the run waited for it.
    pub(crate) waited_s: f64,
    /// Why older ones were not removed.
    pub(crate) not_removed: Option<Problem>,
}

impl Saver {
    /// Makes a saver for the run in `folder`, whose newest checkpoint is `newest`, which waits up to `wait_s`
    /// seconds for its disk.
    pub(crate) fn new(folder: &Path, newest: Option<&Path>, wait_s: f64) -> Saver {
        let folder = folder.join("checkpoints");
        let newest = newest.map_or_else(|| folder.clone(), Path::to_owned);
        let wait = Duration::try_from_secs_f64(wait_s).unwrap_or(Duration::MAX);
        Saver { folder, newest, wait, running: None, is_hurried: Arc::default() }
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> &Path {
        &self.newest
    }

    /// Begins to write a checkpoint. The one before must be finished. Errors if there is no thread for it.
    pub(crate) fn begin(&mut self, saving: Saving) -> Result<()> {
        let Saving { head, snapshot, keep, sound_step, waited_s } = saving;
        let (folder, wait, is_hurried) = (self.folder.clone(), self.wait, self.is_hurried.clone());
        let (step, trouble) = (head.step, Arc::<Mutex<Option<Problem>>>::default());
        let told = trouble.clone();
        let work = move || {
            let Snapshot { weights, moments, buffers } = &snapshot;
            let (weights, moments, buffers) = (named(weights), named(moments), named(buffers));
            let is_hurried = || is_hurried.load(Ordering::Relaxed);
            let mut say = |problem: &Problem| *lock(&told) = Some(problem.clone());
            // A sync that failed may have lost pages, so everything is written again.
            let write = || save(&folder, head.clone(), &weights, &moments, &buffers);
            patience::repeat(wait, &is_hurried, &mut say, write)?;
            Ok(newest::prune_but(&folder, keep, sound_step).err())
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        let thread = thread.map_err(|error| Problem::io("begin to write", &self.folder, &error))?;
        self.running = Some(Running { step, waited_s, thread, trouble });
        Ok(())
    }

    /// What the disk is waited for; each wait is told once.
    pub(crate) fn trouble(&self) -> Option<(u64, Problem)> {
        let running = self.running.as_ref()?;
        lock(&running.trouble).take().map(|problem| (running.step, problem))
    }

    /// The checkpoint that has become complete since the last call. Errors if it could not be written.
    pub(crate) fn poll(&mut self) -> Result<Option<Saved>> {
        match &self.running {
            Some(running) if running.thread.is_finished() => self.finish(),
            _ => Ok(None),
        }
    }

    /// Waits for the save under way, and returns it.
    pub(crate) fn finish(&mut self) -> Result<Option<Saved>> {
        let Some(Running { step, waited_s, thread, .. }) = self.running.take() else { return Ok(None) };
        let panicked = |_| Problem::bug("the thread that writes checkpoints panicked");
        let done = thread.join().map_err(panicked)?;
        let not_removed = done.map_err(|error| Problem {
            problem: format!("the checkpoint of step {step} is not saved: {}", error.problem),
            ..error
        })?;
        self.newest = self.folder.join(folder_name(step));
        Ok(Some(Saved { step, path: self.newest.clone(), waited_s, not_removed }))
    }

    /// Says that the run is to end soon, so that a disk is not waited for as long.
    pub(crate) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Saver {
    /// A run that ends in an error still finishes the save it began.
    fn drop(&mut self) {
        self.hurry();
        let _ = self.finish();
    }
}

/// Writes a checkpoint of `head.step` into the folder `checkpoints` and returns where it lies. Without
/// moments there is no optimizer file. When this fails or is killed, every earlier checkpoint is as it was.
pub fn save(
    checkpoints: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<PathBuf> {
    let place = checkpoints.join(folder_name(head.step));
    save_as(&place, head, weights, moments, buffers)?;
    Ok(place)
}

/// Writes a checkpoint as the folder `place`.
pub fn save_as(
    place: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<()> {
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = disk::call(Call::Create, parent, || fs::create_dir_all(parent));
    made.map_err(|error| Problem::io("make the folder", parent, &error))?;
    let partial = beside(place, "partial");
    let written = write_partial(&partial, head, weights, moments, buffers);
    let settled = written.and_then(|()| settle(&partial, place, parent));
    if settled.is_err() {
        // Best effort: what stays behind is removed at the next start.
        let _ = fs::remove_dir_all(&partial);
    }
    settled
}

fn write_partial(
    partial: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<()> {
    remove(partial)?;
    let made = disk::call(Call::Create, partial, || fs::create_dir(partial));
    made.map_err(|error| Problem::io("make the folder", partial, &error))?;
    let mut contents =
        Manifest { format: FORMAT, head, files: Vec::new(), tensors: Vec::new(), seal: String::new() };
    for (name, tensors) in [(WEIGHTS, weights), (OPTIMIZER, moments), (STATE, buffers)] {
        if name == OPTIMIZER && tensors.is_empty() {
            continue;
        }
        let (bytes, hashes) = tensor_file::write(&partial.join(name), tensors)?;
        contents.files.push(FileEntry { name: name.into(), bytes });
        contents.tensors.extend(tensors.iter().zip(hashes).map(|(tensor, blake3)| TensorEntry {
            file: name.into(),
            name: tensor.name.into(),
            dtype: "F32".into(),
            shape: tensor.shape.to_vec(),
            blake3,
        }));
    }
    manifest::write(partial, contents)?;
    sync_folder(partial)
}

/// Puts a complete partial folder in its place. A checkpoint that lies there already is moved aside first, so
/// that a kill in between loses neither: `clean` puts it back.
fn settle(partial: &Path, place: &Path, parent: &Path) -> Result<()> {
    let old = beside(place, "old");
    if is_there(place)? {
        remove(&old)?;
        rename("move aside", place, &old)?;
    }
    rename("rename", partial, place)?;
    sync_folder(parent)?;
    let _ = remove(&old); // The new one is there; what is left of the old one goes at the next start.
    Ok(())
}

/// Borrows tensors for writing.
pub(super) fn named(tensors: &[Tensor]) -> Vec<Named<'_>> {
    tensors.iter().map(|(name, shape, values)| Named { name, shape, values }).collect()
}
