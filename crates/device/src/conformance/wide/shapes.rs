//! The sizes at which the suite checks a device: those of the published models, or of one model.

use super::{SampledCase, attention, boundaries, head, products};
use crate::boundary::Boundary;
use crate::conformance::bench::Case;
use crate::conformance::{optimizer, products as small_products, routing, rows};
use crate::op::{Flip, RouteRule};
use crate::tensor::Kind;
use lingot_spec::{ModelSpec, Score};

/// A matrix product `[rows, inner] x [inner, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductShape {
    /// Rows of the result.
    pub rows: usize,
    /// Length of the sums.
    pub inner: usize,
    /// Columns of the result.
    pub columns: usize,
    /// Which operands are stored transposed.
    pub flip: Flip,
}

/// The products of the experts: `experts` matrices `[outer, inner]` and `rows` rows among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsShape {
    /// The number of experts.
    pub experts: usize,
    /// Rows of all experts together.
    pub rows: usize,
    /// Rows of a matrix.
    pub outer: usize,
    /// Columns of a matrix.
    pub inner: usize,
}

/// A head with its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Tokens.
    pub tokens: usize,
    /// Rows of the head.
    pub vocabulary: usize,
    /// The model's width.
    pub width: usize,
    /// How many of the tokens have a target. The definition computes the logits of these alone.
    pub targets: usize,
}

/// Attention in one sequence of documents of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Tokens.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Tokens of a document; the last one may be shorter.
    pub document: usize,
}

/// Routing, and the way of rows to their experts and back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoutingShape {
    /// Tokens.
    pub tokens: usize,
    /// Experts.
    pub experts: usize,
    /// How they are chosen.
    pub rule: RouteRule,
    /// Whether a selection bias is added to the scores.
    pub is_biased: bool,
    /// The model's width.
    pub width: usize,
}

/// An op that works row by row or element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsShape {
    /// RMSNorm of `[rows, width]`.
    Norm([usize; 2]),
    /// SwiGLU of `[rows, inner]`.
    Swiglu([usize; 2]),
    /// RoPE of `[tokens, heads, head width]`, of which the last number of channels is rotated.
    Rope([usize; 3], usize),
    /// Lookup of tokens: `[tokens, vocabulary, width]`.
    Embedding([usize; 3]),
    /// The column norms of a head `[vocabulary, width]`.
    HeadNorm([usize; 2]),
    /// Sums, copies and the optimizer over a number of elements.
    Elements(usize),
    /// The step of a selection bias of a number of experts.
    Bias(usize),
}

/// All sizes of a suite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shapes {
    /// Products, forward and backward.
    pub products: Vec<ProductShape>,
    /// Products of experts; all three of each.
    pub experts: Vec<ExpertsShape>,
    /// Heads.
    pub heads: Vec<HeadShape>,
    /// Attention.
    pub attention: Vec<AttentionShape>,
    /// Routing.
    pub routing: Vec<RoutingShape>,
    /// Everything else.
    pub rows: Vec<RowsShape>,
}

const FLIPS: [Flip; 4] = [Flip::NONE, Flip::A, Flip::B, Flip { a: true, b: true }];

/// The width of a table of the whole vocabulary.
const FEW_COLUMNS: usize = 32;
/// The largest number of elements that sums, tables and the optimizer are tried with.
const MOST_ELEMENTS: usize = 1 << 24;

impl Shapes {
    /// Sizes that reach those of the published models one at a time: sums of 8,192 products, 256 experts,
    /// 4,096 tokens, a vocabulary of 131,072; and each boundary of the device, with its neighbours.
    pub fn reaching(boundaries: &[Boundary]) -> Shapes {
        let mut shapes = Shapes::default();
        for [rows, inner, columns] in [[65, 8192, 130], [4096, 96, 136], [130, 600, 8192], [520, 2048, 300]] {
            shapes.products.extend(FLIPS.map(|flip| ProductShape { rows, inner, columns, flip }));
        }
        let experts =
            |[experts, rows, outer, inner]: [usize; 4]| ExpertsShape { experts, rows, outer, inner };
        shapes.experts = [[256, 4096, 48, 80], [3, 45, 24, 8192], [2, 70, 8192, 24], [2, 8192, 40, 32]]
            .map(experts)
            .to_vec();
        let head = |[tokens, vocabulary, width, targets]: [usize; 4]| HeadShape {
            tokens,
            vocabulary,
            width,
            targets,
        };
        shapes.heads = [[100, 131_072, 24, 24], [4096, 700, 64, 256], [20, 300, 8192, 16]].map(head).to_vec();
        let attention = |[tokens, heads, kv_heads, width, document]: [usize; 5]| AttentionShape {
            tokens,
            heads,
            kv_heads,
            width,
            document,
        };
        shapes.attention =
            [[4096, 2, 1, 16, 4096], [700, 4, 2, 128, 350], [4096, 2, 2, 8, 900]].map(attention).to_vec();
        for score in [Score::Softmax, Score::Sigmoid] {
            let grouped = score == Score::Sigmoid;
            let [groups, groups_kept] = if grouped { [8, 4] } else { [1, 1] };
            let (choices, renormalise, scale) = (8, true, if grouped { 2.5 } else { 1.0 });
            let rule =
                RouteRule { score, choices, groups, groups_kept, renormalise, scale, scope_tokens: 4096 };
            let shape = RoutingShape { tokens: 4096, experts: 256, rule, is_biased: grouped, width: 40 };
            shapes.routing.push(shape);
        }
        shapes.rows = vec![
            RowsShape::Norm([4096, 72]),
            RowsShape::Norm([5, 8192]),
            RowsShape::Swiglu([4096, 40]),
            RowsShape::Swiglu([3, 8192]),
            RowsShape::Rope([4096, 2, 64], 64),
            RowsShape::Embedding([4096, 131_072, 12]),
            RowsShape::HeadNorm([131_072, 20]),
            RowsShape::Elements((1 << 21) + 3),
            RowsShape::Bias(256),
        ];
        boundaries::add(&mut shapes, boundaries);
        shapes
    }

