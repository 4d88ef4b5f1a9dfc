//! Whether a run fits on its device, by the arithmetic of its shapes, before any text is read.

use crate::failure::{Code, Failure, Result};
use crate::terminal::bytes;
use lingot_device::DeviceInfo;
use lingot_spec::RunSpec;
use lingot_spec::step::micro_batch_memory;

/// Errors if weights, gradients and optimizer state do not fit, or if they do and a micro-batch of the run
/// does not fit beside them; then the hint names the largest one that does. What a maker's library takes for
/// itself is not counted.
pub fn check(run: &RunSpec, device: &DeviceInfo) -> Result<()> {
    let has = device.memory_bytes;
    if has == 0 {
        return Ok(());
    }
    let memory = micro_batch_memory(run, run.batch.micro);
    let standing = memory.peak_bytes - memory.kept_bytes - memory.scratch_bytes;
    let failure = |problem: String, hint: String| Err(Failure { code: Code::Device, problem, hint });
    if standing > has {
        return failure(
            format!(
                "weights, gradients and optimizer state of this model take {}, {} has {}",
                bytes(standing),
                device.name,
                bytes(has)
            ),
            "choose a smaller model; `lingot model` lists presets and what each needs".into(),
        );
    }
    if memory.peak_bytes <= has {
        return Ok(());
    }
    let problem = format!(
        "a step with batch.micro = {} takes {}, {} has {}",
        run.batch.micro,
        bytes(memory.peak_bytes),
        device.name,
        bytes(has)
    );
    match largest(run, has) {
        Some((micro, needs)) => failure(problem, format!("--set batch.micro={micro} takes {}", bytes(needs))),
        None if run.device.recompute.policies().iter().any(|policy| policy.name() != "block") => failure(
            problem,
            "--set 'device.recompute=\"block\"' takes less, or choose a smaller model".into(),
        ),
        None => failure(problem, "shorten data.sequence or choose a smaller model".into()),
    }
}

/// The largest micro-batch below the run's that the batch can be divided into and that fits, and its bytes.
fn largest(run: &RunSpec, has: u64) -> Option<(u32, u64)> {
    let batch = &run.batch;
    let divides = |micro: &u32| {
        batch.sequences.is_multiple_of(*micro)
            && batch.from.is_multiple_of(*micro)
            && micro.is_multiple_of(run.model.router.balance_sequences.max(1))
    };
    let smaller = (1..batch.micro).rev().filter(divides);
    let mut needed = smaller.map(|micro| (micro, micro_batch_memory(run, micro).peak_bytes));
    needed.find(|(_, needs)| *needs <= has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingot_spec::step::StepMemory;
    use lingot_train::config;
    use std::path::Path;

    fn run(micro: u32) -> RunSpec {
        let text = format!(
            "folder = \"out\"\n[model]\npreset = \"toy\"\n[data]\ncorpora = [{{ path = \"text\" }}]\n\
             sequence = 128\n[batch]\nsequences = 16\nmicro = {micro}\n"
        );
        config::parse(&text, Path::new("run.toml"), &[]).unwrap().run
    }

    fn on(memory_bytes: u64, run: &RunSpec) -> Result<()> {
        let info = DeviceInfo { name: "card".into(), description: String::new(), memory_bytes, threads: 0 };
        check(run, &info)
    }

    #[test]
    fn a_micro_batch_that_does_not_fit_is_refused_with_the_largest_that_does() {
        let run = run(16);
        let needs = micro_batch_memory(&run, 4).peak_bytes;
        let refused = on(needs, &run).unwrap_err();
        assert_eq!(refused.code, Code::Device);
        assert!(refused.problem.contains("batch.micro = 16") && refused.problem.contains("card has"));
        assert!(refused.hint.contains("--set batch.micro=4 takes"), "{}", refused.hint);
        on(needs, &super::tests::run(4)).unwrap();
        assert!(on(needs - 1, &run).unwrap_err().hint.contains("batch.micro=2"));
        on(0, &run).unwrap();
    }

    #[test]
    fn a_model_that_does_not_fit_at_all_is_refused_by_its_state() {
        let run = run(1);
        let StepMemory { peak_bytes, kept_bytes, scratch_bytes, .. } = micro_batch_memory(&run, 1);
        let state = peak_bytes - kept_bytes - scratch_bytes;
        assert!(on(state - 1, &run).unwrap_err().problem.contains("optimizer state"));
        assert!(on(state + 1, &run).unwrap_err().hint.contains("recompute"));
        on(peak_bytes, &run).unwrap();
    }
}
