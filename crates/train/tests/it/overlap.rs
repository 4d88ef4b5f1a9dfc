//! What was agreed at a meeting is taken layer by layer, while the device computes with the layers before:
//! the same bits as all at once, and nothing lost when a device is lost in the middle of it.

use crate::it::apart::{APART, apart, plain};
use crate::it::fleet::{anomalies, exchanges, train};
use crate::it::step::{contents, run, tiny};
use lingot_device::cpu::Cpu;
use lingot_device::entry::Opener;
use lingot_device::op::Op;
use lingot_device::{Backend, Device, Error, Result, Slot, SlotId, Wrapper};
use lingot_spec::tensors::layers;
use lingot_train::step::Summary;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Apart from the first step on: in step, the shares follow the clock, and the order of sums follows the
/// shares.
const EDIT: [&str; 2] = ["sync.strategy=edit", "sync.warmup_steps=0"];

/// What a device did with its weights, in order.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// A layer's numbers, from this byte on.
    Took(usize, Vec<u8>),
    /// So many ops.
    Computed(usize),
}

type Actions = Arc<Mutex<Vec<Action>>>;

/// A processor whose actions are noted. It is lost when it is to take its `lost_at`-th layer.
struct Observed {
    inner: Device,
    /// Of all parameters: what is smaller, or lies within, is a layer. Routers' state and inputs are smaller
    /// than a layer and lie in memory of their own.
    model_bytes: usize,
    actions: Actions,
    lost_at: Option<usize>,
    parameters: Mutex<Option<SlotId>>,
}

impl Observed {
    fn took(&self) -> usize {
        self.actions.lock().unwrap().iter().filter(|action| matches!(action, Action::Took(..))).count()
    }
}

impl Wrapper for Observed {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        let slot = self.inner().allocate(bytes)?;
        if bytes == self.model_bytes {
            // The first of this size: a member opens its model first.
            self.parameters.lock().unwrap().get_or_insert(slot.id());
        }
        Ok(slot)
    }
    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        let is_layer =
            *self.parameters.lock().unwrap() == Some(slot.id()) && from_host.len() < self.model_bytes;
        if is_layer && self.lost_at == Some(self.took()) {
            return Err(Error::Lost { device: "b".into(), reason: "somebody pulled it out".into() });
        }
        self.inner().write(slot, offset_bytes, from_host)?;
        if is_layer {
            self.actions.lock().unwrap().push(Action::Took(offset_bytes, from_host.to_vec()));
        }
        Ok(())
    }
    fn run(&self, op: &Op<'_>) -> Result<()> {
        let mut actions = self.actions.lock().unwrap();
        match actions.last_mut() {
            Some(Action::Computed(ops)) => *ops += 1,
            _ => actions.push(Action::Computed(1)),
        }
        drop(actions);
        self.inner().run(op)
    }
}

/// Trains with devices whose actions are noted; `b` may be lost on the way.
fn with_observed(
    folder: &Path,
    more: &[&str],
    lost_at: Option<usize>,
) -> (Summary, BTreeMap<String, Actions>) {
    let resolved = apart(folder, &[&EDIT, more].concat());
    let model_bytes = 4 * resolved.run.model.parameters() as usize;
    let all: Arc<Mutex<BTreeMap<String, Actions>>> = Arc::default();
    let kept = all.clone();
    let open: Opener = Arc::new(move |name| {
        let actions = Actions::default();
        kept.lock().unwrap().insert(name.into(), actions.clone());
        let lost_at = lost_at.filter(|_| name == "b");
        let inner = Device::new(Cpu::new(1));
        Ok(Device::new(Observed { inner, model_bytes, actions, lost_at, parameters: Mutex::default() }))
    });
    let summary = train(&resolved, open, &mut |_| ()).unwrap();
    let all = all.lock().unwrap().clone();
    (summary, all)
}

