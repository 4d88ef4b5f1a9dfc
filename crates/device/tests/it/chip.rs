//! The torch backend on a chip that torch does not know: a plug-in device of ours whose memory the host
//! cannot touch.
//!
//! A process has one such device and reads its settings once, so each test runs its inner half in a process
//! of its own.
#![allow(unsafe_code)]

use lingot_device::torch::{self, Options, Torch};
use lingot_device::{Device, Error, Flip, Kind, Precision, conformance, ops};
use std::os::unix::process::ExitStatusExt;

#[path = "../chip/apart.rs"]
pub(crate) mod apart;
use apart::EXTENSION;

const NAME: &str = "torch:testchip:1";

#[test]
fn the_chip_passes_the_suite_and_keeps_nothing() {
    apart("the_chip_passes_the_suite_and_keeps_nothing", &[], || {
        for (precision, composed_only) in
            [(Precision::F32, false), (Precision::F32, true), (Precision::Bf16, false)]
        {
            let failures = failures(Options { precision, composed_only, ..Options::default() });
            assert!(failures.is_empty(), "{precision:?}: {failures:#?}");
        }
        // Through f32 twins alone, and with products that take bf16 as it is.
        for precision in [Precision::F32, Precision::Bf16] {
            let options = Options { precision, ..Options::default() };
            let device = Device::new(Torch::open(NAME, options).unwrap());
            let verdicts = conformance::check_bf16(&device, &mut |_, _| ()).unwrap();
            let failures: Vec<_> = verdicts.iter().filter(|verdict| !verdict.passed).collect();
            assert!(failures.is_empty(), "bf16 tensors, {precision:?}: {failures:#?}");
        }
        let (tensors, bytes) = held();
        assert!((tensors, bytes) == (0, 0), "{tensors} tensors of {bytes} bytes are left on the chip");
    });
}

#[test]
fn a_chip_that_sums_from_the_other_end_passes_in_f32() {
    apart("a_chip_that_sums_from_the_other_end_passes_in_f32", &[("CHIP_PRODUCTS", "reversed")], || {
        let failures = failures(Options::default());
        assert!(failures.is_empty(), "{failures:#?}");
    });
}

#[test]
fn a_chip_that_silently_rounds_the_operands_of_products_does_not_pass_in_f32() {
    apart(
        "a_chip_that_silently_rounds_the_operands_of_products_does_not_pass_in_f32",
        &[("CHIP_PRODUCTS", "tf32")],
        || {
            let failures = failures(Options::default());
            assert!(failures.iter().any(|op| op == "matmul"), "{failures:?}");
        },
    );
}

#[test]
fn one_wrong_element_of_one_operator_is_found_in_the_op_that_uses_it() {
    apart(
        "one_wrong_element_of_one_operator_is_found_in_the_op_that_uses_it",
        &[("CHIP_FAULT", "aten::silu")],
        || {
            let mut failures = failures(Options::default());
            failures.dedup();
            assert!(
                !failures.is_empty() && failures.iter().all(|op| op.starts_with("swiglu")),
                "{failures:?}"
            );
        },
    );
}

#[test]
fn an_operator_that_the_chip_lacks_is_named_with_the_op_that_wants_it() {
    apart(
        "an_operator_that_the_chip_lacks_is_named_with_the_op_that_wants_it",
        &[("CHIP_LACKS", "aten::silu")],
        || {
            let device = Device::new(Torch::open(NAME, Options::default()).unwrap());
            let error = conformance::check(&device).unwrap_err().to_string();
            assert!(error.contains("`swiglu") && error.contains("aten::silu"), "{error}");
        },
    );
}