    /// The sizes of every op in a step of `model` with micro-batches of `tokens` tokens in sequences of
    /// `sequence`. The optimizer, sums and tables are tried with at most 2^24 elements: a table of the whole
    /// vocabulary is narrower than the model, and one of the model's width shorter than the vocabulary.
    pub fn of(model: &ModelSpec, tokens: usize, sequence: usize) -> Shapes {
        let sizes = Sizes::of(model, tokens, sequence);
        let mut shapes = Shapes {
            products: sizes.products(),
            experts: sizes.experts(),
            heads: vec![sizes.head()],
            attention: vec![sizes.attention()],
            routing: sizes.routing(model),
            rows: sizes.rows(model),
        };
        shapes.products.dedup();
        shapes
    }

    pub(super) fn sampled(&self, kind: Kind) -> Vec<SampledCase> {
        let products = self.products.iter().map(|&shape| products::matmul(shape, kind));
        let experts = self.experts.iter().flat_map(|&shape| products::experts(shape, kind));
        let heads = self.heads.iter().map(|&shape| head::cross_entropy(shape, kind));
        let attention = self.attention.iter().map(|&shape| attention::attention(shape, kind));
        products.chain(experts).chain(heads).chain(attention).collect()
    }

    pub(super) fn whole(&self) -> Vec<Case> {
        let routing = self.routing.iter().flat_map(|&shape| route_and_travel(shape));
        routing.chain(self.rows.iter().flat_map(|&shape| row_cases(shape))).collect()
    }
}

fn route_and_travel(shape: RoutingShape) -> [Case; 2] {
    let RoutingShape { tokens: t, experts: e, rule, is_biased, width: d } = shape;
    let label = format!("t {t} e {e} biased {is_biased} {rule:?}");
    let logits = routing::Logits::Normal(1.0);
    let route =
        Case::new("route", label, move |bench| routing::route(bench, [t, e], rule, logits, is_biased));
    let (k, label) = (rule.choices, format!("t {t} k {} e {e} d {d}", rule.choices));
    [route, Case::new("dispatch", label, move |bench| routing::travel(bench, [t, k, d], e, e))]
}

fn row_cases(shape: RowsShape) -> Vec<Case> {
    match shape {
        RowsShape::Norm([rows, d]) => vec![Case::new("rms_norm", format!("rows {rows} d {d}"), move |b| {
            rows::rms_norm(b, [rows, d], 1.0)
        })],
        RowsShape::Swiglu([rows, f]) => {
            vec![Case::new("swiglu", format!("rows {rows} f {f}"), move |b| rows::swiglu(b, [rows, f], 1.0))]
        }
        RowsShape::Rope(shape, width) => {
            vec![Case::new("rope", format!("{shape:?} width {width}"), move |b| rows::rope(b, shape, width))]
        }
        RowsShape::Embedding([t, v, d]) => {
            vec![Case::new("embedding", format!("t {t} v {v} d {d}"), move |b| {
                small_products::embedding(b, [t, v, d])
            })]
        }
        RowsShape::HeadNorm([v, d]) => {
            vec![Case::new("scale_columns", format!("v {v} d {d}"), move |b| rows::norm_head(b, [v, d]))]
        }
        RowsShape::Elements(count) => {
            let rule = optimizer::rule(7, 1.0);
            vec![
                Case::new("add", format!("{count}"), move |b| rows::elementwise(b, count)),
                Case::new("moments", format!("{count}"), move |b| rows::sums(b, count)),
                // A norm's scale lies between two matrices.
                optimizer::updates(count, rule, vec![0..count / 3, count / 3 + 77..count]),
            ]
        }
        RowsShape::Bias(e) => {
            vec![Case::new("balance_bias", format!("e {e}"), move |b| optimizer::balance_bias(b, e))]
        }
    }
}

