//! The matrix unit itself: its registers, and the sequences of loads and products on them.
#![allow(unsafe_code)]

use super::thirds::{PANEL, SIDE, STEP};
use std::arch::asm;

/// The unit's registers, shaped for whole tiles; given back when dropped, so that switching threads stays
/// cheap.
pub(super) struct Registers;

/// Eight registers of 16 rows of 64 bytes, as the instruction reads it.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Shape = Shape {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Registers {
    /// # Safety
    /// The unit is usable.
    pub(super) unsafe fn new() -> Registers {
        // SAFETY: the shape is a valid one, and the compiler uses none of these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly)) };
        Registers
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the unit is usable, or there would be no `Registers`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Multiplies and adds in registers alone; returns the FLOPs of f32 that this was.
pub(super) fn multiply_add(repeats: usize) -> f64 {
    let ones = [1.0_f32; SIDE * SIDE];
    // SAFETY: asked for only where the unit is usable; the tiles loaded lie in `ones`.
    unsafe {
        let _registers = Registers::new();
        start(ones.as_ptr(), false);
        asm!(
            "tileloadd tmm4, [{from}+{s}*1]",
            "tileloadd tmm5, [{from}+{s}*1]",
            "tileloadd tmm6, [{from}+{s}*1]",
            "tileloadd tmm7, [{from}+{s}*1]",
            from = in(reg) ones.as_ptr(), s = in(reg) 64_usize, options(nostack, readonly)
        );
        for _ in 0..repeats {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem)
            );
        }
    }
    let products = (4 * repeats * SIDE * SIDE * STEP) as f64;
    2.0 * products / SIX
}

/// Products of bf16 that make one of f32.
const SIX: f64 = 6.0;

/// Emits products of the loaded tiles of A (4, 5) and B (6, 7); each register waits for its last product, so
/// the four take turns.
macro_rules! tiles {
    ($a:ident, $b:ident, $($line:literal),* $(,)?) => {
        asm!($($line),*, a = in(reg) $a, b = in(reg) $b, s = in(reg) 64_usize, options(nostack, readonly))
    };
}

/// high high + high middle + high low + middle high + middle middle + low high.
///
/// Spelled out, as is its half below: one body in loops over the parts was 1 to 4 % slower, in whatever order
/// it loaded.
///
/// # Safety
/// `a` and `b` are at one step of packed panels, three parts each, and the registers are shaped.
#[inline(always)]
pub(super) unsafe fn six_products(a: *const u8, b: *const u8) {
    // SAFETY: reads six tiles from each.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+2048]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+4096]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+5120]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
    }
}

/// As `six_products`, of the upper tile of A.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn six_products_of_half(a: *const u8, b: *const u8) {
    // SAFETY: reads three tiles of A and six of B.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+2048]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+4096]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
        );
    }
}

/// The product of operands that are bf16 already.
///
/// # Safety
/// As for `six_products`, with one part each.
#[inline(always)]
pub(super) unsafe fn one_product(a: *const u8, b: *const u8) {
    // SAFETY: reads two tiles from each.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
    }
}

/// Loads the sums so far, or begins with zero.
///
/// # Safety
/// `from` is a panel by a panel of sums, and the registers are shaped.
#[inline(always)]
pub(super) unsafe fn start(from: *const f32, go_on: bool) {
    // SAFETY: as promised by the caller.
    unsafe {
        if go_on {
            asm!(
                "tileloadd tmm0, [{from}+{s}*1]",
                "tileloadd tmm1, [{from}+{s}*1+64]",
                "tileloadd tmm2, [{from}+{s}*1+2048]",
                "tileloadd tmm3, [{from}+{s}*1+2112]",
                from = in(reg) from, s = in(reg) PANEL * 4, options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
    }
}

/// Stores the sums.
///
/// # Safety
/// As for `start`.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32) {
    // SAFETY: as promised by the caller.
    unsafe {
        asm!(
            "tilestored [{to}+{s}*1], tmm0",
            "tilestored [{to}+{s}*1+64], tmm1",
            "tilestored [{to}+{s}*1+2048], tmm2",
            "tilestored [{to}+{s}*1+2112], tmm3",
            to = in(reg) to, s = in(reg) PANEL * 4, options(nostack)
        );
    }
}
