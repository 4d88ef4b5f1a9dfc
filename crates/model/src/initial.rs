//! Initial values of matrices, drawn by many threads: piece by piece, and each piece is written to the device
//! while the next are drawn.

use crate::bundle::{Bundle, numbers};
use crate::random::Stream;
use lingot_device::{Device, Result};
use lingot_spec::tensors::Role;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Separates the stream of initial values from others with the same seed.
const PURPOSE_INITIAL: u64 = 1;

/// Numbers of a piece, an even number: few against a model's, many against the cost of handing them over.
const PIECE: usize = 1 << 18;

/// A part of a tensor.
struct Piece {
    tensor: usize,
    /// Its first number among the tensor's, and how many there are.
    first: usize,
    count: usize,
}

impl Piece {
    fn values(&self, deviation: f64, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(&[seed, PURPOSE_INITIAL, self.tensor as u64]);
        stream.skip_normals(self.first as u64 / 2);
        stream.normal_values(self.count, deviation)
    }
}

/// Overwrites all matrices of a bundle with normal numbers of this deviation. Each tensor has a stream of its
/// own, and a piece begins where the piece before it ends: the numbers are the same whatever the threads do.
pub(crate) fn draw(bundle: &Bundle, deviation: f64, seed: u64) -> Result<()> {
    let pieces = pieces(bundle);
    let next = AtomicUsize::new(0);
    let take = || pieces.get(next.fetch_add(1, Ordering::Relaxed));
    let write = |piece: &Piece, values: &[f32]| {
        let tensor = &bundle.tensors[piece.tensor];
        tensor.reshape(&[tensor.len()]).rows(piece.first, piece.count).write_floats(values)
    };
    let threads = threads(bundle.flat.device()).min(pieces.len());
    std::thread::scope(|scope| {
        let (send, drawn) = mpsc::sync_channel(threads);
        for _ in 0..threads {
            let send = send.clone();
            let work = move || {
                while let Some(piece) = take() {
                    // Nobody receives once a piece could not be written.
                    if send.send((piece, piece.values(deviation, seed))).is_err() {
                        return;
                    }
                }
            };
            if std::thread::Builder::new().name("initial".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        drop(send);
        drawn.into_iter().try_for_each(|(piece, values)| write(piece, &values))
    })?;
    // Where the system has no thread for this.
    while let Some(piece) = take() {
        write(piece, &piece.values(deviation, seed))?;
    }
    Ok(())
}

fn pieces(bundle: &Bundle) -> Vec<Piece> {
    let matrices = bundle.specs.iter().enumerate().filter(|(_, spec)| spec.role == Role::Matrix);
    matrices
        .flat_map(|(tensor, spec)| {
            let all = numbers(spec);
            let piece = move |first| Piece { tensor, first, count: PIECE.min(all - first) };
            (0..all).step_by(PIECE).map(piece)
        })
        .collect()
}

/// Threads that draw: as many as compute on the host, or one for each of its processors.
fn threads(device: &Device) -> usize {
    match device.info().threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingot_device::Kind;
    use lingot_device::cpu::Cpu;
    use lingot_spec::presets::preset;

    #[test]
    fn initial_values_are_those_of_one_stream_per_tensor_whatever_the_threads() {
        let mut model = preset("toy").unwrap();
        // Of an odd number, and of more than one piece.
        (model.vocabulary, model.width) = (1_501, 501);
        for threads in [1, 3] {
            let device = Device::new(Cpu::new(threads));
            let bundle = Bundle::initial(&model, &device, Kind::F32, 7).unwrap();
            for (index, (spec, tensor)) in bundle.specs.iter().zip(&bundle.tensors).enumerate() {
                let mut stream = Stream::new(&[7, PURPOSE_INITIAL, index as u64]);
                let wanted = match spec.role {
                    Role::Matrix => stream.normal_values(tensor.len(), model.initial_deviation),
                    Role::Norm => vec![1.0; tensor.len()],
                };
                assert!(tensor.to_floats().unwrap() == wanted, "{} by {threads} threads", spec.name);
            }
        }
    }
}
