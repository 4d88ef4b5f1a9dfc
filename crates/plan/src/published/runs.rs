//! The runs: sizes from the models' published configurations, cards from data sheets, speeds from the
//! sources named.

use super::{Card, Practice, Run, Sizes, Speed};

const H100: Card = card("H100", [989e12, 3350e9, 450e9, 50e9]);
const H800: Card = card("H800", [989e12, 3350e9, 200e9, 50e9]);
const B200: Card = card("B200", [2250e12, 8000e9, 900e9, 50e9]);
const B300: Card = card("B300", [2500e12, 8000e9, 900e9, 100e9]);
const MI355X: Card = card("MI355X", [2500e12, 8000e9, 500e9, 50e9]);
const D: Card = card("D of the Ling report", [989e12, 3350e9, 200e9, 50e9]);
const A: Card = card("A of the Ling report", [370e12, 1600e9, 200e9, 50e9]);

const fn card(name: &'static str, [peak, bandwidth, link, network]: [f64; 4]) -> Card {
    Card {
        name,
        peak_flops: peak,
        bandwidth_bytes_per_s: bandwidth,
        link_bytes_per_s: link,
        network_bytes_per_s: network,
    }
}

/// Layers, width, heads, kv heads, head width; experts, choices, expert width, shared width; vocabulary.
const fn sizes(
    [layers, width, heads, kv_heads, head_width]: [f64; 5],
    [experts, choices, expert_width, shared_width]: [f64; 4],
    vocabulary: f64,
) -> Sizes {
    Sizes {
        layers,
        width,
        heads,
        kv_heads,
        head_width,
        experts,
        choices,
        expert_width,
        shared_width,
        vocabulary,
        dense_layers: 0.0,
        dense_width: 0.0,
        attention: None,
        window: None,
    }
}

const QWEN3_30B: Sizes = sizes([48.0, 2048.0, 32.0, 4.0, 128.0], [128.0, 8.0, 768.0, 0.0], 151_936.0);
const QWEN3_235B: Sizes = sizes([94.0, 4096.0, 64.0, 4.0, 128.0], [128.0, 8.0, 1536.0, 0.0], 151_936.0);
const QWEN2_57B: Sizes = sizes([28.0, 3584.0, 28.0, 4.0, 128.0], [64.0, 8.0, 2560.0, 20_480.0], 151_936.0);
const MIXTRAL_8X22B: Sizes = sizes([56.0, 6144.0, 48.0, 8.0, 128.0], [8.0, 2.0, 16_384.0, 0.0], 32_768.0);
const MARIN: Sizes = sizes([26.0, 2560.0, 20.0, 20.0, 128.0], [64.0, 4.0, 1280.0, 1280.0], 128_256.0);
const LING_PLUS: Sizes = sizes([88.0, 5376.0, 64.0, 4.0, 128.0], [64.0, 4.0, 3072.0, 3072.0], 126_464.0);
const LING_MINI: Sizes = Sizes {
    dense_layers: 1.0,
    dense_width: 5120.0,
    ..sizes([20.0, 2048.0, 16.0, 4.0, 128.0], [256.0, 8.0, 512.0, 512.0], 157_184.0)
};
const GPT_OSS_20B: Sizes = Sizes {
    window: Some(128.0),
    ..sizes([24.0, 2880.0, 64.0, 8.0, 64.0], [32.0, 4.0, 2880.0, 0.0], 201_088.0)
};
const GPT_OSS_120B: Sizes = Sizes {
    window: Some(128.0),
    ..sizes([36.0, 2880.0, 64.0, 8.0, 64.0], [128.0, 4.0, 2880.0, 0.0], 201_088.0)
};
/// Latent attention: queries and keys have 192 channels, values 128; its projections are counted one by one.
const DEEPSEEK_V3: Sizes = Sizes {
    dense_layers: 3.0,
    dense_width: 18_432.0,
    attention: Some(
        7168.0 * 1536.0 + 1536.0 * 24_576.0 + 7168.0 * 576.0 + 512.0 * 32_768.0 + 16_384.0 * 7168.0,
    ),
    ..sizes([61.0, 7168.0, 128.0, 128.0, 160.0], [256.0, 8.0, 2048.0, 2048.0], 129_280.0)
};

/// bf16, sequences of 4,096, on so many cards; expert parallelism over so many of them.
const fn bf16(cards: f64, expert_cards: f64) -> Practice {
    Practice {
        has_fp8: false,
        sequence: 4096.0,
        cards,
        expert_cards,
        machines: f64::INFINITY,
        overlaps: false,
    }
}

const fn fp8(cards: f64, expert_cards: f64) -> Practice {
    Practice { has_fp8: true, ..bf16(cards, expert_cards) }
}

const AUTOMODEL: &str = "NVIDIA NeMo Automodel, docs/performance-summary, August 2026";
const MLPERF: &str = "MLPerf Training v6.0, GPT-OSS-20B, result logs, June 2026";

