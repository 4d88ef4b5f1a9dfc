//! Why torch refused a call.
//!
//! torch's C functions return no more than "failed" and a text. That memory is lacking, which the program
//! answers otherwise than a bug, can only be told from the text. This file alone reads it, when the refusal
//! arises; everything above carries the values.

use std::fmt;

/// Why torch refused a call, in its words or ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    words: String,
    /// The bytes that an allocator did not find, 0 if unknown; none if the reason is another one.
    lacking_bytes: Option<u64>,
    /// Whether the op had written a part of what it updates.
    is_half_done: bool,
}

impl Refusal {
    /// A refusal in the words of torch, or of the maker of a chip.
    pub(super) fn of_torch(words: &str) -> Refusal {
        Refusal { words: words.into(), lacking_bytes: lacking_bytes(words), is_half_done: false }
    }

    /// A refusal of `bytes` bytes of memory.
    pub(super) fn of_memory(self, bytes: u64) -> Refusal {
        Refusal { lacking_bytes: Some(bytes), ..self }
    }

    /// A refusal after a part of what the op updates was written.
    pub(super) fn half_done(self) -> Refusal {
        Refusal { is_half_done: true, ..self }
    }

    /// Whether the op had written a part of what it updates.
    pub(super) fn is_half_done(&self) -> bool {
        self.is_half_done
    }

    /// The same refusal in the words that `explain` makes of these.
    pub(super) fn explained(self, explain: impl FnOnce(&str) -> String) -> Refusal {
        Refusal { words: explain(&self.words), ..self }
    }

    /// The bytes that an allocator did not find, 0 if unknown; none if memory was not the reason.
    pub(super) fn lacking_bytes(&self) -> Option<u64> {
        self.lacking_bytes
    }
}

impl From<String> for Refusal {
    fn from(words: String) -> Refusal {
        Refusal { words, lacking_bytes: None, is_half_done: false }
    }
}

impl From<&str> for Refusal {
    fn from(words: &str) -> Refusal {
        Refusal::from(words.to_owned())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// Phrases by which torch's allocators and the makers' libraries say that memory is lacking.
const PHRASES: [&[&str]; 8] = [
    &["out", "of", "memory"],
    &["not", "enough", "memory"],
    &["tried", "to", "allocate"],
    &["can't", "allocate", "memory"],
    &["cannot", "allocate", "memory"],
    &["cublas_status_alloc_failed"],
    &["hipblas_status_alloc_failed"],
    &["ur_result_error_out_of_device_memory"],
];

/// What a text says of lacking memory: the bytes that were asked for, 0 if it does not say; none if it is
/// about something else. Whole words count, in any case.
fn lacking_bytes(text: &str) -> Option<u64> {
    let is_part = |letter: char| letter.is_alphanumeric() || "_'.".contains(letter);
    let words: Vec<String> = text
        .split(|letter| !is_part(letter))
        .map(|word| word.trim_matches('.').to_lowercase())
        .filter(|word| !word.is_empty())
        .collect();
    let has = |phrase: &&[&str]| words.windows(phrase.len()).any(|words| *words == **phrase);
    PHRASES.iter().find(|phrase| has(phrase))?;
    let asked = words.windows(5).find(|words| words[..3] == *PHRASES[2]);
    Some(asked.and_then(|words| bytes(&words[3], &words[4])).unwrap_or(0))
}

/// A number with a unit. Decimal prefixes mean powers of 1024 too: so torch prints them.
fn bytes(number: &str, unit: &str) -> Option<u64> {
    let factor = match unit {
        "bytes" | "byte" | "b" => 1.0,
        "kib" | "kb" => 1024.0,
        "mib" | "mb" => 1024.0 * 1024.0,
        "gib" | "gb" => 1024.0 * 1024.0 * 1024.0,
        "tib" | "tb" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::lacking_bytes;

    #[test]
    fn lacking_memory_is_told_from_the_texts_of_torch_and_of_makers() {
        let gib = |number: f64| Some((number * f64::from(1 << 30)) as u64);
        for (text, wanted) in [
            (
                "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you \
                 tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)",
                Some(4096),
            ),
            (
                "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you \
                 tried to allocate 33554432 bytes.",
                Some(1 << 25),
            ),
            (
                "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB",
                gib(2.5),
            ),
            (
                "HIP out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of 23.98 GiB",
                gib(0.25),
            ),
            (
                "NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total capacity)",
                Some(52 << 20),
            ),
            ("NPU out of memory. Tried to allocate more than 1EB memory", Some(0)),
            ("XPU out of memory. Tried to allocate 1.50 GiB (GPU 0; 15.56 GiB total capacity)", gib(1.5)),
            (
                "MPS backend out of memory (MPS allocated: 5.05 GB, other allocations: 2.29 GB, max \
                 allowed: 6.77 GB). Tried to allocate 36.00 MB on private pool.",
                Some(36 << 20),
            ),
            ("CUDA error: out of memory", Some(0)),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Some(0)),
        ] {
            assert_eq!(lacking_bytes(text), wanted, "{text}");
        }
    }

    #[test]
    fn other_texts_are_not_taken_for_it() {
        for text in [
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
            "CUDA error: an illegal memory access was encountered",
            "unsupported memory format option Contiguous",
            "retried to allocated buffers, without memory",
            "the chip ran out of memory_format options",
            "",
        ] {
            assert_eq!(lacking_bytes(text), None, "{text}");
        }
    }
}
