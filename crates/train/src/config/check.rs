//! What serde cannot know: numbers that must be positive, divide each other, or come together.

use super::source::Source;
use lingot_device::entry;
use lingot_spec::Result;
use lingot_spec::run::{DeviceSpec, RecomputeSpec, RunSpec, Shape, Strategy};

/// The most workers of one run. Each has a thread and a copy of the model, and the host answers them one by
/// one.
const MOST_WORKERS: usize = 256;

/// The most corpora of one run: samples are dealt in blocks of the square of their number.
const MOST_CORPORA: usize = 1000;

pub(super) fn check(source: &Source, run: &RunSpec) -> Result<()> {
    for (key, text) in [("name", &run.name), ("folder", &run.folder)] {
        if text.is_empty() {
            return Err(source.error(key, format!("{key} is empty"), "leave it out for the default"));
        }
    }
    if run.name.contains(['/', '\\']) || run.name == "." || run.name == ".." {
        let problem = format!("name ({}) is not a file name", run.name);
        return Err(source.error("name", problem, "leave out `/`; `folder` says where the run's files lie"));
    }
    check_devices(source, run)?;
    check_model(source, run)?;
    check_data(source, run)?;
    check_batch(source, run)?;
    check_numbers(source, run)?;
    check_stop(source, run)?;
    check_sync(source, run)?;
    check_guard(source, run)?;
    check_device(source, run)
}

/// The model's own check names the key first, which is enough to find its line.
fn check_model(source: &Source, run: &RunSpec) -> Result<()> {
    run.model.check().map_err(|error| {
        let key = error.problem.split([' ', ',']).next().unwrap_or("model").to_owned();
        source.error(&key, error.problem, error.hint)
    })
}

fn check_data(source: &Source, run: &RunSpec) -> Result<()> {
    let data = &run.data;
    if data.corpora.is_empty() {
        let hint = "add corpora = [{ path = \"text.txt\" }]";
        return Err(source.error("data.corpora", "data.corpora is empty", hint));
    }
    if data.corpora.len() > MOST_CORPORA {
        let problem =
            format!("data.corpora has {} entries; one run has at most {MOST_CORPORA}", data.corpora.len());
        return Err(source.error("data.corpora", problem, "put files with the same weight into one folder"));
    }
    for (index, corpus) in data.corpora.iter().enumerate() {
        positive(source, &format!("data.corpora.{index}.weight"), corpus.weight)?;
    }
    if data.sequence == 0 {
        return Err(source.error("data.sequence", "data.sequence is 0", "256 suits small models"));
    }
    if !(0.0..1.0).contains(&data.validation) {
        let problem = format!("data.validation ({}) is not a share from 0 to below 1", data.validation);
        return Err(source.error("data.validation", problem, "0.05 holds out every twentieth document"));
    }
    Ok(())
}

fn check_batch(source: &Source, run: &RunSpec) -> Result<()> {
    let batch = &run.batch;
    for (key, value) in [("batch.sequences", batch.sequences), ("batch.micro", batch.micro)] {
        if value == 0 {
            return Err(source.error(key, format!("{key} is 0"), "a step needs at least one sequence"));
        }
    }
    for (key, value) in [("batch.sequences", batch.sequences), ("batch.from", batch.from)] {
        if !value.is_multiple_of(batch.micro) {
            let problem = format!("{key} ({value}) is not a multiple of batch.micro ({})", batch.micro);
            return Err(source.error(key, problem, "every step is made of whole micro-batches"));
        }
    }
    if batch.from > batch.sequences {
        let problem = format!("batch.from ({}) exceeds batch.sequences ({})", batch.from, batch.sequences);
        return Err(source.error("batch.from", problem, "the ramp goes up, from `from` to `sequences`"));
    }
    if (batch.from > 0) != (batch.ramp_steps > 0) {
        let problem = format!("batch.from is {} but batch.ramp_steps is {}", batch.from, batch.ramp_steps);
        let key = if batch.from > 0 { "batch.from" } else { "batch.ramp_steps" };
        return Err(source.error(key, problem, "a ramp needs both; leave both at 0 for none"));
    }
    let router = &run.model.router;
    let routed = run.model.moe_layers() + run.model.mtp_layers > 0;
    if routed && router.balance_loss > 0.0 && !batch.micro.is_multiple_of(router.balance_sequences) {
        let problem = format!(
            "batch.micro ({}) is not a multiple of model.router.balance_sequences ({})",
            batch.micro, router.balance_sequences
        );
        let hint =
            "the balance loss is taken over whole groups of sequences, which one micro-batch must hold";
        return Err(source.error("batch.micro", problem, hint));
    }
    Ok(())
}

