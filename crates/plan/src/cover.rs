//! The cheapest fractional fleet that is fast enough: a covering problem with one row, which a greedy rule
//! solves.
//!
//! To finish a step in `t` seconds, replicas must cover the batch: `sum n_i (t r_i - r_i a_i) >= B`. All ways
//! of one chip share its cards and a price per card, so the way that covers most per card is also the
//! cheapest per covered token; taking ways by price per covered token is then best within a chip and between
//! chips. Replicas over two chips are taken to need no cards, which loosens the bound and keeps it a bound.

use crate::fleet::{Cap, Question, Way};

/// Replicas between `low` and `high`, by way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub low: Vec<u32>,
    pub high: Vec<u32>,
}

/// The least sum of weights, and replicas by way, of which at most one is not a whole number.
pub(crate) struct Cover {
    pub sum: f64,
    pub counts: Vec<f64>,
}

impl Bounds {
    pub(crate) fn all(question: &Question) -> Bounds {
        let most = |(chip, cards): (usize, u32)| question.cards[chip] / cards;
        let high = question.ways.iter().map(|way| way.uses().map(most).min().unwrap_or(0)).collect();
        Bounds { low: vec![0; question.ways.len()], high }
    }

    /// Lowers the high counts to what the cards allow beside the others' low counts; false where no fleet is
    /// left.
    pub(crate) fn tighten(&mut self, question: &Question) -> bool {
        let Some(left) = self.left(question) else { return false };
        for (at, way) in question.ways.iter().enumerate() {
            let more = way.uses().map(|(chip, cards)| left[chip] / cards).min().unwrap_or(0);
            self.high[at] = self.high[at].min(self.low[at].saturating_add(more));
        }
        self.low.iter().zip(&self.high).all(|(low, high)| low <= high)
    }

    pub(crate) fn is_point(&self) -> bool {
        self.low == self.high
    }

    /// Cards that the low counts leave, by chip.
    pub(crate) fn left(&self, question: &Question) -> Option<Vec<u32>> {
        let mut left = question.cards.clone();
        for (way, low) in question.ways.iter().zip(&self.low) {
            for (chip, cards) in way.uses() {
                left[chip] = left[chip].checked_sub(low.checked_mul(cards)?)?;
            }
        }
        Some(left)
    }
}

/// The least `sum n_i weight_i` of fleets within the bounds whose step takes at most `step_s`; none where all
/// are slower. `weight` must be the same per card for all ways of a chip.
pub(crate) fn cover(
    question: &Question,
    bounds: &Bounds,
    step_s: f64,
    weight: &dyn Fn(&Way) -> f64,
) -> Option<Cover> {
    Fractions::new(question, bounds, step_s, weight, &[])?.cover()
}

/// The least price per second of fleets that keep the caps too. Where a cap limits a vendor, the others have
/// to reach their part of the slowest allowed speed, and the least cost of that part is spent on them first.
/// Caps are applied together where no chip is outside the vendors of two caps; otherwise the strictest single
/// cap gives the bound.
pub(crate) fn cheapest(question: &Question, bounds: &Bounds, step_s: f64) -> Option<Cover> {
    let caps: Vec<&Cap> = question.caps.iter().filter(|cap| cap.share < 1.0).collect();
    let is_apart =
        (0..question.cards.len()).all(|chip| caps.iter().filter(|cap| !cap.counts[chip]).count() < 2);
    let sets: Vec<&[&Cap]> = if is_apart { vec![&caps] } else { caps.chunks(1).collect() };
    let mut most: Option<Cover> = None;
    for caps in sets {
        let cover = Fractions::new(question, bounds, step_s, &|way| way.price_per_s, caps)?.cover()?;
        if most.as_ref().is_none_or(|most| cover.sum > most.sum) {
            most = Some(cover);
        }
    }
    most
}

/// A way, or its part on one chip where caps tell its two chips apart: what it weighs, covers and adds in
/// speed.
struct Piece {
    way: usize,
    weight: f64,
    covers: f64,
    speed: f64,
    /// The cap whose vendor it does not belong to.
    floor: Option<usize>,
}