#[test]
fn a_device_computes_with_a_layer_before_it_takes_the_next_and_all_take_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (_, all) = with_observed(folder.path(), &[], None);
    let [a, b] = ["a", "b"].map(|name| all[name].lock().unwrap().clone());
    let model = &apart(folder.path(), &[]).run.model;
    let layers = layers(model);
    let took = |actions: &[Action]| -> Vec<Action> {
        actions.iter().filter(|action| matches!(action, Action::Took(..))).cloned().collect()
    };
    // Twelve steps, two from one meeting to the next: six times what was agreed last.
    assert_eq!(took(&a).len(), 6 * layers.len());
    assert!(took(&a) == took(&b), "the devices hold different bits");
    let changes = took(&a).windows(layers.len() + 1).filter(|w| w[0] != w[layers.len()]).count();
    assert!(changes > 4 * layers.len(), "they learn");
    let mut index = 0;
    for (at, action) in a.iter().enumerate() {
        let Action::Took(offset, numbers) = action else { continue };
        let layer = &layers[index % layers.len()];
        assert_eq!((*offset, numbers.len()), (4 * layer.numbers.start, 4 * layer.numbers.len()));
        // Between the final norm and the head there is nothing to compute.
        let computes = matches!(a[at + 1], Action::Computed(ops) if ops > 0);
        assert!(computes || layer.name == "final_norm", "nothing was computed with {}", layer.name);
        index += 1;
    }
}

#[test]
fn layer_by_layer_gives_the_bits_of_all_at_once() {
    let more = [&EDIT[..], &["sync.penalty.warmup_meetings=1", "sync.outer.momentum=0.5"]].concat();
    let [overlapped, at_once, emulated] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let overlapped = plain(&apart(overlapped.path(), &[&more[..], &["evaluation.every=0"]].concat()));
    // Whatever is to be scored after a meeting is summed as a whole before anybody goes on.
    let at_once = plain(&apart(at_once.path(), &[&more[..], &["evaluation.every=1"]].concat()));
    assert!(contents(&overlapped) == contents(&at_once));
    // Emulated workers sum and take all at once.
    let more = [&APART[1..], &more, &["sync.virtual_speeds=[1.0, 1.0]"]].concat();
    let emulated = run(&tiny(emulated.path(), &more), 1);
    let ((weights, _, state), (emulated_weights, _, emulated_state)) =
        (contents(&overlapped), contents(&emulated));
    assert!(weights == emulated_weights && state == emulated_state);
}

#[test]
fn a_device_that_is_lost_in_the_middle_of_an_exchange_takes_nothing_with_it_that_was_brought() {
    let layers = layers(&apart(tempfile::tempdir().unwrap().path(), &[]).run.model).len();
    // At its third taking, when it has brought what it learnt twice: at its first, second and last layer.
    let ends = [0, 1, layers - 1].map(|layer| {
        let folder = tempfile::tempdir().unwrap();
        let (summary, _) = with_observed(folder.path(), &[], Some(2 * layers + layer));
        assert_eq!((summary.step, summary.tokens), (12, 12 * 8 * 32));
        let lost = anomalies(folder.path(), "device_lost");
        assert!(lost.len() == 1 && lost[0].contains("pulled it out"), "{lost:?}");
        let meetings = exchanges(folder.path()).into_iter().filter(|meeting| meeting.pieces.is_empty());
        let weights: Vec<Vec<f64>> =
            meetings.map(|meeting| meeting.workers.iter().map(|share| share.weight).collect()).collect();
        assert!(weights[..2].iter().all(|weights| weights.iter().all(|&weight| weight > 0.0)), "{weights:?}");
        assert!(weights[2..].iter().all(|weights| weights[1] == 0.0), "{weights:?}");
        contents(&summary)
    });
    assert!(ends[0] == ends[1] && ends[1] == ends[2], "how much it had taken makes a difference");
    let folder = tempfile::tempdir().unwrap();
    assert!(contents(&with_observed(folder.path(), &[], None).0) != ends[0], "it was not lost");
}
