//! Gradients along a token's way to its experts and back.

use super::{Check, random_values, zeros_like};
use lingot_device::{Kind, Result, RouteRule, Tensor, ops};
use lingot_spec::Score;

#[test]
pub(super) fn route_has_the_gradient_of_finite_differences() {
    for (rule, t, e) in rules() {
        for biased in [false, true] {
            let bias: Vec<f64> = (0..e).map(|i| if biased { 0.3 * (i as f64).sin() } else { 0.0 }).collect();
            Check {
                name: &format!("route {rule:?} {t} {e} {biased}"),
                inputs: &[&[t, e]],
                forward: &|x| {
                    let (routing, losses) = routed(&x[0], &bias, rule)?;
                    Ok(vec![routing.weights_tk, losses])
                },
                backward: &|x, d| {
                    let (routing, _) = routed(&x[0], &bias, rule)?;
                    let scales = d[1].to_doubles()?;
                    Ok(vec![ops::route_grad(
                        &d[0],
                        &x[0],
                        &routing,
                        rule,
                        [scales[0], scales[1]],
                        1.0,
                        Kind::F64,
                    )?])
                },
            }
            .run();
        }
    }
}

#[test]
pub(super) fn warm_logits_have_the_gradient_of_finite_differences() {
    let (keep, mean, deviation) = (0.3, 0.1, 1.5);
    for (rule, t, e) in rules() {
        let warmed = |x: &Tensor| -> Result<Tensor> {
            let (logits, noise) = (zeros_like(x)?, zeros_like(x)?);
            ops::copy(&logits, x)?;
            noise.write_doubles(&random_values(t * e, 77))?;
            ops::warm_logits(&logits, &noise, keep, mean, deviation)?;
            Ok(logits)
        };
        Check {
            name: &format!("warm_logits {rule:?}"),
            inputs: &[&[t, e]],
            forward: &|x| {
                let (routing, losses) = routed(&warmed(&x[0])?, &vec![0.0; e], rule)?;
                Ok(vec![routing.weights_tk, losses])
            },
            backward: &|x, d| {
                let logits = warmed(&x[0])?;
                let (routing, _) = routed(&logits, &vec![0.0; e], rule)?;
                let scales = d[1].to_doubles()?;
                Ok(vec![ops::route_grad(
                    &d[0],
                    &logits,
                    &routing,
                    rule,
                    [scales[0], scales[1]],
                    keep,
                    Kind::F64,
                )?])
            },
        }
        .run();
    }
}

#[test]
pub(super) fn dispatch_and_combine_are_each_others_gradients() {
    let (t, k, d, e) = (4, 2, 3, 5);
    let experts = [3, 0, 0, 4, 3, 4, 1, 3];
    let sorted = |like: &Tensor| -> Result<ops::Sorted> {
        ops::sort_by_expert(&like.device().integers(&experts, &[t, k])?, e)
    };
    Check {
        name: "dispatch",
        inputs: &[&[t, d]],
        forward: &|x| Ok(vec![ops::dispatch(&x[0], &sorted(&x[0])?.order_r, k)?]),
        backward: &|x, d| Ok(vec![ops::combine(&d[0], &sorted(&x[0])?.places_tk)?]),
    }
    .run();
    Check {
        name: "combine",
        inputs: &[&[t * k, d]],
        forward: &|x| Ok(vec![ops::combine(&x[0], &sorted(&x[0])?.places_tk)?]),
        backward: &|x, d| Ok(vec![ops::dispatch(&d[0], &sorted(&x[0])?.order_r, k)?]),
    }
    .run();
}

/// Routers of both generations: tokens and experts after each.
fn rules() -> Vec<(RouteRule, usize, usize)> {
    let plain = RouteRule {
        score: Score::Softmax,
        choices: 2,
        groups: 1,
        groups_kept: 1,
        renormalise: true,
        scale: 1.0,
        scope_tokens: 6,
    };
    let mut rules = vec![];
    for score in [Score::Softmax, Score::Sigmoid] {
        for renormalise in [true, false] {
            let rule = RouteRule { score, renormalise, ..plain };
            rules.push((rule, 6, 5));
            rules.push((RouteRule { choices: 1, scope_tokens: 1, ..rule }, 1, 3));
            rules.push((
                RouteRule { choices: 3, scale: 2.5, groups: 4, groups_kept: 2, scope_tokens: 2, ..rule },
                6,
                8,
            ));
            rules.push((RouteRule { choices: 4, groups: 4, groups_kept: 4, scope_tokens: 3, ..rule }, 3, 4));
        }
    }
    rules
}

/// Routes in f64; gives the two losses too.
fn routed(logits: &Tensor, bias: &[f64], rule: RouteRule) -> Result<(ops::Routing, Tensor)> {
    let device = logits.device();
    let e = bias.len();
    let (loads, losses) = (device.zeros(&[e], Kind::I32)?, device.zeros(&[2], Kind::F64)?);
    let bias_e = device.empty(&[e], Kind::F64)?;
    bias_e.write_doubles(bias)?;
    Ok((ops::route(logits, Some(&bias_e), rule, &loads, &losses)?, losses))
}