#[test]
fn a_chip_that_is_full_says_how_much_was_asked_of_it() {
    apart("a_chip_that_is_full_says_how_much_was_asked_of_it", &[("CHIP_MEMORY_BYTES", "1048576")], || {
        let device = Device::new(Torch::open(NAME, Options::default()).unwrap());
        let kept = device.zeros(&[1 << 17], Kind::F32).unwrap();
        let error = device.zeros(&[1 << 18], Kind::F32).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { needs_bytes: 1_048_576, .. }), "{error}");
        assert_eq!(kept.to_floats().unwrap(), vec![0.0; 1 << 17]);
    });
}

#[test]
fn a_chip_that_disappears_is_lost_and_the_op_that_noticed_is_named() {
    let place = std::env::temp_dir().join(format!("lingot-lost-chip-{}", std::process::id()));
    let file = place.to_str().unwrap();
    apart(
        "a_chip_that_disappears_is_lost_and_the_op_that_noticed_is_named",
        &[("CHIP_LOST_WHEN", file)],
        || {
            let device = Device::new(Torch::open(NAME, Options::default()).unwrap());
            let x = device.floats(&[1.0, 2.0, 3.0, 4.0], &[2, 2], Kind::F32).unwrap();
            let square = || lingot_device::ops::matmul(&x, &x, Flip::NONE);
            assert_eq!(square().unwrap().to_floats().unwrap(), [7.0, 10.0, 15.0, 22.0]);
            let out = square().unwrap();
            let file = std::env::var_os("CHIP_LOST_WHEN").unwrap();
            std::fs::write(&file, "").unwrap();
            let error = lingot_device::ops::copy(&x, &out).unwrap_err();
            let Error::Lost { device: name, reason } = &error else { panic!("{error}") };
            assert!(
                name == NAME && reason.starts_with("`copy`: ") && reason.contains("answers no more"),
                "{error}"
            );
            assert!(matches!(out.to_floats(), Err(Error::Lost { .. })));
            assert!(matches!(square(), Err(Error::Lost { .. })));
            std::fs::remove_file(&file).unwrap();
        },
    );
}

#[test]
fn a_chip_index_beyond_the_last_is_refused() {
    apart("a_chip_index_beyond_the_last_is_refused", &[], || {
        let error = Torch::open("torch:testchip:2", Options::default()).err().unwrap().to_string();
        // Before 2.13 torch only logs its words.
        let wanted = ["there is no chip 2, only 2", "says why on standard error"];
        assert!(wanted.iter().any(|words| error.contains(words)), "{error}");
    });
}

#[test]
fn a_chip_without_its_makers_library_is_unknown_and_the_hint_says_what_to_set() {
    apart(
        "a_chip_without_its_makers_library_is_unknown_and_the_hint_says_what_to_set",
        &[(EXTENSION, "")],
        || {
            let error = Torch::open(NAME, Options::default()).err().unwrap().to_string();
            assert!(error.contains("testchip") && error.contains(EXTENSION), "{error}");
        },
    );
}

#[test]
fn a_host_access_to_the_chips_memory_ends_the_process() {
    let Some(inner) = apart::start("chip::a_host_access_to_the_chips_memory_ends_the_process", &[]) else {
        let address = exported(b"chip_address");
        let place = std::ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: none; that this read faults is what the test shows.
        let byte = unsafe { place.read_volatile() };
        unreachable!("read {byte}");
    };
    const SEGMENTATION_FAULT: i32 = 11;
    if let Some(inner) = inner {
        assert_eq!(inner.status.signal(), Some(SEGMENTATION_FAULT), "{inner:?}");
    }
}

/// The operators that the chip has in one piece, and what `lingot devices -v` says of each.
const FUSED: [(&str, &str); 5] = [
    ("aten::_scaled_dot_product_efficient_attention", "attention"),
    ("aten::_grouped_mm", "products per expert"),
    ("aten::_fused_rms_norm", "RMSNorm"),
    ("aten::_fused_rms_norm_backward", "RMSNorm's gradient"),
    ("aten::_embedding_bag_forward_only", "combine"),
];