pub(super) const RUNS: &[Run] = &[
    Run {
        name: "Qwen3-30B-A3B",
        sizes: QWEN3_30B,
        card: H100,
        practice: bf16(8.0, 8.0),
        published: Speed::Tokens(12_040.0),
        source: AUTOMODEL,
        remark: "Balanced gate.",
    },
    Run {
        name: "GPT-OSS-20B",
        sizes: GPT_OSS_20B,
        card: H100,
        practice: bf16(8.0, 8.0),
        published: Speed::Tokens(13_058.0),
        source: AUTOMODEL,
        remark: "Balanced gate.",
    },
    Run {
        name: "GPT-OSS-120B",
        sizes: GPT_OSS_120B,
        card: H100,
        practice: bf16(64.0, 64.0),
        published: Speed::Tokens(7_626.0),
        source: AUTOMODEL,
        remark: "Balanced gate; experts over all 64 cards are assumed.",
    },
    Run {
        name: "DeepSeek-V3",
        sizes: DEEPSEEK_V3,
        card: H100,
        practice: Practice { machines: 4.0, ..bf16(256.0, 64.0) },
        published: Speed::Tokens(1_002.0),
        source: AUTOMODEL,
        remark: "Experts over 64 cards, a token on at most four machines.",
    },
    Run {
        name: "DeepSeek-V3",
        sizes: DEEPSEEK_V3,
        card: H100,
        practice: Practice { machines: 4.0, ..bf16(1024.0, 64.0) },
        published: Speed::Tokens(865.0),
        source: AUTOMODEL,
        remark: "As before.",
    },
    Run {
        name: "DeepSeek-V3",
        sizes: DEEPSEEK_V3,
        card: H100,
        practice: Practice { machines: 4.0, ..fp8(1024.0, 64.0) },
        published: Speed::Tokens(1_297.0),
        source: "NVIDIA Megatron Bridge, performance summary 25.09",
        remark: "Dropless; no overlap is assumed.",
    },
    Run {
        name: "DeepSeek-V3",
        sizes: DEEPSEEK_V3,
        card: H800,
        practice: Practice { machines: 4.0, overlaps: true, ..fp8(2048.0, 64.0) },
        published: Speed::Tokens(1_543.0),
        source: "DeepSeek-V3 technical report, arXiv 2412.19437: 180 K card-hours a trillion tokens",
        remark: "Exchange hidden by its two-way pipeline.",
    },
    Run {
        name: "Qwen3-235B-A22B",
        sizes: QWEN3_235B,
        card: H100,
        practice: Practice { overlaps: true, ..bf16(256.0, 32.0) },
        published: Speed::Teraflops(276.0),
        source: "NVIDIA Megatron MoE ModelZoo, best practice for Qwen3",
        remark: "Exchange hidden behind computing; balanced gate.",
    },
    Run {
        name: "Mixtral-8x22B",
        sizes: MIXTRAL_8X22B,
        card: H100,
        practice: bf16(128.0, 8.0),
        published: Speed::Teraflops(0.493 * 989.0),
        source: "MoE Parallel Folding, arXiv 2504.14960: 49.3 % of the peak",
        remark: "Experts within a machine.",
    },
    Run {
        name: "Qwen2-57B-A14B",
        sizes: QWEN2_57B,
        card: H100,
        practice: bf16(64.0, 4.0),
        published: Speed::Teraflops(0.39 * 989.0),
        source: "MoE Parallel Folding, arXiv 2504.14960: 39.0 % of the peak",
        remark: "Experts over four cards.",
    },
    Run {
        name: "Marin's ladder, 64 experts top-4",
        sizes: MARIN,
        card: H100,
        practice: bf16(8.0, 1.0),
        published: Speed::Teraflops(0.344 * 989.0),
        source: "marin-community/marin, discussion 6979, July 2026: 34.4 % of the peak",
        remark: "No expert parallelism; expert width and heads are taken from the model's width.",
    },
    Run {
        name: "GPT-OSS-20B",
        sizes: GPT_OSS_20B,
        card: H100,
        practice: Practice { sequence: 8192.0, overlaps: true, ..fp8(64.0, 4.0) },
        published: Speed::Tokens(9_620.0),
        source: MLPERF,
        remark: "Cisco's 64 cards; real routing, exchange overlapped, tensor parallelism over two.",
    },
    Run {
        name: "GPT-OSS-20B",
        sizes: GPT_OSS_20B,
        card: B200,
        practice: Practice { sequence: 8192.0, ..fp8(8.0, 1.0) },
        published: Speed::Tokens(36_200.0),
        source: MLPERF,
        remark: "Lambda's eight cards; real routing, MXFP8, the whole step as one graph.",
    },
    Run {
        name: "GPT-OSS-20B",
        sizes: GPT_OSS_20B,
        card: B300,
        practice: Practice { sequence: 8192.0, ..fp8(8.0, 1.0) },
        published: Speed::Tokens(44_600.0),
        source: MLPERF,
        remark: "Nebius's eight cards; as before.",
    },
    Run {
        name: "GPT-OSS-20B",
        sizes: GPT_OSS_20B,
        card: MI355X,
        practice: Practice { sequence: 8192.0, ..fp8(8.0, 1.0) },
        published: Speed::Tokens(19_800.0),
        source: "AMD-AGI/Hyperloom, notes on the MLPerf task, April 2026 (unofficial)",
        remark: "Their notes: products take 54 % of the time, collectives 10 %.",
    },
    Run {
        name: "Ling-mini-2.0",
        sizes: LING_MINI,
        card: H800,
        practice: fp8(8.0, 8.0),
        published: Speed::Tokens(16_037.0),
        source: "inclusionAI/Ling-V2, README: 128,298 tokens a second on eight cards of 80 GB",
        remark: "Without multi-token prediction; the card is not named, H800 is assumed.",
    },
    Run {
        name: "Ling-Plus",
        sizes: LING_PLUS,
        card: D,
        practice: fp8(2048.0, 8.0),
        published: Speed::Tokens(1_203.0),
        source: "Ling technical report, arXiv 2503.05139, table 1: 6.35 M RMB a trillion tokens",
        remark: "Speed from cost and price; layout and number of cards are not published.",
    },
    Run {
        name: "Ling-Plus",
        sizes: LING_PLUS,
        card: A,
        practice: bf16(4096.0, 8.0),
        published: Speed::Tokens(383.0),
        source: "Ling technical report, arXiv 2503.05139, table 1: 5.08 M RMB a trillion tokens",
        remark: "Read as all on A.",
    },
];
