//! The levels on devices that are there everywhere: the CPU against itself, against the definition, with
//! planted faults.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod run;

use lingot_align::certificate::Certificate;
use lingot_align::faults::{Planted, Wiring};
use lingot_align::step::Steps;
use lingot_align::trainer::Trainer;
use lingot_align::{modules, self_test, task};
use lingot_device::cpu::{Cpu, Kernel};
use lingot_device::reference::Reference;
use lingot_device::{Device, Kind, Precision};
use std::collections::BTreeMap;

#[test]
fn every_planted_fault_is_caught_where_it_was_planted_and_none_is_seen_where_none_is() {
    for precision in [Precision::F32, Precision::Bf16] {
        let cpu = Device::new(Cpu::new(2));
        let found = self_test::run(&cpu, precision, &mut |_, _, _| ()).unwrap();
        assert!(found.clean, "{:#?}", found.trials[0]);
        let missed: Vec<_> = found.trials.iter().filter(|trial| !trial.caught).collect();
        assert!(missed.is_empty(), "{precision:?}: {missed:#?}");
        assert_eq!((found.planted, found.caught), (39, 39));
    }
}

/// Two sound devices that round differently: the fastest kernel and the portable one. A sweep of minutes, by
/// name: `cargo test -p lingot-align --test it twenty_seeds -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn no_level_fails_on_sound_devices_over_twenty_seeds() {
    let silent = &mut |_: &str, _: u64, _: u64| ();
    let mut failures = vec![];
    for precision in [Precision::F32, Precision::Bf16] {
        let kernels = [Kernel::best(), Kernel::all().pop().unwrap()];
        let [fast, portable] = kernels.map(|kernel| Device::new(Cpu::with_kernel(2, kernel)));
        let mut worst: BTreeMap<String, f64> = BTreeMap::new();
        for seed in 1..=20 {
            let reports = modules::check(&portable, &fast, [precision; 2], seed, None, silent).unwrap();
            let faults = reports.into_iter().filter_map(|report| report.fault);
            failures.extend(faults.map(|fault| format!("{precision:?} seed {seed}: {fault:?}")));
            for report in Steps::new(precision, seed, silent).unwrap().check(&fast, None, silent).unwrap() {
                for difference in &report.worst {
                    let known = worst.entry(difference.quantity.clone()).or_default();
                    *known = known.max(difference.error);
                }
                failures.extend(report.fault.map(|fault| format!("{precision:?} seed {seed}: {fault:?}")));
                assert!(report.clipped_to < 0.9, "the clip does not act: {}", report.clipped_to);
            }
            let all = worst.iter().map(|(quantity, error)| format!("{quantity} {error:.1e}"));
            println!("{precision:?}, worst up to seed {seed}: {}", all.collect::<Vec<_>>().join(", "));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_step_on_the_cpu_is_the_definitions_step_in_both_precisions() {
    for precision in [Precision::F32, Precision::Bf16] {
        let [reference, cpu] = [Device::new(Reference::new()), Device::new(Cpu::new(2))];
        let reports = modules::check(&reference, &cpu, [precision; 2], 1, None, &mut |_, _, _| ()).unwrap();
        for report in reports {
            assert!(report.passed, "{} in {precision:?}: {:?}", report.model, report.fault);
        }
    }
}

#[test]
fn a_refusal_names_module_op_element_both_values_and_the_inputs_hash_on_its_page_too() {
    let cpu = Device::new(Cpu::new(1));
    let planted = Some(Planted::RopeOffByOne);
    let modules = modules::check(&cpu, &cpu, [Precision::F32; 2], 1, planted, &mut |_, _, _| ()).unwrap();
    let found = modules.iter().find_map(|report| report.fault.clone()).unwrap();
    let refused = Certificate { modules, curve: vec![], moved: vec![], ..golden("torch-cpu-f32") }.judge();
    let fault = refused.fault.clone().unwrap();
    assert!(!refused.passed && fault.contains("attention: rope, x["), "{fault}");
    for part in [&found.reference, &found.candidate, &found.inputs_hash] {
        assert!(!part.is_empty() && fault.contains(part), "{part} in {fault}");
    }
    assert_ne!(found.reference, found.candidate);
    let page = refused.page().pop().unwrap().content;
    assert!(page.contains("**Failed**") && page.contains(&fault), "{page}");
}

/// A file of the certificate `name` under `tests/golden/align`.
fn kept(name: &str, file: &str) -> String {
    let path = format!("{}/../../tests/golden/align/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn golden(name: &str) -> Certificate {
    serde_json::from_str(&kept(name, "certificate.json")).unwrap()
}

#[test]
fn the_kept_pages_and_plots_are_those_of_their_figures() {
    for name in ["torch-cpu-f32", "torch-testchip-0-f32", "torch-cpu-bf16", "cpu-f32-bf16"] {
        for file in golden(name).page() {
            assert!(file.content == kept(name, &file.name), "{name}/{}", file.name);
        }
    }
}

#[test]
fn the_kept_certificates_say_what_their_figures_say() {
    for (name, passed) in [
        ("torch-cpu-f32", true),
        ("torch-testchip-0-f32", true),
        ("torch-cpu-bf16", true),
        ("cpu-f32-bf16", true),
    ] {
        let kept = golden(name);
        assert_eq!((kept.passed, kept.clone().judge().passed), (passed, passed), "{name}: {:?}", kept.fault);
        for curve in kept.curve.iter().chain(&kept.moved) {
            let shorter = task::tasks().iter().find(|task| task.name == curve.model).unwrap().shorter;
            let is_whole = curve.steps * shorter >= 2000 && curve.seed_noises.len() == 3;
            assert!(is_whole, "{name} {}", curve.model);
            assert_eq!(curve.passed, curve.mean <= curve.bound, "{name} {}", curve.model);
        }
        assert!(
            kept.ops.iter().all(|op| op.passed) && kept.modules.iter().all(|module| module.passed),
            "{name}"
        );
    }
}

#[test]
fn the_cpu_still_trains_along_the_curve_that_was_certified() {
    let kept = golden("torch-cpu-f32");
    for (task, curve) in task::tasks().iter().zip(&kept.curve) {
        let name = task.name;
        let cpu = Device::new(Cpu::new(2));
        let mut trainer = Trainer::new(task, &cpu, Kind::F32, [kept.seed; 2], Wiring::default()).unwrap();
        let losses: Vec<f64> = (0..41).map(|_| trainer.step().unwrap().losses.main).collect();
        for (loss, wanted) in losses.iter().step_by(curve.every as usize).zip(&curve.reference) {
            assert!((loss - wanted).abs() < 1e-5 * wanted, "{name}: {loss}, certified {wanted}");
        }
    }
}
