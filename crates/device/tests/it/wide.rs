//! The suite at the sizes of real models: on the processor, on torch, and on devices that are wrong only
//! where the small shapes end.

use lingot_device::conformance::Verdict;
use lingot_device::conformance::wide::{AttentionShape, ExpertsShape, HeadShape, ProductShape, Shapes, Wide};
use lingot_device::cpu::Cpu;
use lingot_device::intercepted::Intercepted;
use lingot_device::reference::Reference;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Backend, Device, Flip, Op, Precision, ops};

fn failures(verdicts: &[Verdict]) -> Vec<String> {
    let failed = verdicts.iter().filter(|verdict| !verdict.passed);
    failed
        .map(|v| format!("{} {}: {:.1} units, bound {:.1}", v.op, v.case, v.error_units, v.bound_units))
        .collect()
}

#[test]
fn the_cpu_passes_at_the_sizes_of_real_models_in_both_precisions() {
    let cpu = Device::new(Cpu::new(2));
    for precision in [Precision::F32, Precision::Bf16] {
        let wide = Wide::new(&Shapes::reaching(&cpu.boundaries()), precision);
        let verdicts = wide.check(&cpu, &mut |_, _| ()).unwrap();
        assert!(verdicts.len() > 300, "{} verdicts", verdicts.len());
        assert_eq!(failures(&verdicts), Vec::<String>::new());
        assert!(verdicts.iter().any(|verdict| verdict.checked < verdict.elements));
    }
}

#[test]
fn torch_passes_at_the_sizes_of_real_models_in_both_precisions() {
    for precision in [Precision::F32, Precision::Bf16] {
        let torch = match Torch::open("torch:cpu", Options { precision, ..Options::default() }) {
            Ok(backend) => Device::new(backend),
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let wide = Wide::new(&Shapes::reaching(&torch.boundaries()), precision);
        let verdicts = wide.check(&torch, &mut |_, _| ()).unwrap();
        assert_eq!(failures(&verdicts), Vec::<String>::new());
    }
}

/// Where all elements are checked, they have to be those of the definitions in `reference`.
#[test]
fn elements_by_themselves_are_those_of_the_whole_definition() {
    let flip = |a, b| Flip { a, b };
    let shapes = Shapes {
        products: [flip(false, false), flip(true, false), flip(false, true), flip(true, true)]
            .map(|flip| ProductShape { rows: 9, inner: 21, columns: 13, flip })
            .to_vec(),
        experts: vec![ExpertsShape { experts: 7, rows: 40, outer: 9, inner: 12 }],
        heads: vec![HeadShape { tokens: 20, vocabulary: 50, width: 24, targets: 6 }],
        attention: vec![
            AttentionShape { tokens: 40, heads: 4, kv_heads: 2, width: 12, document: 15 },
            AttentionShape { tokens: 33, heads: 3, kv_heads: 1, width: 8, document: 33 },
        ],
        ..Shapes::default()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let wide = Wide::new(&shapes, precision);
        for verdict in wide.check(&Device::new(Reference::new()), &mut |_, _| ()).unwrap() {
            // The definition's own result is rounded to f32 or bf16 once.
            assert!(verdict.error_units <= 0.6, "{} {}: {}", verdict.op, verdict.case, verdict.error_units);
        }
    }
}

/// The processor with products that are 1 % too large where the sums are longer than 320.
#[test]
fn a_device_that_is_wrong_only_in_long_sums_fails_in_both_precisions() {
    for precision in [Precision::F32, Precision::Bf16] {
        let cpu = Device::new(Cpu::new(2));
        let inner = cpu.clone();
        let faulty = Device::new(Intercepted::new(cpu.clone(), move |op| {
            Backend::run(&inner, op)?;
            let Op::MatMul(product) = op else { return Ok(()) };
            let [rows, columns] = [product.a.shape()[0], product.a.shape()[1]];
            if product.add || (if product.flip.a { rows } else { columns }) <= 320 {
                return Ok(());
            }
            let out = product.out.on(&inner);
            let larger: Vec<f32> = out.to_floats()?.iter().map(|x| x * 1.01).collect();
            ops::copy(&out, &inner.floats(&larger, out.shape(), out.kind())?)
        }));
        let wide = Wide::new(&Shapes::reaching(&[]), precision);
        let failed = failures(&wide.check(&faulty, &mut |_, _| ()).unwrap());
        assert!(!failed.is_empty() && failed.iter().all(|text| text.starts_with("matmul")), "{failed:#?}");
    }
}