fn check_numbers(source: &Source, run: &RunSpec) -> Result<()> {
    let (router, optimizer, schedule) = (&run.model.router, &run.optimizer, &run.schedule);
    positive(source, "optimizer.rate", optimizer.rate)?;
    positive(source, "optimizer.epsilon", optimizer.epsilon)?;
    positive(source, "model.router.scale", router.scale)?;
    for (key, value) in [
        ("optimizer.decay", optimizer.decay),
        ("optimizer.clip", optimizer.clip),
        ("model.mtp_weight", run.model.mtp_weight),
        ("model.router.bias_rate", router.bias_rate),
        ("model.router.balance_loss", router.balance_loss),
        ("model.router.z_loss", router.z_loss),
    ] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(source.error(key, format!("{key} is {value}"), "give it 0 or a positive number"));
        }
    }
    for (key, value) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
        if !(0.0..1.0).contains(&value) {
            let problem = format!("{key} ({value}) is not from 0 to below 1");
            return Err(source.error(key, problem, "Ling uses beta1 = 0.9 and beta2 = 0.95"));
        }
    }
    for (key, value) in [("schedule.turn", schedule.turn), ("schedule.floor", schedule.floor)] {
        if !(0.0..=1.0).contains(&value) {
            let problem = format!("{key} ({value}) is not a share from 0 to 1");
            return Err(source.error(
                key,
                problem,
                "turn is a share of the run, floor a share of the peak rate",
            ));
        }
    }
    if schedule.shape == Shape::InverseSqrt && schedule.floor == 0.0 {
        let problem = "schedule.floor is 0, which the inverse square root never reaches";
        return Err(source.error("schedule.floor", problem, "Ling anneals to floor = 1e-4"));
    }
    Ok(())
}

fn check_stop(source: &Source, run: &RunSpec) -> Result<()> {
    let stop = &run.stop;
    if stop.steps == 0 {
        let hint = "the schedule is laid over stop.steps; give it a positive number";
        return Err(source.error("stop.steps", "stop.steps is 0", hint));
    }
    if stop.tokens == Some(0) {
        return Err(source.error("stop.tokens", "stop.tokens is 0", "leave it out for no limit"));
    }
    for (key, value) in [("stop.hours", stop.hours), ("stop.money", stop.money), ("stop.loss", stop.loss)] {
        if let Some(value) = value {
            positive(source, key, value)?;
        }
    }
    if let Some(loss) = stop.loss.filter(|_| run.data.validation == 0.0) {
        let problem = format!("stop.loss is {loss} but data.validation is 0, so there is no held-out loss");
        return Err(source.error("stop.loss", problem, "hold out some documents, such as validation = 0.05"));
    }
    match (&run.price, stop.money) {
        (None, Some(money)) => {
            let problem = format!("stop.money is {money} but there is no price");
            let hint = "add [price] with per_hour and currency";
            Err(source.error("stop.money", problem, hint))
        }
        (Some(price), _) if !(price.per_hour >= 0.0 && price.per_hour.is_finite()) => {
            let problem = format!("price.per_hour is {}", price.per_hour);
            Err(source.error("price.per_hour", problem, "give it 0 or a positive number"))
        }
        _ => Ok(()),
    }
}

fn check_sync(source: &Source, run: &RunSpec) -> Result<()> {
    let sync = &run.sync;
    for (key, value) in [
        ("sync.period_s", sync.period_s),
        ("sync.penalty.temperature", sync.penalty.temperature),
        ("sync.penalty.threshold", sync.penalty.threshold),
        ("sync.outer.rate", sync.outer.rate),
    ] {
        positive(source, key, value)?;
    }
    for (index, &speed) in sync.virtual_speeds.iter().enumerate() {
        positive(source, &format!("sync.virtual_speeds.{index}"), speed)?;
    }
    if sync.every == 0 {
        return Err(source.error(
            "sync.every",
            "sync.every is 0",
            "workers train alone for at least one step",
        ));
    }
    for (key, value) in
        [("sync.penalty.newest", sync.penalty.newest), ("sync.outer.momentum", sync.outer.momentum)]
    {
        if !(0.0..1.0).contains(&value) {
            let problem = format!("{key} ({value}) is not from 0 to below 1");
            return Err(source.error(key, problem, "leave it out for the default"));
        }
    }
    if !(sync.outer.clip >= 0.0 && sync.outer.clip.is_finite()) {
        let problem = format!("sync.outer.clip is {}", sync.outer.clip);
        return Err(source.error(
            "sync.outer.clip",
            problem,
            "give it 0 for no clipping or a positive number",
        ));
    }
    check_workers(source, run)
}

