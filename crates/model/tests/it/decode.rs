//! Reading a text token by token gives the logits of reading it at once.

use crate::{configurations, shaken};
use lingot_device::reference::Reference;
use lingot_device::{Device, Kind};
use lingot_model::{Cache, Inputs, Rows};

#[test]
fn decoding_in_pieces_gives_the_logits_of_the_whole() {
    for (name, spec) in configurations() {
        let model = shaken(&spec, &Device::new(Reference::new()), Kind::F64);
        let tokens: Vec<i32> = (0..9).map(|place| (place * 7 + 3) % spec.vocabulary as i32).collect();
        let rows = Rows {
            tokens_t: &tokens,
            targets_t: &[-1; 9],
            starts_t: &[0; 9],
            positions_t: &[0, 1, 2, 3, 4, 5, 6, 7, 8],
            sequence: 9,
        };
        let inputs = Inputs::new(&model.device, rows, false).unwrap();
        let whole = model.logits(&inputs).unwrap().to_floats().unwrap();
        let last = &whole[8 * spec.vocabulary as usize..];
        for pieces in [vec![9], vec![4, 5], vec![5, 1, 1, 1, 1], vec![1; 9]] {
            let mut cache = Cache::new(&model, 12).unwrap();
            let mut from = 0;
            let mut logits = Vec::new();
            for &piece in &pieces {
                logits = model.read(&mut cache, &tokens[from..from + piece]).unwrap();
                from += piece;
            }
            for (at_once, decoded) in last.iter().zip(&logits) {
                assert!((at_once - decoded).abs() < 1e-6, "{name}, {pieces:?}: {at_once} and {decoded}");
            }
        }
    }
}
