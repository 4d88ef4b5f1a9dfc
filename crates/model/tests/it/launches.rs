//! How much a layer asks of a device: operators and kernels that are launched, and waits, on a chip that has
//! all that a GPU has.

use crate::{NOTHING, Text};
use lingot_device::op::Op;
use lingot_device::torch::{self, Options, Torch};
use lingot_device::{Backend, Device, Kind, Precision, Result, Wrapper};
use lingot_model::{Inputs, Model, Totals};
use lingot_spec::{ModelSpec, presets};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[path = "../../../device/tests/chip/apart.rs"]
mod apart;
#[path = "../../../device/tests/chip/stand_in.rs"]
mod stand_in;

/// Launches of one layer with experts, forward and backward together: what was reached. It is not to grow.
const OF_A_LAYER: [(Precision, u64); 1] = [(Precision::Bf16, 79)];

/// A small model of the shape of large ones: grouped heads with norms, routed experts and a shared one.
fn spec(layers: u32) -> ModelSpec {
    ModelSpec {
        layers,
        width: 64,
        heads: 4,
        kv_heads: 2,
        head_width: 16,
        rotary_width: 16,
        dense_layers: 0,
        experts: 8,
        choices: 2,
        expert_width: 32,
        shared_experts: 1,
        qk_norm: true,
        mtp_layers: 0,
        ..presets::preset("toy").unwrap()
    }
}

/// How often each op ran, and the launches that it took.
type Launches = Arc<Mutex<BTreeMap<&'static str, [u64; 2]>>>;

/// Counts the launches of each op of the device behind it.
struct Counted {
    inner: Torch,
    launches: Launches,
}

impl Wrapper for Counted {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        let before = torch::counts().launches;
        self.inner.run(op)?;
        let mut launches = self.launches.lock().unwrap();
        let [ops, all] = launches.entry(op.name()).or_default();
        *ops += 1;
        *all += torch::counts().launches - before;
        Ok(())
    }
}

/// What forward and backward of two sequences ask of the device.
fn asked(device: &Device, kind: Kind, layers: u32) -> torch::Counts {
    let spec = spec(layers);
    let model = Model::new(&spec, device, kind, 1).unwrap();
    let (gradients, text) = (model.gradients().unwrap(), Text::new(&spec, 2, 24));
    let mut totals = Totals::default();
    totals.add(&text.rows(), false);
    let step = || {
        let inputs = Inputs::new(device, text.rows(), false).unwrap();
        let before = torch::counts();
        model.differentiate(&inputs, totals, None, NOTHING, &gradients).unwrap();
        let after = torch::counts();
        torch::Counts { launches: after.launches - before.launches, waits: after.waits - before.waits }
    };
    // The first step makes tables that stay.
    step();
    step()
}

#[test]
fn a_layer_launches_no_more_than_it_did_and_waits_for_nothing() {
    let test = "launches::a_layer_launches_no_more_than_it_did_and_waits_for_nothing";
    apart::run(test, &[("CHIP_OPEN", "1")], || {
        let Some(library) = stand_in::build("launches", &[]) else { return };
        for (precision, most) in OF_A_LAYER {
            let options = Options { precision, stand_in: Some(library), ..Options::default() };
            let torch = Torch::open("torch:testchip:0", options).unwrap();
            println!("{:#?}", torch.routes());
            let launches = Launches::default();
            let device = Device::new(Counted { inner: torch, launches: launches.clone() });
            let [two, four] = [2, 4].map(|layers| {
                launches.lock().unwrap().clear();
                let asked = asked(&device, precision.into(), layers);
                println!("two steps of {layers} layers, ops and launches: {launches:?}");
                asked
            });
            let of_a_layer = (four.launches - two.launches) / 2;
            println!("{precision:?}: {two:?}, {four:?}, a layer {of_a_layer}");
            // Where documents begin is brought to the device once per batch; the chip has no pinned memory.
            assert!(two.waits <= 1 && four.waits <= 1, "{precision:?}: {two:?}, {four:?}");
            assert!(of_a_layer <= most, "{precision:?}: {of_a_layer} launches a layer, {most} at most");
        }
    });
}