/// A fleet that grows from the low counts.
struct Fractions<'a> {
    question: &'a Question,
    bounds: &'a Bounds,
    caps: &'a [&'a Cap],
    step_s: f64,
    /// Pieces that can grow, the least weight per covered token first.
    pieces: Vec<Piece>,
    /// Replicas by piece.
    counts: Vec<f64>,
    /// Tokens that pieces of fixed count cover, and their speed by cap.
    covered: f64,
    speeds: Vec<f64>,
    /// Free cards by chip.
    left: Vec<f64>,
    sum: f64,
}

impl<'a> Fractions<'a> {
    fn new(
        question: &'a Question,
        bounds: &'a Bounds,
        step_s: f64,
        weight: &dyn Fn(&Way) -> f64,
        caps: &'a [&'a Cap],
    ) -> Option<Fractions<'a>> {
        let left = bounds.left(question)?.into_iter().map(f64::from).collect();
        let floor = |chip: usize| caps.iter().position(|cap| !cap.counts[chip]);
        let mut pieces = Vec::with_capacity(question.ways.len());
        for (at, way) in question.ways.iter().enumerate() {
            let covers = way.tokens_per_s * (step_s - way.fixed_s);
            let piece = |share: f64, weight: f64, chip: usize| Piece {
                way: at,
                weight,
                covers: share * covers,
                speed: share * way.tokens_per_s,
                floor: floor(chip),
            };
            match way.second.filter(|second| floor(second.chip) != floor(way.chip)) {
                None => pieces.push(piece(1.0, weight(way), way.chip)),
                Some(second) => {
                    let others = weight(way) * second.price_per_s / way.price_per_s;
                    pieces.push(piece(1.0 - second.share, weight(way) - others, way.chip));
                    pieces.push(piece(second.share, others, second.chip));
                }
            }
        }
        let mut sum = 0.0;
        let mut covered = 0.0;
        let mut speeds = vec![0.0; caps.len()];
        pieces.retain(|piece| {
            let [low, high] = [bounds.low[piece.way], bounds.high[piece.way]];
            if low == high && low > 0 {
                sum += f64::from(low) * piece.weight;
                covered += f64::from(low) * piece.covers;
                piece.floor.into_iter().for_each(|floor| speeds[floor] += f64::from(low) * piece.speed);
            }
            low < high
        });
        // Among ways without a weight, those that need the fewest cards leave the most to the others.
        let key = |piece: &Piece| {
            let cards = f64::from(question.ways[piece.way].all_cards());
            [piece.weight, cards].map(|of| if piece.covers > 0.0 { of / piece.covers } else { f64::INFINITY })
        };
        pieces.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1]))
        });
        let counts: Vec<f64> = pieces.iter().map(|piece| f64::from(bounds.low[piece.way])).collect();
        sum += pieces.iter().zip(&counts).map(|(piece, count)| piece.weight * count).sum::<f64>();
        Some(Fractions { question, bounds, caps, step_s, pieces, counts, covered, speeds, left, sum })
    }

    fn cover(mut self) -> Option<Cover> {
        // All floors are computed before any is spent on: each is the cost of its part from the low counts
        // on.
        let floors = (0..self.caps.len()).map(|floor| self.floor(floor)).collect::<Option<Vec<f64>>>()?;
        for (floor, mut left) in floors.into_iter().enumerate() {
            for at in 0..self.pieces.len() {
                let Piece { weight, covers, floor: of, .. } = self.pieces[at];
                if of == Some(floor) && weight > 0.0 && covers > 0.0 && left > 0.0 {
                    left -= weight * self.add(at, left / weight);
                }
            }
            self.sum += left.max(0.0);
        }
        let wanted = self.question.batch_tokens;
        let grown: f64 =
            self.pieces.iter().zip(&self.counts).map(|(piece, count)| piece.covers * count).sum();
        let mut missing = wanted - self.covered - grown;
        for at in 0..self.pieces.len() {
            let covers = self.pieces[at].covers;
            if covers > 0.0 && missing > 0.0 {
                missing -= covers * self.add(at, missing / covers);
            }
        }
        if missing > wanted * 1e-9 {
            return None;
        }
        let mut counts: Vec<f64> = self.bounds.low.iter().copied().map(f64::from).collect();
        for (piece, count) in self.pieces.iter().zip(&self.counts) {
            counts[piece.way] = counts[piece.way].max(*count);
        }
        Some(Cover { sum: self.sum, counts })
    }

    /// The least weight with which the other vendors of a cap reach their part of the speed; none where they
    /// cannot.
    fn floor(&self, floor: usize) -> Option<f64> {
        let speed = (1.0 - self.caps[floor].share) * self.question.batch_tokens / self.step_s;
        let mut missing = speed - self.speeds[floor];
        let mut own: Vec<usize> = (0..self.pieces.len())
            .filter(|&at| self.pieces[at].floor == Some(floor) && self.pieces[at].speed > 0.0)
            .collect();
        missing -= own.iter().map(|&at| self.pieces[at].speed * self.counts[at]).sum::<f64>();
        if missing <= 0.0 {
            return Some(0.0);
        }
        let per_speed = |at: &usize| self.pieces[*at].weight / self.pieces[*at].speed;
        own.sort_by(|a, b| per_speed(a).total_cmp(&per_speed(b)));
        let mut left = self.left.clone();
        let mut sum = 0.0;
        for at in own {
            let piece = &self.pieces[at];
            let more = self.room(piece, &left, self.counts[at]).min(missing / piece.speed).max(0.0);
            self.take(piece, more, &mut left);
            missing -= more * piece.speed;
            sum += more * piece.weight;
        }
        (missing <= speed * 1e-9).then_some(sum)
    }

    fn room(&self, piece: &Piece, left: &[f64], count: f64) -> f64 {
        let way = &self.question.ways[piece.way];
        let cards = if way.second.is_some() { f64::INFINITY } else { left[way.chip] / f64::from(way.cards) };
        (f64::from(self.bounds.high[piece.way]) - count).min(cards)
    }

    fn take(&self, piece: &Piece, more: f64, left: &mut [f64]) {
        let way = &self.question.ways[piece.way];
        if way.second.is_none() {
            left[way.chip] -= more * f64::from(way.cards);
        }
    }

    /// Adds up to `wanted` replicas of a piece, as far as there is room; returns how many.
    fn add(&mut self, at: usize, wanted: f64) -> f64 {
        let piece = &self.pieces[at];
        let more = self.room(piece, &self.left, self.counts[at]).min(wanted).max(0.0);
        let mut left = std::mem::take(&mut self.left);
        self.take(piece, more, &mut left);
        self.left = left;
        self.sum += more * self.pieces[at].weight;
        self.counts[at] += more;
        more
    }
}

