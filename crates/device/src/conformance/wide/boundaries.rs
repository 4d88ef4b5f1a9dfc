//! Sizes on both sides of each boundary at which a device changes its route.

use super::{AttentionShape, ExpertsShape, HeadShape, ProductShape, RoutingShape, RowsShape, Shapes};
use crate::boundary::{Boundary, Size};
use crate::op::{Flip, RouteRule};
use lingot_spec::Score;

/// Adds a size below, at and above each boundary.
pub(super) fn add(shapes: &mut Shapes, boundaries: &[Boundary]) {
    for &Boundary { op, size, at } in boundaries {
        match (op, size) {
            ("matmul", _) => shapes.products.extend(around(at).flat_map(|at| product(size, at))),
            ("grouped_matmul", _) => shapes.experts.extend(around(at).filter_map(|at| experts(size, at))),
            ("attention", Size::Keys) => shapes.attention.extend(around(at).map(|tokens| AttentionShape {
                tokens,
                heads: 2,
                kv_heads: 1,
                width: 16,
                document: tokens,
            })),
            ("attention", Size::HeadWidth) => {
                shapes.attention.extend(around(at).map(|width| AttentionShape {
                    tokens: 20,
                    heads: 2,
                    kv_heads: 1,
                    width,
                    document: 20,
                }))
            }
            ("attention", Size::Scores) => {
                let tokens = (at / SCORED_HEADS).isqrt();
                let shape = |tokens| AttentionShape {
                    tokens,
                    heads: SCORED_HEADS,
                    kv_heads: SCORED_HEADS / 2,
                    width: 8,
                    document: tokens,
                };
                shapes.attention.extend([shape(tokens), shape(tokens + 1)]);
            }
            ("cross_entropy", Size::Logits) => shapes.heads.extend(around(at / VOCABULARY).map(|tokens| {
                HeadShape { tokens, vocabulary: VOCABULARY, width: 16, targets: 16.min(tokens) }
            })),
            ("route", Size::Rows) => shapes.routing.extend(around(at).map(routing)),
            ("swiglu", Size::Elements) => {
                shapes.rows.extend(around(at / INNER).map(|rows| RowsShape::Swiglu([rows, INNER])));
            }
            (_, Size::Elements) => shapes.rows.extend([at, at + 1].map(RowsShape::Elements)),
            _ => {}
        }
    }
}

/// Heads of the attention whose scores reach a boundary.
const SCORED_HEADS: usize = 64;
/// Vocabulary of the head whose logits reach a boundary.
const VOCABULARY: usize = 8192;
/// Width of the SwiGLU whose elements reach a boundary.
const INNER: usize = 32;

/// The sizes next to a boundary, without 0.
fn around(at: usize) -> impl Iterator<Item = usize> {
    (at.saturating_sub(1).max(1)..=at + 1).collect::<Vec<usize>>().into_iter()
}

/// Products one of whose sizes is `at`, the others odd and small.
fn product(size: Size, at: usize) -> Vec<ProductShape> {
    let sizes = match size {
        Size::Rows => [at, 70, 67],
        Size::Columns => [67, 70, at],
        Size::Inner => [37, at, 67],
        _ => return vec![],
    };
    let [rows, inner, columns] = sizes;
    [Flip::NONE, Flip::A, Flip::B].map(|flip| ProductShape { rows, inner, columns, flip }).to_vec()
}

fn experts(size: Size, at: usize) -> Option<ExpertsShape> {
    let [rows, outer, inner] = match size {
        // Of three experts, each has about a third.
        Size::Rows => [3 * at, 33, 40],
        Size::Columns => [50, at, 40],
        Size::Inner => [50, 33, at],
        _ => return None,
    };
    Some(ExpertsShape { experts: 3, rows, outer, inner })
}

fn routing(tokens: usize) -> RoutingShape {
    let rule = RouteRule {
        score: Score::Sigmoid,
        choices: 3,
        groups: 4,
        groups_kept: 2,
        renormalise: true,
        scale: 2.5,
        scope_tokens: tokens,
    };
    RoutingShape { tokens, experts: 16, rule, is_biased: true, width: 24 }
}
