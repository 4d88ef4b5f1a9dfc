//! The ledger with a given clock: every nanosecond has one name, kills cost what they cost, and money
//! follows.

use lingot_spec::event::{self, DeviceSeconds, Evaluation, Event};
use lingot_train::record::ledger::{Busy, Ledger, Mark, Part, money_without, to_target};
use std::time::{Duration, Instant};

const MS: u64 = 1_000_000;

fn at(begin: Instant, nanoseconds: u64) -> Instant {
    begin + Duration::from_nanos(nanoseconds)
}

fn one(begin: Instant) -> Ledger {
    Ledger::new(&[("cpu".into(), Some(3600.0))], begin)
}

/// The parts of every device sum to the wall clock, to the nanosecond.
#[track_caller]
fn is_exact(ledger: &Ledger, devices: usize) {
    for device in 0..devices {
        let sum: Duration = ledger.parts(device).unwrap().iter().sum();
        assert_eq!(sum, ledger.wall(), "device {device}");
    }
}

#[test]
fn every_nanosecond_goes_to_one_part() {
    let begin = Instant::now();
    let mut ledger = one(begin);
    let laps = [Part::Idle, Part::Compute, Part::Evaluation, Part::Compute, Part::Checkpoint, Part::Exchange];
    let mut now = 0;
    for (index, part) in laps.into_iter().enumerate() {
        now += 7 * MS + index as u64 * 13;
        ledger.lap(part, at(begin, now));
        is_exact(&ledger, 1);
    }
    assert_eq!(ledger.wall(), Duration::from_nanos(now));
    let parts = ledger.parts(0).unwrap();
    assert_eq!(parts[Part::Compute as usize], Duration::from_nanos(14 * MS + 4 * 13));
    assert_eq!(ledger.money(), Some(Duration::from_nanos(now).as_secs_f64()));
}

#[test]
fn a_clock_that_stands_still_or_goes_back_spends_nothing() {
    let begin = Instant::now();
    let mut ledger = one(begin);
    ledger.lap(Part::Compute, at(begin, 5 * MS));
    ledger.lap(Part::Idle, at(begin, 5 * MS));
    ledger.lap(Part::Lost, at(begin, 2 * MS));
    ledger.lap(Part::Idle, at(begin, 6 * MS));
    is_exact(&ledger, 1);
    assert_eq!(ledger.wall(), Duration::from_nanos(6 * MS));
}

#[test]
fn a_fleet_is_idle_where_it_neither_computes_nor_exchanges() {
    let begin = Instant::now();
    let mut ledger =
        Ledger::new(&[("a".into(), Some(1.0)), ("b".into(), Some(2.0)), ("c".into(), None)], begin);
    let busy = |compute_ms: u64, exchange_ms: u64| Busy {
        compute: Duration::from_nanos(compute_ms * MS),
        exchange: Duration::from_nanos(exchange_ms * MS),
        tokens: 7,
    };
    // The second claims more than there was; of the third nothing is known.
    ledger.lap_fleet(&[busy(6, 1), busy(9, 8)], at(begin, 10 * MS));
    is_exact(&ledger, 3);
    let idle_ms = |device: usize| ledger.parts(device).unwrap()[Part::Idle as usize].as_millis();
    assert_eq!([idle_ms(0), idle_ms(1), idle_ms(2)], [3, 0, 10]);
    assert_eq!(ledger.money(), None, "a device without a price makes no sum");
}

