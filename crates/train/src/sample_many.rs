//! Texts of many prompts at once: as one of them ends, the next prompt takes its place.
//!
//! Every text is drawn by its own stream of random numbers, as if it was made alone. What a device rounds
//! may differ with the number of rows it multiplies at once, so logits agree up to rounding.

use crate::sample::{Bounds, PURPOSE_SAMPLE, Sampling, check, next_token};
use lingot_model::random::Stream;
use lingot_model::{Model, Next, Pool, SequenceId};
use lingot_spec::problem::{Problem, Result};
use std::ops::ControlFlow;

/// A text to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The tokens to continue.
    pub prompt: Vec<u32>,
    /// How its tokens are drawn.
    pub sampling: Sampling,
    /// The largest number of new tokens.
    pub tokens: usize,
}

/// A text that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which of the requests it answers, from 0.
    pub index: usize,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Whether the model ended the text; otherwise the number of tokens did.
    pub ended: bool,
}

/// Prompts are taken up while the tokens of one pass are fewer than this.
const MOST_ROWS: usize = 2048;

/// A text in the making.
struct Active {
    index: usize,
    id: SequenceId,
    sampling: Sampling,
    stream: Stream,
    limit: usize,
    all: Vec<u32>,
    /// What the model reads next.
    read: Vec<i32>,
}

/// Makes the texts of all requests, up to `slots` at a time. Each is passed to `each` as it ends, in whatever
/// order, which may end them all, as may `goes_on`, which is asked before each pass. `bounds.tokens` is not
/// used. Errors if the model cannot continue a prompt.
pub fn sample_many(
    model: &Model,
    requests: &[Request],
    slots: usize,
    bounds: Bounds<'_>,
    goes_on: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> Result<()> {
    for request in requests {
        check(model, &request.prompt, &request.sampling)?;
    }
    let mut waiting = requests.iter().enumerate().peekable();
    let mut pool = Pool::new(model)?;
    let mut active: Vec<Active> = Vec::new();
    loop {
        let mut rows = active.len();
        while active.len() < slots.max(1) && (rows < MOST_ROWS || active.is_empty()) {
            let Some((index, request)) = waiting.next() else { break };
            rows += request.prompt.len();
            active.push(begin(&mut pool, index, request));
        }
        if active.is_empty() || !goes_on() {
            return Ok(());
        }
        let next: Vec<Next<'_>> =
            active.iter().map(|text| Next { id: text.id, tokens: &text.read }).collect();
        let logits = model.read_many(&mut pool, &next).map_err(|error| Problem {
            hint: format!("give a --batch below {}, or a device with more memory", active.len()),
            ..error.into()
        })?;
        for (text, logits) in active.iter_mut().zip(&logits) {
            draw(text, &logits[..bounds.vocabulary.min(logits.len())]);
        }
        for text in active.extract_if(.., |text| is_finished(text, &bounds)) {
            pool.end(text.id);
            if each(finish(text, &bounds)).is_break() {
                return Ok(());
            }
        }
    }
}

fn begin(pool: &mut Pool, index: usize, request: &Request) -> Active {
    Active {
        index,
        id: pool.begin(),
        sampling: request.sampling,
        stream: Stream::new(&[request.sampling.seed, PURPOSE_SAMPLE]),
        limit: request.tokens,
        all: Vec::new(),
        read: request.prompt.iter().map(|&token| token as i32).collect(),
    }
}

fn draw(text: &mut Active, logits: &[f32]) {
    let token = next_token(logits, &text.sampling, &mut text.stream);
    text.all.push(token);
    text.read.clear();
    text.read.push(token as i32);
}

fn is_finished(text: &Active, bounds: &Bounds<'_>) -> bool {
    let is_end = text.all.last().is_some_and(|token| bounds.ends.contains(token));
    is_end || text.all.len() >= text.limit
}

/// A text of no tokens has drawn one all the same, and so has one that the model ended.
fn finish(text: Active, bounds: &Bounds<'_>) -> Finished {
    let mut tokens = text.all;
    let ended = text.limit > 0 && tokens.last().is_some_and(|token| bounds.ends.contains(token));
    if ended || text.limit == 0 {
        tokens.pop();
    }
    Finished { index: text.index, tokens, ended }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample;
    use lingot_device::cpu::Cpu;
    use lingot_device::reference::Reference;
    use lingot_device::{Device, Kind};
    use lingot_spec::ModelSpec;
    use lingot_spec::presets::preset;

    fn tiny(device: Device) -> Model {
        let spec = ModelSpec {
            vocabulary: 90,
            width: 16,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_width: 8,
            rotary_width: 4,
            dense_width: 24,
            experts: 8,
            expert_width: 8,
            initial_deviation: 0.5,
            ..preset("toy").unwrap()
        };
        Model::new(&spec, &device, Kind::F32, 5).unwrap()
    }

    /// Requests of many lengths, some of which the model ends itself.
    fn requests(temperature: f64) -> Vec<Request> {
        let prompt = |n: u32| (0..1 + n * 7 % 23).map(|i| (i * 31 + n * 5) % 90).collect();
        let sampling = |seed| Sampling { temperature, top_p: 0.9, seed };
        let request = |n: u32| Request {
            prompt: prompt(n),
            sampling: sampling(u64::from(n % 3)),
            tokens: (n as usize * 13) % 120,
        };
        (0..40).map(request).collect()
    }

    /// Growing, moving and refilling included, every text is the one that is made alone.
    #[test]
    fn every_text_is_the_one_that_is_made_alone_whatever_runs_beside_it() {
        for device in [|| Device::new(Reference::new()), || Device::new(Cpu::new(2))] {
            let model = tiny(device());
            for (temperature, slots) in [(0.0, 32), (0.8, 32), (0.8, 3), (0.8, 1)] {
                let requests = requests(temperature);
                let ends = [3, 7];
                let bounds = Bounds { tokens: 0, vocabulary: 88, ends: &ends };
                let mut found = vec![None; requests.len()];
                sample_many(&model, &requests, slots, bounds, &|| true, &mut |finished| {
                    let index = finished.index;
                    assert!(found[index].replace(finished).is_none());
                    ControlFlow::Continue(())
                })
                .unwrap();
                let mut ended = 0;
                for (request, found) in requests.iter().zip(found) {
                    let bounds = Bounds { tokens: request.tokens, ..bounds };
                    let each = &mut |_| ControlFlow::Continue(());
                    let alone = sample(&model, &request.prompt, &request.sampling, bounds, each).unwrap();
                    let found = found.unwrap();
                    assert_eq!(found.tokens, alone, "{temperature} {slots} {}", found.index);
                    assert_eq!(found.ended, alone.len() < request.tokens);
                    ended += usize::from(found.ended);
                }
                assert!(ended > 0 && ended < 40, "{ended} of 40 were ended by the model");
            }
        }
    }

    #[test]
    fn a_prompt_that_cannot_be_read_is_an_error_before_anything_is_made() {
        let model = tiny(Device::new(Cpu::new(1)));
        let mut requests = requests(0.0);
        requests[30].prompt.push(90);
        let bounds = Bounds { tokens: 0, vocabulary: 90, ends: &[] };
        let error = sample_many(&model, &requests, 4, bounds, &|| true, &mut |_| unreachable!()).unwrap_err();
        assert!(error.problem.contains("token 90"), "{error}");
    }
}