/// The shortest and the longest shared step of fleets within the bounds, each way with all the cards it could
/// use.
pub(crate) fn steps_between(question: &Question, bounds: &Bounds) -> [f64; 2] {
    let extreme = |is_better: &dyn Fn(f64, f64) -> bool| {
        let (mut work, mut speed) = (question.batch_tokens, 0.0);
        for (way, &low) in question.ways.iter().zip(&bounds.low) {
            work += f64::from(low) * way.tokens_per_s * way.fixed_s;
            speed += f64::from(low) * way.tokens_per_s;
        }
        let mut order: Vec<usize> = (0..question.ways.len()).collect();
        order.sort_by(|&a, &b| question.ways[a].fixed_s.total_cmp(&question.ways[b].fixed_s));
        if is_better(2.0, 1.0) {
            order.reverse();
        }
        for at in order {
            let way = &question.ways[at];
            // More of what takes less (more) than the mean lowers (raises) the mean.
            if is_better(way.fixed_s, work / speed) {
                let more = f64::from(bounds.high[at] - bounds.low[at]);
                work += more * way.tokens_per_s * way.fixed_s;
                speed += more * way.tokens_per_s;
            }
        }
        work / speed
    };
    [extreme(&|a, b| a < b), extreme(&|a, b| a > b)]
}
