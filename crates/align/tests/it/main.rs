//! The levels on devices that are there everywhere: the CPU against itself, against the definition, with planted faults.

use lingot_align::{modules, self_test};
use lingot_device::cpu::Cpu;
use lingot_device::reference::Reference;
use lingot_device::{Device, Precision};

#[test]
fn every_planted_fault_is_caught_where_it_was_planted_and_none_is_seen_where_none_is() {
    let found = self_test::run(&Device::new(Cpu::new(2)), Precision::F32, 60, &mut |_, _, _| ()).unwrap();
    assert!(found.clean, "{:#?}", found.trials[0]);
    let missed: Vec<_> = found.trials.iter().filter(|trial| !trial.caught).collect();
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!((found.planted, found.caught), (10, 10));
}

#[test]
fn a_step_on_the_cpu_is_the_definitions_step_in_both_precisions() {
    for precision in [Precision::F32, Precision::Bf16] {
        let reference = Device::new(Reference::with_precision(precision));
        let cpu = Device::new(Cpu::with_precision(2, precision));
        let reports = modules::check(&reference, &cpu, precision, 1, None, &mut |_, _, _| ()).unwrap();
        for report in reports {
            assert!(report.passed, "{} in {precision:?}: {:?}", report.model, report.fault);
        }
    }
}