/// A model's sizes as array indices.
struct Sizes {
    tokens: usize,
    sequence: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    vocabulary: usize,
    experts: usize,
    choices: usize,
    expert_width: usize,
    shared: usize,
    dense: usize,
}

impl Sizes {
    fn of(model: &ModelSpec, tokens: usize, sequence: usize) -> Sizes {
        let size = |size: u32| size as usize;
        Sizes {
            tokens,
            sequence,
            width: size(model.width),
            heads: size(model.heads),
            kv_heads: size(model.kv_heads),
            head_width: size(model.head_width),
            vocabulary: size(model.vocabulary),
            experts: size(model.experts),
            choices: size(model.choices),
            expert_width: size(model.expert_width),
            shared: size(model.shared_experts * model.expert_width),
            dense: if model.dense_layers > 0 { size(model.dense_width) } else { 0 },
        }
    }

    /// Each weight's product forward, and its two gradients.
    fn products(&self) -> Vec<ProductShape> {
        let (query, key) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        let mut weights = vec![[self.width, query], [self.width, key], [query, self.width]];
        weights.push([self.width, self.experts]);
        for inner in [self.shared, self.dense] {
            weights.extend([[self.width, 2 * inner], [inner, self.width]]);
        }
        weights.sort_unstable();
        weights.dedup();
        let with_rows = weights.into_iter().filter(|sizes| !sizes.contains(&0));
        with_rows
            .flat_map(|[from, to]| {
                let shape = |rows, inner, columns, flip| ProductShape { rows, inner, columns, flip };
                [
                    shape(self.tokens, from, to, Flip::B),
                    shape(self.tokens, to, from, Flip::NONE),
                    shape(to, self.tokens, from, Flip::A),
                ]
            })
            .collect()
    }

    fn experts(&self) -> Vec<ExpertsShape> {
        let (experts, rows) = (self.experts, self.tokens * self.choices);
        [[2 * self.expert_width, self.width], [self.width, self.expert_width]]
            .map(|[outer, inner]| ExpertsShape { experts, rows, outer, inner })
            .to_vec()
    }

    fn head(&self) -> HeadShape {
        HeadShape {
            tokens: self.tokens,
            vocabulary: self.vocabulary,
            width: self.width,
            targets: 32.min(self.tokens),
        }
    }

    fn attention(&self) -> AttentionShape {
        AttentionShape {
            tokens: self.sequence,
            heads: self.heads,
            kv_heads: self.kv_heads,
            width: self.head_width,
            document: self.sequence,
        }
    }

    fn routing(&self, model: &ModelSpec) -> Vec<RoutingShape> {
        let router = &model.router;
        let rule = RouteRule {
            score: router.score,
            choices: self.choices,
            groups: router.groups as usize,
            groups_kept: router.groups_kept as usize,
            renormalise: router.renormalise,
            scale: router.scale,
            scope_tokens: self.sequence,
        };
        let (tokens, experts, width) = (self.tokens, self.experts, self.width);
        vec![RoutingShape { tokens, experts, rule, is_biased: router.selection_bias, width }]
    }

    fn rows(&self, model: &ModelSpec) -> Vec<RowsShape> {
        let tokens = self.tokens;
        let mut rows = vec![
            RowsShape::Norm([tokens, self.width]),
            RowsShape::Swiglu([tokens * self.choices, self.expert_width]),
            RowsShape::Rope([tokens, self.heads, self.head_width], model.rotary_width as usize),
            RowsShape::Embedding([tokens, self.vocabulary, FEW_COLUMNS.min(self.width)]),
            RowsShape::Embedding([tokens, self.part_of_vocabulary(), self.width]),
            RowsShape::Elements((model.parameters() as usize).min(MOST_ELEMENTS)),
            RowsShape::Bias(self.experts),
        ];
        if model.qk_norm {
            rows.push(RowsShape::Norm([tokens * self.heads, self.head_width]));
        }
        rows.extend(
            [self.shared, self.dense]
                .into_iter()
                .filter(|&inner| inner > 0)
                .map(|inner| RowsShape::Swiglu([tokens, inner])),
        );
        if model.norm_head {
            rows.push(RowsShape::HeadNorm([self.vocabulary, FEW_COLUMNS.min(self.width)]));
            rows.push(RowsShape::HeadNorm([self.part_of_vocabulary(), self.width]));
        }
        rows
    }

    /// As much of the vocabulary as a table of the model's width may have.
    fn part_of_vocabulary(&self) -> usize {
        self.vocabulary.min(MOST_ELEMENTS / self.width.max(1)).max(1)
    }
}
