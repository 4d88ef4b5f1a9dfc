//! The outer step of EDiT, which all workers take together: gradient descent with Nesterov's momentum on the
//! last agreed values (arXiv 2412.07210).

use lingot_spec::run::OuterSpec;

/// Moves `agreed` against the mean change `delta`, in place: PyTorch's SGD with `nesterov=True` and no
/// dampening, which EDiT's released code uses. With `m` the momentum and `r` the rate:
///
/// ```text
/// velocity <- m velocity + delta
/// agreed   <- agreed - r (delta + m velocity)
/// ```
///
/// Momentum 0 and rate 1 give the mean of the workers.
pub fn step(agreed: &mut [f32], velocity: &mut [f32], delta: &[f32], spec: &OuterSpec) {
    let (rate, momentum) = (spec.rate as f32, spec.momentum as f32);
    for ((agreed, velocity), &delta) in agreed.iter_mut().zip(velocity).zip(delta) {
        *velocity = momentum * *velocity + delta;
        *agreed -= rate * (delta + momentum * *velocity);
    }
}
