//! Which instruction set the loops are compiled for, chosen at run time.
#![allow(unsafe_code)]

use crate::precision::Precision;

/// An instruction set, and what products round their operands to. A value of this type exists only where the
/// processor has the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(pub(super) Set, pub(super) Precision);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each processor family makes only some of them")]
pub(super) enum Set {
    Portable,
    Avx2,
    Avx512,
    /// AVX-512 with dot products of bf16 pairs.
    Avx512Bf16,
    /// AVX-512, with products on the matrix unit.
    Amx,
    Neon,
}

impl Kernel {
    /// The fastest kernel of this machine.
    pub fn best() -> Kernel {
        Kernel::all()[0]
    }

    /// All kernels of this machine, the fastest first and the portable one last.
    pub fn all() -> Vec<Kernel> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512vl")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512dq")
                && std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
            {
                if has_usable_matrix_unit() {
                    sets.push(Kernel(Set::Amx, Precision::F32));
                }
                let mut vectors = vec![Set::Avx512];
                if std::arch::is_x86_feature_detected!("avx512bf16") {
                    vectors.insert(usize::from(!has_fast_pairs()), Set::Avx512Bf16);
                }
                sets.extend(vectors.into_iter().map(|set| Kernel(set, Precision::F32)));
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                sets.push(Kernel(Set::Avx2, Precision::F32));
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Kernel(Set::Neon, Precision::F32));
        sets.push(Kernel(Set::Portable, Precision::F32));
        sets
    }

    /// The same instruction set with another precision of products.
    pub fn in_precision(self, precision: Precision) -> Kernel {
        Kernel(self.0, precision)
    }

    /// Whether products run on a matrix unit, which multiplies bf16 itself.
    pub(super) fn has_matrix_unit(self) -> bool {
        self.0 == Set::Amx
    }

    /// Whether products of bf16 tensors run on dot products of pairs.
    pub(super) fn has_bf16_pairs(self) -> bool {
        self.0 == Set::Avx512Bf16
    }

    /// The name, as in profiles: `amx`, `avx512_bf16`, `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            Set::Avx2 => "avx2",
            Set::Avx512 => "avx512",
            Set::Avx512Bf16 => "avx512_bf16",
            Set::Amx => "amx",
            Set::Neon => "neon",
        }
    }
}

/// Whether dot products of bf16 pairs are faster than f32 multiply-adds. That a processor has them does not
/// say so: the cores of Emerald Rapids, which leave bf16 to the matrix unit, do half the work per cycle with
/// them. Decided by the processor's name and not by measuring at run time, because the bits of a run follow.
#[cfg(target_arch = "x86_64")]
fn has_fast_pairs() -> bool {
    const AMD: [u32; 3] =
        [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD")];
    /// Intel's Cooper Lake, which has them and no matrix unit.
    const COOPER_LAKE: [u32; 2] = [6, 85];
    let (vendor, version) = (std::arch::x86_64::__cpuid(0), std::arch::x86_64::__cpuid(1).eax);
    let model = [version >> 8 & 0xf, version >> 4 & 0xf | version >> 12 & 0xf0];
    [vendor.ebx, vendor.edx, vendor.ecx] == AMD || model == COOPER_LAKE
}

/// Whether this processor has the matrix unit and the system lets this process use it.
#[cfg(target_arch = "x86_64")]
fn has_usable_matrix_unit() -> bool {
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    static USABLE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        leaf.edx & TILES_AND_BF16 == TILES_AND_BF16 && is_permitted()
    });
    *USABLE
}

/// Asks the system for the matrix unit's registers, which are too large to be given to every process.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64"))]
fn is_permitted() -> bool {
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    // SAFETY: this call takes two numbers and touches no memory of ours.
    unsafe { syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(all(target_os = "linux", target_pointer_width = "64"))))]
fn is_permitted() -> bool {
    false
}

/// Defines a function whose body is compiled once for each instruction set; its first argument is the
/// `Kernel`. Generic are a number, `fn name[const N](...)`, or types, `fn name<E: Bound>(...)`.
///
/// Everything the body calls in its inner loops must be `#[inline(always)]`, or it stays compiled for the
/// baseline.
macro_rules! wide {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $([const $size:ident])? $(<$($E:ident: $bound:ident),+>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) $(-> $out:ty)?
        $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name $(<const $size: usize>)? $(<$($E: $bound),+>)? (
            kernel: $crate::cpu::kernel::Kernel,
            $($arg: $type),*
        ) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<const $size: usize>)? $(<$($E: $bound),+>)? ($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<const $size: usize>)? $(<$($E: $bound),+>)? ($($arg: $type),*) $(-> $out)? {
                body $(::<$size>)? $(::<$($E),+>)? ($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<const $size: usize>)? $(<$($E: $bound),+>)? ($($arg: $type),*) $(-> $out)? {
                body $(::<$size>)? $(::<$($E),+>)? ($($arg),*)
            }
            match kernel.0 {
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::kernel::Set::Avx512
                | $crate::cpu::kernel::Set::Avx512Bf16
                // SAFETY: a `Kernel` of these sets exists only where the processor has them.
                | $crate::cpu::kernel::Set::Amx => unsafe {
                    avx512 $(::<$size>)? $(::<$($E),+>)? ($($arg),*)
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::cpu::kernel::Set::Avx2 => unsafe {
                    avx2 $(::<$size>)? $(::<$($E),+>)? ($($arg),*)
                },
                _ => body $(::<$size>)? $(::<$($E),+>)? ($($arg),*),
            }
        }
    };
}
pub(super) use wide;
