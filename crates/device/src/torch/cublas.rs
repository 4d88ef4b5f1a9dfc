//! Products of bf16 added to f32 sums in place, through NVIDIA's cuBLAS.
//!
//! torch's operator for it (`addmm.dtype_out`) takes Scalars, which cannot be passed through its C functions;
//! the product by itself and a sum would read and write the sums once more. The handle is torch's own, on its
//! current stream, and the library the one that torch has opened, so nothing else has to be found.
#![allow(unsafe_code)]

use super::Torch;
use super::counts::launch;
use super::probe::{Numbers, agree};
use super::refusal::Refusal;
use super::value::Value;
use libloading::os::unix::{Library, Symbol};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

type Code = i32;
/// Handle, what is done to each operand, the sizes m, n and k, alpha; each operand with its type and the
/// elements from one column to the next; beta, the result likewise; the type computed in, the algorithm.
type Gemm = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// `CUBLAS_OP_N`.
const AS_IT_LIES: c_int = 0;
/// `CUBLAS_OP_T`.
const TRANSPOSED: c_int = 1;
/// `CUDA_R_16BF`.
const BF16: c_int = 14;
/// `CUDA_R_32F`.
const F32: c_int = 0;
/// `CUBLAS_COMPUTE_32F`: sums in f32.
const COMPUTE_F32: c_int = 68;
/// `CUBLAS_GEMM_DEFAULT`: the library chooses, the same for equal sizes.
const DEFAULT: c_int = -1;

/// The functions, where this device's libraries have them.
pub(super) struct Cublas {
    gemm: Gemm,
    handle: unsafe extern "C" fn(*mut *mut c_void) -> Code,
    enter: Option<unsafe extern "C" fn(i32, *mut *mut c_void) -> Code>,
    leave: Option<unsafe extern "C" fn(*mut c_void) -> Code>,
}

impl Cublas {
    /// The functions for a device of this one's type, if its sums come out right.
    pub(super) fn find(torch: &Torch) -> Result<Cublas, Refusal> {
        if !torch.multiplies_bf16() {
            return Err("products are not of bf16".into());
        }
        let (all, kind) = (Library::this(), torch.device_type());
        let absent = |name: &str| Refusal::from(format!("no library has {name}"));
        let of_handle = format!("torch_get_current_{kind}_blas_handle");
        // SAFETY: the functions have the types of torch's and cuBLAS's C headers. The libraries stay open.
        let cublas = unsafe {
            fn found<T: Copy>(symbol: Result<Symbol<T>, libloading::Error>) -> Option<T> {
                symbol.ok().map(|symbol| *symbol)
            }
            Cublas {
                gemm: found(all.get(b"cublasGemmEx")).ok_or_else(|| absent("cublasGemmEx"))?,
                handle: found(all.get(of_handle.as_bytes())).ok_or_else(|| absent(&of_handle))?,
                enter: found(all.get(format!("aoti_torch_create_{kind}_guard").as_bytes())),
                leave: found(all.get(format!("aoti_torch_delete_{kind}_guard").as_bytes())),
            }
        };
        cublas.assert_agrees(torch)?;
        Ok(cublas)
    }

    /// `out += a b`, of bf16 [m, k] and [k, n], each dense or a transposed view of a dense matrix, and f32
    /// [m, n] by rows.
    pub(super) fn add_product(&self, torch: &Torch, [a, b]: [&Value; 2], out: &Value) -> Result<(), Refusal> {
        let (left, right, sums) = (Side::of(a)?, Side::of(b)?, Side::of(out)?);
        let [m, k, n] = [left.rows, left.columns, right.columns];
        let small = |size: i64| c_int::try_from(size).map_err(|_| format!("{size} is too large for cuBLAS"));
        if m * n * k == 0 {
            return Ok(());
        }
        let guard = Guard::enter(self, torch)?;
        let (one, mut handle) = (1.0_f32, null_mut());
        let factor: *const c_void = (&raw const one).cast();
        launch();
        // SAFETY: live tensors of these sizes. cuBLAS counts from one column to the next, so to it all
        // matrices are transposed, and the product is that of the right one with the left one.
        let code = unsafe {
            torch.torch.check((self.handle)(&raw mut handle))?;
            (self.gemm)(
                handle,
                right.operation,
                left.operation,
                small(n)?,
                small(m)?,
                small(k)?,
                factor,
                b.address()?,
                BF16,
                small(right.stride)?,
                a.address()?,
                BF16,
                small(left.stride)?,
                factor,
                out.address()?,
                F32,
                small(sums.stride)?,
                COMPUTE_F32,
                DEFAULT,
            )
        };
        drop(guard);
        if code == 0 { Ok(()) } else { Err(format!("cublasGemmEx refuses with status {code}").into()) }
    }

    /// Whether sums agree with torch's product, for operands that lie either way.
    fn assert_agrees(&self, torch: &Torch) -> Result<(), Refusal> {
        let mut numbers = Numbers::new(torch);
        let dtypes = torch.torch.dtypes;
        let [m, k, n] = [24_i64, 40, 16];
        let before = numbers.random(&[m, n])?;
        for (flips_a, flips_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut operand = |[rows, columns]: [i64; 2], flips: bool| {
                let [height, width] = if flips { [columns, rows] } else { [rows, columns] };
                let x = torch.converted(&numbers.random(&[height, width])?, &[height, width], dtypes.bf16)?;
                if flips { x.transposed(0, 1) } else { Ok(x) }
            };
            let (a, b) = (operand([m, k], flips_a)?, operand([k, n], flips_b)?);
            let out = torch.converted(&before, &[m, n], dtypes.f32)?;
            self.add_product(torch, [&a, &b], &out)?;
            let product = torch.converted(&torch.aten().mm(&a, &b)?, &[m, n], dtypes.f32)?;
            agree(torch, "a sum in place", &out, &before.plus(&product)?)?;
        }
        Ok(())
    }
}

/// One operand of a product.
struct Side {
    rows: i64,
    columns: i64,
    /// Elements from one row, or column, to the next.
    stride: i64,
    operation: c_int,
}

impl Side {
    fn of(x: &Value) -> Result<Side, Refusal> {
        let (sizes, strides) = (x.sizes()?, x.strides()?);
        let (&[rows, columns], &[down, along]) = (&sizes[..], &strides[..]) else {
            return Err("a matrix has two axes".into());
        };
        let lies_by_rows = along == 1 && down >= columns;
        let (stride, operation) = if lies_by_rows { (down, AS_IT_LIES) } else { (along, TRANSPOSED) };
        Ok(Side { rows, columns, stride: stride.max(1), operation })
    }
}

/// The time during which the device is torch's current one.
struct Guard<'a> {
    cublas: &'a Cublas,
    guard: *mut c_void,
}

impl<'a> Guard<'a> {
    fn enter(cublas: &'a Cublas, torch: &Torch) -> Result<Guard<'a>, Refusal> {
        let mut guard = null_mut();
        if let Some(enter) = cublas.enter {
            // SAFETY: writes one handle.
            torch.torch.check(unsafe { enter(torch.place.1, &raw mut guard) })?;
        }
        Ok(Guard { cublas, guard })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let (Some(leave), false) = (self.cublas.leave, self.guard.is_null()) {
            // SAFETY: the guard is this one's own, and is not used after this.
            unsafe { leave(self.guard) };
        }
    }
}