/// Workers that train alone divide every batch equally, and routing warms up while they are in step.
fn check_workers(source: &Source, run: &RunSpec) -> Result<()> {
    let (sync, batch) = (&run.sync, &run.batch);
    let emulated = sync.virtual_speeds.len() as u32;
    let is_apart = sync.strategy != Strategy::EveryStep;
    let workers = if is_apart { emulated.max(run.devices.len() as u32) } else { emulated };
    if workers == 0 {
        if is_apart {
            let problem = "sync.strategy lets workers train alone, but there is one worker";
            let hint =
                "name devices = [...], or emulated workers such as sync.virtual_speeds = [1, 1, 1, 0.5]";
            return Err(source.error("sync.strategy", problem, hint));
        }
        return Ok(());
    }
    if !batch.sequences.is_multiple_of(workers.saturating_mul(batch.micro)) || batch.from > 0 {
        let problem = format!(
            "{workers} workers with micro-batches of {} cannot share a step of {} sequences{} equally",
            batch.micro,
            batch.sequences,
            if batch.from > 0 { " that grows" } else { "" }
        );
        let hint = "batch.sequences must be a multiple of workers times batch.micro, and batch.from 0";
        let key = if emulated > 0 { "sync.virtual_speeds" } else { "devices" };
        return Err(source.error(key, problem, hint));
    }
    if is_apart && sync.warmup_steps < run.model.router.warmup_steps {
        let problem = format!(
            "sync.warmup_steps ({}) is less than model.router.warmup_steps ({})",
            sync.warmup_steps, run.model.router.warmup_steps
        );
        return Err(source.error("sync.warmup_steps", problem, "routing warms up while all are in step"));
    }
    Ok(())
}

fn check_guard(source: &Source, run: &RunSpec) -> Result<()> {
    positive(source, "guard.deviations", run.guard.deviations)?;
    if !(8..=10_000).contains(&run.guard.window) {
        let problem = format!("guard.window ({}) is not from 8 to 10000", run.guard.window);
        return Err(source.error("guard.window", problem, "64 steps suit most runs"));
    }
    if !(run.checkpoint.wait_s >= 0.0 && run.checkpoint.wait_s.is_finite()) {
        let problem = format!("checkpoint.wait_s is {}", run.checkpoint.wait_s);
        return Err(source.error("checkpoint.wait_s", problem, "give it 0 or a positive number of seconds"));
    }
    Ok(())
}

fn check_device(source: &Source, run: &RunSpec) -> Result<()> {
    if run.device.threads > DeviceSpec::MOST_THREADS {
        let problem = format!(
            "device.threads ({}) is more than the {} that are started at most",
            run.device.threads,
            DeviceSpec::MOST_THREADS
        );
        return Err(source.error("device.threads", problem, "0 takes all that this machine has"));
    }
    if run.evaluation.sequences == 0 {
        let hint = "the held-out loss needs at least one sequence";
        return Err(source.error("evaluation.sequences", "evaluation.sequences is 0", hint));
    }
    match &run.device.recompute {
        RecomputeSpec::Each(policies) if policies.len() != run.model.layers as usize => {
            let problem = format!(
                "device.recompute has {} policies, model.layers is {}",
                policies.len(),
                run.model.layers
            );
            Err(source.error("device.recompute", problem, "give one policy for all layers, or one for each"))
        }
        _ => Ok(()),
    }
}

/// Checks that the entries of `devices` can be read, and that their work can be shared.
fn check_devices(source: &Source, run: &RunSpec) -> Result<()> {
    for (key, workers) in
        [("devices", run.devices.len()), ("sync.virtual_speeds", run.sync.virtual_speeds.len())]
    {
        if workers > MOST_WORKERS {
            let problem = format!("{key} has {workers} entries; one run has at most {MOST_WORKERS}");
            return Err(source.error(key, problem, "name each device of this machine once"));
        }
    }
    entry::parse_all(&run.devices).map_err(|error| source.error("devices", error.problem, error.hint))?;
    positive(source, "sync.deadline_s", run.sync.deadline_s)?;
    if !run.devices.is_empty() && !run.sync.virtual_speeds.is_empty() {
        let problem = format!(
            "devices names {} devices and sync.virtual_speeds {} emulated workers",
            run.devices.len(),
            run.sync.virtual_speeds.len()
        );
        return Err(source.error("sync.virtual_speeds", problem, "leave out one of the two"));
    }
    for (device, &per_hour) in run.price.iter().flat_map(|price| &price.devices) {
        if !run.devices.contains(device) {
            let problem = format!("price.devices names `{device}`, which is not in devices");
            return Err(source.error("price.devices", problem, "write it as in devices"));
        }
        if !(per_hour >= 0.0 && per_hour.is_finite()) {
            let problem = format!("price.devices: `{device}` costs {per_hour} an hour");
            return Err(source.error("price.devices", problem, "give it 0 or a positive number"));
        }
    }
    Ok(())
}

fn positive(source: &Source, key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(source.error(key, format!("{key} is {value}"), "give it a positive number"))
}