/// What a line of the routes says, after the name of the op.
fn route(options: Options, op: &str) -> String {
    let routes = Torch::open(NAME, options).unwrap().routes();
    let line = routes.iter().find_map(|line| line.strip_prefix(op)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {op} in {routes:?}")).to_owned()
}

#[test]
fn what_the_chip_has_in_one_piece_is_used() {
    apart("what_the_chip_has_in_one_piece_is_used", &[], || {
        for (operator, op) in FUSED {
            let short = operator.strip_prefix("aten::").unwrap();
            assert_eq!(route(Options::default(), op), format!("one operator, {short}"));
        }
        let packed = "attention of documents of several lengths";
        assert_eq!(route(bf16(), packed), "one call of _flash_attention_forward");
        let both = "one operator, _scaled_dot_product_cudnn_attention, \
                    and _flash_attention_forward for its gradient";
        assert_eq!(route(bf16(), "attention"), both);
    });
}

fn bf16() -> Options {
    Options { precision: Precision::Bf16, ..Options::default() }
}

/// Without cuDNN's operator, or with one that is wrong, FlashAttention goes both ways.
#[test]
fn attention_without_cudnn_is_that_of_flash_attention_and_why_is_told() {
    let name = "aten::_scaled_dot_product_cudnn_attention";
    for setting in ["CHIP_LACKS", "CHIP_FAULT"] {
        apart(
            "attention_without_cudnn_is_that_of_flash_attention_and_why_is_told",
            &[(setting, name)],
            || {
                assert_eq!(route(bf16(), "attention"), "one operator, _flash_attention_forward");
                let told = route(bf16(), "attention by cuDNN");
                // A torch before 2.13 hands out no words.
                let whys: &[&str] = if std::env::var_os("CHIP_LACKS").is_some() {
                    &["Could not run", "says why on standard error"]
                } else {
                    &["the output differs"]
                };
                assert!(told.starts_with("no (") && whys.iter().any(|why| told.contains(why)), "{told}");
            },
        );
    }
}

/// Kernels of ours, cuBLAS's sums and results that are taken over, together.
#[test]
fn the_chip_passes_the_suite_with_kernels_of_ours() {
    apart("the_chip_passes_the_suite_with_kernels_of_ours", &[("CHIP_OPEN", "1")], || {
        let Some(library) = super::kernels::stand_in::build("chip", &[]) else { return };
        let torch = Torch::open(NAME, Options { stand_in: Some(library), ..bf16() }).unwrap();
        let routes = torch.routes();
        for line in
            ["addition and casts: kernel of ours", "products added to f32 sums: in place, cublasGemmEx"]
        {
            assert!(routes.iter().any(|route| route == line), "{line}: {routes:#?}");
        }
        let verdicts = conformance::check_bf16(&Device::new(torch), &mut |_, _| ()).unwrap();
        let failures: Vec<_> = verdicts.iter().filter(|verdict| !verdict.passed).collect();
        assert!(failures.is_empty(), "{failures:#?}");
    });
}

/// Documents of several lengths, and documents of one length, each way in one call; where they begin is not
/// read back from the device.
#[test]
fn attention_over_all_documents_is_one_call_and_waits_for_nothing() {
    apart("attention_over_all_documents_is_one_call_and_waits_for_nothing", &[], || {
        let device = Device::new(Torch::open(NAME, bf16()).unwrap());
        let one = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            let numbers: Vec<f32> = (0..count).map(|i| (i % 13) as f32 / 13.0).collect();
            device.floats(&numbers, shape, Kind::Bf16).unwrap()
        };
        let (q, k, v) = (one(&[24, 4, 16]), one(&[24, 2, 16]), one(&[24, 2, 16]));
        for lengths in [&[5, 1, 18][..], &[8, 8, 8]] {
            let starts: Vec<i32> = lengths
                .iter()
                .scan(0, |first, &length| {
                    *first += length;
                    Some(vec![*first - length; length as usize])
                })
                .flatten()
                .collect();
            let starts = device.integers(&starts, &[24]).unwrap();
            let before = torch::counts();
            let attended = ops::attention(&q, &k, &v, &starts, 0.25).unwrap();
            ops::attention_grad(&attended.out_thc, [&q, &k, &v], &starts, 0.25, &attended).unwrap();
            let after = torch::counts();
            // The two operators, the log-sum-exp turned each way; of several lengths, where they begin.
            let bounds = u64::from(lengths[0] != 8);
            assert_eq!(after.launches - before.launches, 4 + bounds, "{lengths:?}");
            assert_eq!(after.waits - before.waits, bounds, "{lengths:?}: the chip has no pinned memory");
        }
    });
}