#[test]
fn the_seconds_between_the_checkpoint_and_the_death_are_lost() {
    let begin = Instant::now();
    let mut first = one(begin);
    first.lap(Part::Compute, at(begin, 100 * MS));
    first.lap(Part::Checkpoint, at(begin, 110 * MS));
    let mut events = vec![Event::Ledger(first.line(5, 500, None))];
    first.lap(Part::Compute, at(begin, 150 * MS));
    first.lap(Part::Idle, at(begin, 153 * MS));
    events.push(Event::Ledger(first.line(8, 800, None)));

    let mut second = one(begin);
    second.resume(&events, 5, 0.110);
    is_exact(&second, 1);
    let lost_ms = |ledger: &Ledger| ledger.parts(0).unwrap()[Part::Lost as usize].as_millis();
    assert_eq!((lost_ms(&second), second.wall()), (43, first.wall()));
    assert!((second.money().unwrap() - first.money().unwrap()).abs() < 1e-12);

    // Killed again, before a second checkpoint: what was lost stays lost, and more is.
    second.lap(Part::Compute, at(begin, 20 * MS));
    let again = [
        events[0].clone(),
        Event::Ledger(second.line(5, 500, None)),
        Event::Ledger(second.line(7, 700, None)),
    ];
    let mut third = one(begin);
    third.resume(&again[..2], 5, 0.110);
    assert_eq!(lost_ms(&third), 43, "the line at the checkpoint's own step is kept");
    let unkept = [events[0].clone(), Event::Ledger(second.line(7, 700, None))];
    let mut third = one(begin);
    third.resume(&unkept, 5, 0.110);
    is_exact(&third, 1);
    assert_eq!((lost_ms(&third), third.wall().as_millis()), (63, 173));
}

#[test]
fn a_price_that_changes_holds_from_then_on_and_a_device_that_leaves_keeps_its_bill() {
    let begin = Instant::now();
    let mut first = one(begin);
    first.lap(Part::Compute, at(begin, 100 * MS));
    let events = [Event::Ledger(first.line(5, 500, None))];
    let mut dearer = Ledger::new(&[("cpu".into(), Some(7200.0))], begin);
    dearer.resume(&events, 5, 0.1);
    dearer.lap(Part::Compute, at(begin, 50 * MS));
    assert!((dearer.money().unwrap() - 0.2).abs() < 1e-12);
    let mut other = Ledger::new(&[("gpu".into(), Some(36000.0))], begin);
    other.resume(&events, 5, 0.1);
    other.lap(Part::Compute, at(begin, 10 * MS));
    assert!((other.money().unwrap() - 0.2).abs() < 1e-12);
    let line = other.line(6, 600, None);
    assert_eq!(line.devices.len(), 2);
    assert!((line.seconds - 0.11).abs() < 1e-12);
}

#[test]
fn a_checkpoint_without_a_ledger_brings_its_seconds_as_computing() {
    let mut ledger = one(Instant::now());
    ledger.resume(&[], 40, 12.5);
    is_exact(&ledger, 1);
    assert_eq!(ledger.parts(0).unwrap()[Part::Compute as usize], Duration::from_millis(12_500));
    assert_eq!(ledger.money(), Some(12.5));
}

#[test]
fn the_target_is_counted_once_reached_and_extrapolated_before() {
    let begin = Instant::now();
    let mut ledger = one(begin);
    let loss_at = |tokens: u64| 10.0 - (tokens as f64).ln();
    for (index, tokens) in [0, 100, 200, 400, 800].into_iter().enumerate() {
        ledger.lap(Part::Compute, at(begin, tokens * MS));
        ledger.mark(if index == 0 { 9.0 } else { loss_at(tokens) }, tokens);
    }
    let reached = ledger.line(8, 800, Some(loss_at(400))).target.unwrap();
    assert!(reached.is_reached && reached.tokens == 400.0, "{reached:?}");
    assert!((reached.money.unwrap() - 0.4).abs() < 1e-12);
    let ahead = ledger.line(8, 800, Some(loss_at(1600))).target.unwrap();
    assert!(!ahead.is_reached && (ahead.tokens - 1600.0).abs() < 1e-6, "{ahead:?}");
    assert!((ahead.seconds - 1.6).abs() < 1e-9);
    assert_eq!(ledger.line(8, 800, None).target, None);
}

