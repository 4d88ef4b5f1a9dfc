//! The failure policy, the same for every engine: when a device stops a run, what is sound is saved, the
//! error says what is lost and what to do, and the run goes on from there as if nothing had happened.

use crate::it::apart::APART;
use crate::it::fleet::train;
use crate::it::step::{contents, run, tiny};
use lingot_device::cpu::Cpu;
use lingot_device::entry::Opener;
use lingot_device::op::Op;
use lingot_device::{Backend, Device, Error, Result, Slot, Wrapper};
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, ProblemKind};
use lingot_train::checkpoint::newest;
use lingot_train::config::Resolved;
use lingot_train::{data, step};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const SOUND: u8 = 0;
const DEAD: u8 = 1;
const FULL: u8 = 2;

/// A processor that dies, or has no room for another tensor, from a moment on.
struct Breakable {
    name: String,
    inner: Device,
    state: Arc<AtomicU8>,
}

impl Breakable {
    fn device(name: &str, state: &Arc<AtomicU8>) -> Device {
        Device::new(Breakable { name: name.into(), inner: Device::new(Cpu::new(1)), state: state.clone() })
    }

    fn check(&self) -> Result<()> {
        match self.state.load(Ordering::Relaxed) {
            DEAD => Err(Error::Lost { device: self.name.clone(), reason: "it was unplugged".into() }),
            _ => Ok(()),
        }
    }
}

impl Wrapper for Breakable {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.check()?;
        if self.state.load(Ordering::Relaxed) == FULL {
            let (needs_bytes, has_bytes) = (bytes as u64, 7);
            return Err(Error::OutOfMemory { device: self.name.clone(), needs_bytes, has_bytes });
        }
        self.inner().allocate(bytes)
    }
    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.check()?;
        self.inner().write(slot, offset_bytes, from_host)
    }
    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.check()?;
        self.inner().read(slot, offset_bytes, to_host)
    }
    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.check()?;
        self.inner().run(op)
    }
    fn finish(&self) -> Result<()> {
        self.check()?;
        self.inner().finish()
    }
}

/// Who trains.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Alone,
    InStep,
    Apart,
    Emulated,
    EmulatedInStep,
}

impl Who {
    fn resolved(self, folder: &Path) -> Resolved {
        let common = ["checkpoint.every=5", "evaluation.every=0"];
        let more: &[&str] = match self {
            Who::Alone => &[],
            Who::InStep => &APART,
            Who::Apart => &[&APART[..], &["sync.strategy=edit"]].concat(),
            Who::Emulated => {
                &[&APART[1..], &["sync.strategy=edit", "sync.virtual_speeds=[1.0, 0.5]"]].concat()
            }
            Who::EmulatedInStep => &[&APART[1..], &["sync.virtual_speeds=[1.0, 0.5]"]].concat(),
        };
        tiny(folder, &[more, &common].concat())
    }

    /// Trains, on devices that all are in `state` from step 8 on.
    fn train(self, folder: &Path, state: u8) -> std::result::Result<step::Summary, Problem> {
        let resolved = self.resolved(folder);
        let now = Arc::new(AtomicU8::new(SOUND));
        let later = now.clone();
        let mut listen = move |event: &Event| {
            if matches!(event, Event::Step(step) if step.step == 8) {
                later.store(state, Ordering::Relaxed);
            }
        };
        if matches!(self, Who::InStep | Who::Apart) {
            let open: Opener = Arc::new(move |name| Ok(Breakable::device(name, &now)));
            return train(&resolved, open, &mut listen);
        }
        let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
        let device = Breakable::device("a", &now);
        step::train(&resolved, &dataset, &device, &mut listen, &AtomicBool::new(false))
    }
}

fn steps(folder: &Path) -> Vec<u64> {
    newest::list(&folder.join("checkpoints")).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_device_that_dies_or_is_full_costs_no_step_that_can_be_saved() {
    for who in [Who::Alone, Who::InStep, Who::Apart, Who::Emulated, Who::EmulatedInStep] {
        for state in [DEAD, FULL] {
            let folder = tempfile::tempdir().unwrap();
            let error = who.train(folder.path(), state).unwrap_err();
            // Weights that are only on a dead device are gone with it; all others are saved.
            let is_lost = state == DEAD && matches!(who, Who::Alone | Who::EmulatedInStep);
            let saved: &[u64] = if is_lost { &[5] } else { &[5, 8] };
            let saved = if who == Who::Apart || who == Who::Emulated { &[6, 8][..] } else { saved };
            assert_eq!(steps(folder.path()), saved, "{who:?} {state}: {error}");
            let ending = if is_lost {
                "; the newest checkpoint is of step 5, of 8 done"
            } else {
                "; step 8 is saved and the run goes on from it"
            };
            assert!(error.problem.starts_with("step 9 was not done: "), "{who:?} {state}: {error}");
            assert!(error.problem.ends_with(ending), "{who:?} {state}: {error}");
            if state == FULL {
                assert!(matches!(error.kind, ProblemKind::DeviceFull { .. }), "{who:?}: {error}");
                assert!(error.problem.contains("does not fit into 7 bytes"), "{who:?}: {error}");
                let smaller = who == Who::Alone;
                assert!(
                    error.hint.contains(if smaller { "--set batch.micro = 2" } else { "block" }),
                    "{error}"
                );
            }
            let summary = who.train(folder.path(), SOUND).unwrap();
            assert_eq!((summary.step, summary.tokens), (12, 12 * 8 * 32), "{who:?} {state}");
        }
    }
}

#[test]
fn a_run_that_was_rescued_goes_on_with_the_same_bits() {
    for who in [Who::Alone, Who::EmulatedInStep] {
        let [whole, rescued] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let undisturbed = who.train(whole.path(), SOUND).unwrap();
        who.train(rescued.path(), FULL).unwrap_err();
        let resumed = who.train(rescued.path(), SOUND).unwrap();
        assert!(contents(&undisturbed) == contents(&resumed), "{who:?}");
    }
}

#[test]
fn the_sentence_about_lost_devices_names_each_once_with_its_own_reason() {
    let folder = tempfile::tempdir().unwrap();
    let error = Who::InStep.train(folder.path(), DEAD).unwrap_err();
    assert_eq!(
        error.problem,
        "step 9 was not done: all devices are lost after step 8: a failed in step 8: a: it was unplugged; \
         b failed in step 8: b: it was unplugged; step 8 is saved and the run goes on from it"
    );
    assert_eq!(
        error.hint,
        "run the same command again: it goes on from the checkpoint, on the devices that then answer"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = Who::Emulated.train(folder.path(), DEAD).unwrap_err();
    assert_eq!(
        error.problem,
        "step 9 was not done: a: it was unplugged; step 8 is saved and the run goes on from it"
    );
}

#[test]
fn an_evaluation_that_a_device_stops_is_named_and_the_steps_before_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &["evaluation.every=4", "checkpoint.every=0"]);
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let now = Arc::new(AtomicU8::new(SOUND));
    let later = now.clone();
    // The fourth step is recorded just before the text is scored.
    let mut listen = move |event: &Event| {
        if matches!(event, Event::Step(step) if step.step == 4) {
            later.store(FULL, Ordering::Relaxed);
        }
    };
    let device = Breakable::device("a", &now);
    let error = step::train(&resolved, &dataset, &device, &mut listen, &AtomicBool::new(false)).unwrap_err();
    assert!(error.problem.starts_with("the evaluation after step 4 was not done: a: "), "{error}");
    assert!(error.problem.ends_with("; step 4 is saved and the run goes on from it"), "{error}");
    assert_eq!(run(&resolved, 1).step, 12);
}