#[test]
fn what_the_chip_refuses_is_composed_and_the_refusal_is_told() {
    let lacks = FUSED.map(|(operator, _)| operator).join(",");
    apart("what_the_chip_refuses_is_composed_and_the_refusal_is_told", &[("CHIP_LACKS", &lacks)], || {
        for (operator, op) in FUSED {
            let said = route(Options::default(), op);
            assert!(said.starts_with("composed (") && said.contains(operator), "{op}: {said}");
        }
        let failures = failures(Options::default());
        assert!(failures.is_empty(), "{failures:#?}");
    });
}

#[test]
fn what_the_chip_computes_wrongly_is_composed_and_how_wrong_it_is_is_told() {
    let faults = FUSED.map(|(operator, _)| operator).join(",");
    apart(
        "what_the_chip_computes_wrongly_is_composed_and_how_wrong_it_is_is_told",
        &[("CHIP_FAULT", &faults)],
        || {
            for (operator, op) in FUSED {
                let said = route(Options::default(), op);
                let why = if operator.contains("embedding_bag") {
                    "1 + 10 + 100 + 1000 is 1122"
                } else {
                    "differs"
                };
                assert!(said.starts_with("composed (") && said.contains(why), "{op}: {said}");
            }
            let failures = failures(Options::default());
            assert!(failures.is_empty(), "{failures:#?}");
        },
    );
}

/// A wrong gradient alone is reason enough.
#[test]
fn attention_whose_gradient_is_wrong_is_composed() {
    let fault = "aten::_scaled_dot_product_efficient_attention_backward";
    apart("attention_whose_gradient_is_wrong_is_composed", &[("CHIP_FAULT", fault)], || {
        let said = route(Options::default(), "attention");
        assert!(said.contains("the gradient by queries differs"), "{said}");
    });
}

/// The ops that fail the suite, one by verdict.
fn failures(options: Options) -> Vec<String> {
    let device = Device::new(Torch::open(NAME, options).unwrap());
    let verdicts = conformance::check_in(&device, options.precision, &mut |_, _| ()).unwrap();
    assert!(verdicts.len() > 300, "{} verdicts", verdicts.len());
    verdicts.iter().filter(|verdict| !verdict.passed).map(|verdict| verdict.op.to_owned()).collect()
}

/// Tensors that the chip holds, and their bytes.
fn held() -> (i64, i64) {
    (exported(b"chip_tensors"), exported(b"chip_bytes"))
}

/// What a function of the chip's own answers.
fn exported(name: &[u8]) -> i64 {
    drop(Torch::open(NAME, Options::default()).unwrap());
    let path = std::env::var_os(EXTENSION).unwrap();
    // SAFETY: the library is open already; its functions take nothing and give 64 bits.
    unsafe {
        let library = libloading::Library::new(path).unwrap();
        let function: libloading::Symbol<unsafe extern "C" fn() -> i64> = library.get(name).unwrap();
        function()
    }
}

/// Runs `inner` in a process of its own, with the chip and its settings, where there is a torch and a
/// compiler.
fn apart(test: &str, settings: &[(&str, &str)], inner: impl FnOnce()) {
    apart::run(&format!("chip::{test}"), settings, inner);
}