#[test]
fn a_loss_that_does_not_fall_reaches_no_target() {
    let mark = |loss, tokens| Mark { loss, tokens, seconds: 1.0, money: None };
    let now = mark(f64::NAN, 30.0);
    assert_eq!(to_target(&[mark(5.0, 10.0), mark(5.0, 20.0), mark(5.1, 30.0)], now, 4.0), None);
    assert_eq!(to_target(&[mark(5.0, 10.0)], now, 4.0), None);
    assert_eq!(to_target(&[mark(f64::NAN, 10.0), mark(5.0, 20.0)], now, 4.0), None);
}

#[test]
fn a_held_out_loss_is_dated_by_the_ledger_line_after_it() {
    let begin = Instant::now();
    let mut ledger = one(begin);
    ledger.lap(Part::Evaluation, at(begin, 70 * MS));
    let scored = Evaluation { step: 3, loss: 4.0, perplexity: 54.6, bits_per_byte: None };
    let events = [Event::Evaluation(scored), Event::Ledger(ledger.line(3, 300, None))];
    let marks = lingot_train::record::ledger::marks(&events, u64::MAX);
    assert_eq!(marks.len(), 1);
    assert!((marks[0].seconds - 0.07).abs() < 1e-12 && marks[0].money == ledger.money());
}

#[test]
fn a_device_is_paid_for_from_when_it_comes_until_it_is_taken_out() {
    let begin = Instant::now();
    let mut ledger = one(begin);
    ledger.lap(Part::Compute, at(begin, 10 * MS));
    ledger.note_device(1, "late", Some(7200.0), true);
    let busy = |tokens| Busy { compute: Duration::from_nanos(4 * MS), exchange: Duration::ZERO, tokens };
    ledger.lap_fleet(&[busy(100), busy(200)], at(begin, 20 * MS));
    ledger.note_device(0, "cpu", Some(3600.0), false);
    ledger.lap_fleet(&[busy(100), busy(200)], at(begin, 30 * MS));
    let line = ledger.line(2, 600, None);
    let tokens: Vec<u64> = line.devices.iter().map(|device| device.tokens).collect();
    assert_eq!(tokens, [100, 400]);
    let seconds: Vec<f64> = line.devices.iter().map(|device| device.seconds()).collect();
    assert!((seconds[0] - 0.02).abs() < 1e-12 && (seconds[1] - 0.02).abs() < 1e-12, "{seconds:?}");
    let money: Vec<f64> = line.devices.iter().map(|device| device.money.unwrap()).collect();
    assert!((money[0] - 0.02).abs() < 1e-12 && (money[1] - 0.04).abs() < 1e-12, "{money:?}");
}

#[test]
fn a_device_earns_its_keep_where_the_others_alone_would_be_dearer() {
    // 10 hours: the fast one 3,000,000 tokens, the slow one 1,000,000; both computed all the time.
    let device = |tokens, per_hour| DeviceSeconds {
        tokens,
        compute_s: 36_000.0,
        per_hour: Some(per_hour),
        ..DeviceSeconds::default()
    };
    let ledger = |slow_price| event::Ledger {
        seconds: 36_000.0,
        tokens: 4_000_000,
        devices: vec![device(3_000_000, 3.0), device(1_000_000, slow_price)],
        ..event::Ledger::default()
    };
    // Without the slow one, the fast one takes 13.3 hours: 40 for four million tokens.
    let without = money_without(&ledger(0.5), 1).unwrap();
    assert!((without - 10.0).abs() < 1e-9, "{without}");
    // Together (3 + 0.5) x 10 / 4 = 8.75: it earns its keep; at 2 an hour, 12.5, it does not.
    assert!(35.0 / 4.0 < without && 50.0 / 4.0 > money_without(&ledger(2.0), 1).unwrap());
    let alone = event::Ledger { devices: vec![device(4_000_000, 1.0)], ..ledger(1.0) };
    assert_eq!(money_without(&alone, 0), None);
}
