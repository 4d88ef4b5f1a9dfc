//! Sums are the same bits for all, and cost what was predicted.

use crate::numbers;
use lingot_sync::exchange::{Exchange, shard};
use lingot_sync::{sum, traffic};

#[test]
fn a_sum_is_taken_in_the_order_of_the_ranks() {
    // (1e8 + -1e8) + 1 keeps the 1; any other order of these f32 loses it.
    let parts: [&[f32]; 3] = [&[1e8], &[-1e8], &[1.0]];
    assert_eq!(sum::weighted(&parts, &[1.0; 3]), [1.0]);
    let parts: [&[f32]; 3] = [&[1e8], &[1.0], &[-1e8]];
    assert_eq!(sum::weighted(&parts, &[1.0; 3]), [0.0]);
    assert_eq!(sum::weighted(&[&[2.0, 4.0], &[6.0, 8.0]], &[0.25, 0.5]), [3.5, 5.0]);
}

#[test]
fn a_part_of_weight_0_leaves_no_trace() {
    assert_eq!(sum::weighted(&[&[f32::NAN], &[3.0]], &[0.0, 1.0]), [3.0]);
    assert_eq!(sum::weighted(&[&[3.0], &[f32::INFINITY]], &[1.0, 0.0]), [3.0]);
}

#[test]
fn shards_change_no_bit_of_a_sum() {
    for workers in 1..9 {
        let parts: Vec<Vec<f32>> = (0..workers).map(|rank| numbers(rank as u64 + 1, 101)).collect();
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let weights = numbers(77, workers);
        let whole = sum::weighted(&parts, &weights);
        let sharded = Exchange::default().sum(&parts, &weights);
        assert!(whole.iter().zip(&sharded).all(|(a, b)| a.to_bits() == b.to_bits()), "{workers} workers");
    }
}

#[test]
fn shards_cover_everything_once() {
    for (length, workers) in [(0, 3), (1, 4), (10, 3), (101, 8)] {
        let mut next = 0;
        for rank in 0..workers {
            let numbers = shard(length, rank, workers);
            assert!(numbers.start == next && numbers.end >= numbers.start);
            next = numbers.end;
        }
        assert_eq!(next, length);
    }
}

#[test]
fn the_bytes_of_a_meeting_are_those_predicted() {
    for workers in 1..9_usize {
        let groups = [7, 1, 130];
        let mut exchange = Exchange::default();
        for &length in &groups {
            assert_eq!(exchange.gather(&vec![1.0; workers]).len(), workers);
            for length in [length, 3] {
                let part = vec![1.0; length];
                exchange.sum(&vec![part.as_slice(); workers], &vec![1.0; workers]);
            }
        }
        let parameters = groups.iter().sum::<usize>() as u64;
        let predicted = traffic::meeting_bytes(workers as u64, parameters, 9, 3);
        assert_eq!(exchange.take_bytes(), predicted, "{workers} workers");
        assert_eq!(exchange.take_bytes(), 0);
    }
    // By hand: 4 workers, 10 numbers: each number goes to its summer three times and back three times, 4
    // bytes each.
    assert_eq!(traffic::sum_bytes(4, 10), 240);
    assert_eq!(traffic::gather_bytes(4, 2), 96);
    assert_eq!(traffic::every_step_bytes(1, 10), 0);
}
