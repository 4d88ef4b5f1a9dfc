//! The operators of torch's that are called by name, each with its schema.
//!
//! The type of an argument decides how it is passed, and torch does not check: a `Tensor?` that is passed as
//! a `Tensor` ends the program. So the schemas are written down once, here, and nothing else builds calls.
//! Slots that are not given are 0, so what may be absent at a schema's end is left out. torch takes the types
//! of several results from the wrong end (`torch_call_dispatcher`, seen in 2.15), so no operator is called
//! that returns numbers among tensors.
#![allow(unsafe_code)]

use super::counts::launch;
use super::library::{Handle, Symbols};
use super::refusal::Refusal;
use super::value::Value;
use std::ffi::CStr;

/// An element type, as torch numbers them.
#[derive(Clone, Copy)]
pub(super) struct Dtype(pub(super) i32);

/// The operators, to be called through one libtorch.
#[derive(Clone, Copy)]
pub(super) struct Aten(pub(super) &'static Symbols);

/// One operator that this backend can call, with the types that its arguments are passed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `aten::mm.out`.
    pub operator: String,
    /// `Tensor`, `int[]?`: as torch's schemas write them.
    pub arguments: Vec<String>,
    /// Tensors that are taken as results.
    pub results: usize,
    /// Whether something composed of other operators does the same, so that a chip may lack this one.
    pub may_lack: bool,
}

macro_rules! aten {
    ($list:ident, may lack: $may_lack:literal;
     $($method:ident = $name:literal $overload:literal ($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// The operators of one table below.
        fn $list() -> Vec<Call> {
            vec![$(Call {
                operator: full_name($name, $overload),
                arguments: vec![$(<$type as Argument>::schema_type()),*],
                results: <$result as Results>::TENSORS,
                may_lack: $may_lack,
            }),*]
        }

        impl Aten {
            $(
                #[expect(
                    clippy::too_many_arguments,
                    clippy::allow_attributes,
                    reason = "as torch's schema has them"
                )]
                #[allow(unfulfilled_lint_expectations)]
                pub(super) fn $method(self, $($argument: $type),*) -> Result<$result, Refusal> {
                    let arguments = [$($argument.slot(self.0)?),*];
                    self.call($name, $overload, &arguments)
                }
            )*
        }
    };
}

// What every op can be composed of: a chip must have all of it.
aten! {
    needed, may lack: false;
    amax = c"aten::amax" c"" (x: &Value, axes: &[i64], keep: bool) -> Value;
    bmm = c"aten::bmm" c"" (a: &Value, b: &Value) -> Value;
    cat = c"aten::cat" c"" (parts: &[&Value], axis: i64) -> Value;
    div = c"aten::div" c"Tensor" (x: &Value, by: &Value) -> Value;
    div_out = c"aten::div" c"out" (x: &Value, by: &Value, out: &Value) -> Value;
    embedding_dense_backward = c"aten::embedding_dense_backward" c"" (
        d_out: &Value, indices: &Value, rows: i64, padding: i64, by_frequency: bool) -> Value;
    eq = c"aten::eq" c"Tensor" (x: &Value, y: &Value) -> Value;
    exp_ = c"aten::exp_" c"" (x: &Value) -> Value;
    floor_divide = c"aten::floor_divide" c"" (x: &Value, by: &Value) -> Value;
    foreach_addcmul_ = c"aten::_foreach_addcmul_" c"Tensor" (
        out: &[&Value], x: &[&Value], y: &[&Value], times: &Value) -> ();
    gather = c"aten::gather" c"" (x: &Value, axis: i64, index: &Value, sparse: bool) -> Value;
    ge = c"aten::ge" c"Tensor" (x: &Value, y: &Value) -> Value;
    gt = c"aten::gt" c"Tensor" (x: &Value, y: &Value) -> Value;
    index_select = c"aten::index_select" c"" (x: &Value, axis: i64, index: &Value) -> Value;
    index_select_out = c"aten::index_select" c"out" (
        x: &Value, axis: i64, index: &Value, out: &Value) -> Value;
    log = c"aten::log" c"" (x: &Value) -> Value;
    log_softmax = c"aten::_log_softmax" c"" (x: &Value, axis: i64, half_to_float: bool) -> Value;
    lt = c"aten::lt" c"Tensor" (x: &Value, y: &Value) -> Value;
    max = c"aten::max" c"dim" (x: &Value, axis: i64, keep: bool) -> (Value, Value);
    maximum = c"aten::maximum" c"" (x: &Value, y: &Value) -> Value;
    mean = c"aten::mean" c"dim" (x: &Value, axes: Option<&[i64]>, keep: bool, dtype: Option<Dtype>) -> Value;
    minimum_out = c"aten::minimum" c"out" (x: &Value, y: &Value, out: &Value) -> Value;
    mm = c"aten::mm" c"" (a: &Value, b: &Value) -> Value;
    mm_out = c"aten::mm" c"out" (a: &Value, b: &Value, out: &Value) -> Value;
    mul = c"aten::mul" c"Tensor" (x: &Value, y: &Value) -> Value;
    mul_ = c"aten::mul_" c"Tensor" (x: &Value, y: &Value) -> Value;
    mul_out = c"aten::mul" c"out" (x: &Value, y: &Value, out: &Value) -> Value;
    nan_to_num = c"aten::nan_to_num" c"" (
        x: &Value, nan: Option<f64>, infinity: Option<f64>, minus_infinity: Option<f64>) -> Value;
    reciprocal = c"aten::reciprocal" c"" (x: &Value) -> Value;
    rsqrt = c"aten::rsqrt" c"" (x: &Value) -> Value;
    scatter = c"aten::scatter" c"src" (x: &Value, axis: i64, index: &Value, from: &Value) -> Value;
    scatter_ = c"aten::scatter_" c"src" (x: &Value, axis: i64, index: &Value, from: &Value) -> Value;
    scatter_add_ = c"aten::scatter_add_" c"" (x: &Value, axis: i64, index: &Value, from: &Value) -> Value;
    searchsorted = c"aten::searchsorted" c"Tensor" (
        sorted: &Value, x: &Value, i32: bool, right: bool, side: NoText, sorter: Option<&Value>) -> Value;
    sigmoid = c"aten::sigmoid" c"" (x: &Value) -> Value;
    sigmoid_backward = c"aten::sigmoid_backward" c"" (d_out: &Value, out: &Value) -> Value;
    silu = c"aten::silu" c"" (x: &Value) -> Value;
    silu_backward_out = c"aten::silu_backward" c"grad_input" (d_out: &Value, x: &Value, out: &Value) -> Value;
    softmax = c"aten::_softmax" c"" (x: &Value, axis: i64, half_to_float: bool) -> Value;
    softmax_backward = c"aten::_softmax_backward_data" c"" (
        d_out: &Value, out: &Value, axis: i64, dtype: Dtype) -> Value;
    sort = c"aten::sort" c"stable" (
        x: &Value, stable: Option<bool>, axis: i64, descending: bool) -> (Value, Value);
    sqrt = c"aten::sqrt" c"" (x: &Value) -> Value;
    sqrt_out = c"aten::sqrt" c"out" (x: &Value, out: &Value) -> Value;
    sum = c"aten::sum" c"dim_IntList" (
        x: &Value, axes: Option<&[i64]>, keep: bool, dtype: Option<Dtype>) -> Value;
    tril = c"aten::tril" c"" (x: &Value, diagonal: i64) -> Value;
    where_ = c"aten::where" c"self" (condition: &Value, yes: &Value, no: &Value) -> Value;
}

// What does more at once, or sums more exactly, and is tried when a device is opened.
aten! {
    tried, may lack: true;
    efficient = c"aten::_scaled_dot_product_efficient_attention" c"" (
        q: &Value, k: &Value, v: &Value, bias: Option<&Value>, with_lse: bool, dropout: f64, causal: bool,
        scale: Option<f64>) -> (Value, Value, Value, Value);
    efficient_backward = c"aten::_scaled_dot_product_efficient_attention_backward" c"" (
        d_out: &Value, q: &Value, k: &Value, v: &Value, bias: &Value, out: &Value, lse: &Value, seed: &Value,
        offset: &Value, dropout: f64, wanted: &[bool], causal: bool, scale: Option<f64>)
        -> (Value, Value, Value, Value);
    embedding_bag = c"aten::_embedding_bag_forward_only" c"" (
        table: &Value, indices: &Value, offsets: &Value, by_frequency: bool, mode: i64, sparse: bool,
        weights: Option<&Value>, last_offset: bool, padding: i64) -> (Value, Value, Value, Value);
    flash = c"aten::_flash_attention_forward" c"" (
        q: &Value, k: &Value, v: &Value, ends_q: Option<&Value>, ends_k: Option<&Value>, most_q: i64,
        most_k: i64, dropout: f64, causal: bool, debug: bool, scale: Option<f64>)
        -> (Value, Value, Value, Value, Value);
    flash_backward = c"aten::_flash_attention_backward" c"" (
        d_out: &Value, q: &Value, k: &Value, v: &Value, out: &Value, lse: &Value, ends_q: &Value,
        ends_k: &Value, most_q: i64, most_k: i64, dropout: f64, causal: bool, seed: &Value, offset: &Value,
        scale: Option<f64>) -> (Value, Value, Value);
    flash_cpu = c"aten::_scaled_dot_product_flash_attention_for_cpu" c"" (
        q: &Value, k: &Value, v: &Value, dropout: f64, causal: bool, mask: Option<&Value>, scale: Option<f64>)
        -> (Value, Value);
    flash_cpu_backward = c"aten::_scaled_dot_product_flash_attention_for_cpu_backward" c"" (
        d_out: &Value, q: &Value, k: &Value, v: &Value, out: &Value, lse: &Value, dropout: f64, causal: bool,
        mask: Option<&Value>, scale: Option<f64>) -> (Value, Value, Value);
    fused_adamw_ = c"aten::_fused_adamw_" c"" (
        parameters: &[&Value], gradients: &[&Value], first: &[&Value], second: &[&Value], largest: &[&Value],
        steps: &[&Value], rate: f64, beta1: f64, beta2: f64, decay: f64, epsilon: f64, amsgrad: bool,
        maximize: bool, gradient_scale: Option<&Value>, found_infinite: Option<&Value>) -> ();
    fused_rms_norm = c"aten::_fused_rms_norm" c"" (
        x: &Value, sizes: &[i64], scale: Option<&Value>, epsilon: Option<f64>) -> (Value, Value);
    fused_rms_norm_backward = c"aten::_fused_rms_norm_backward" c"" (
        d_out: &Value, x: &Value, sizes: &[i64], root: &Value, scale: Option<&Value>, wanted: &[bool])
        -> (Value, Value);
    grouped_mm = c"aten::_grouped_mm" c"" (
        a: &Value, b: &Value, ends: Option<&Value>, bias: Option<&Value>, dtype: Option<Dtype>) -> Value;
    mm_dtype = c"aten::mm" c"dtype" (a: &Value, b: &Value, dtype: Dtype) -> Value;
    mm_dtype_out = c"aten::mm" c"dtype_out" (a: &Value, b: &Value, dtype: Dtype, out: &Value) -> Value;
}

/// Every operator that this backend can call by name, on any device.
pub fn calls() -> Vec<Call> {
    needed().into_iter().chain(tried()).collect()
}

/// No operator has more arguments or results, with those that are left out.
const SLOTS: usize = 24;

impl Aten {
    /// Calls an operator. The call consumes its arguments, whatever comes of it.
    fn call<R: Results>(self, name: &CStr, overload: &CStr, arguments: &[u64]) -> Result<R, Refusal> {
        launch();
        let mut stack = [0; SLOTS];
        stack[..arguments.len()].copy_from_slice(arguments);
        let torch = self.0;
        // SAFETY: the table above gives every argument of the schema, in its order and by its type, and there
        // is room for the results.
        let code =
            unsafe { (torch.call)(name.as_ptr(), overload.as_ptr(), stack.as_mut_ptr(), torch.version) };
        torch
            .check(code)
            .map_err(|refusal| refusal.explained(|words| explained(torch, name, overload, words)))?;
        Ok(R::take(torch, &stack))
    }
}

/// Puts the operator's name before torch's words, and says so if this torch or this device does not have it.
fn explained(torch: &Symbols, name: &CStr, overload: &CStr, words: &str) -> String {
    let missing = words.starts_with("Could not find schema") || words.starts_with("Could not run");
    let absent = if missing {
        format!("torch {} has no such operator here: ", torch.version())
    } else {
        String::new()
    };
    format!("{}: {absent}{words}", full_name(name, overload))
}

/// `aten::mm.out`, or `aten::mm` where there is no overload's name.
fn full_name(name: &CStr, overload: &CStr) -> String {
    let (name, overload) = (name.to_string_lossy(), overload.to_string_lossy());
    let dot = if overload.is_empty() { "" } else { "." };
    format!("{name}{dot}{overload}")
}

/// A value that can be put onto torch's stack.
trait Argument {
    /// The type as torch's schemas write it.
    fn schema_type() -> String;

    fn slot(self, torch: &'static Symbols) -> Result<u64, Refusal>;
}

impl Argument for &Value {
    fn schema_type() -> String {
        "Tensor".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        self.lent()
    }
}

impl Argument for i64 {
    fn schema_type() -> String {
        "int".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        Ok(self as u64)
    }
}

impl Argument for f64 {
    fn schema_type() -> String {
        "float".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        Ok(self.to_bits())
    }
}

impl Argument for bool {
    fn schema_type() -> String {
        "bool".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        Ok(u64::from(self))
    }
}

impl Argument for Dtype {
    fn schema_type() -> String {
        "ScalarType".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        Ok(self.0 as u64)
    }
}

/// A `str?` that is not given.
pub(super) struct NoText;

impl Argument for NoText {
    fn schema_type() -> String {
        "str?".into()
    }

    fn slot(self, _: &'static Symbols) -> Result<u64, Refusal> {
        Ok(0)
    }
}

/// An optional value is passed in a box that torch allocates.
impl<T: Argument> Argument for Option<T> {
    fn schema_type() -> String {
        T::schema_type() + "?"
    }

    fn slot(self, torch: &'static Symbols) -> Result<u64, Refusal> {
        let Some(value) = self else { return Ok(0) };
        let place = torch.boxed(value.slot(torch)?)?;
        Ok(place.expose_provenance() as u64)
    }
}

/// A slice is passed as a list that torch allocates and the call frees.
impl<T: Argument + Copy> Argument for &[T] {
    fn schema_type() -> String {
        T::schema_type() + "[]"
    }

    fn slot(self, torch: &'static Symbols) -> Result<u64, Refusal> {
        let mut list = std::ptr::null_mut();
        // SAFETY: torch writes a handle to a new list, and takes slots of the elements' type.
        unsafe {
            torch.check((torch.new_list)(self.len(), &raw mut list))?;
            for &element in self {
                torch.check((torch.push)(list, element.slot(torch)?))?;
            }
        }
        Ok(list.expose_provenance() as u64)
    }
}

/// Results that can be taken off torch's stack.
trait Results {
    /// How many tensors they are.
    const TENSORS: usize;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> Self;
}

impl Results for () {
    const TENSORS: usize = 0;

    fn take(_: &'static Symbols, _: &[u64; SLOTS]) {}
}

impl Results for Value {
    const TENSORS: usize = 1;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> Value {
        owned(torch, stack[0])
    }
}

impl Results for (Value, Value) {
    const TENSORS: usize = 2;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> (Value, Value) {
        (owned(torch, stack[0]), owned(torch, stack[1]))
    }
}

impl Results for (Value, Value, Value) {
    const TENSORS: usize = 3;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> (Value, Value, Value) {
        (owned(torch, stack[0]), owned(torch, stack[1]), owned(torch, stack[2]))
    }
}

impl Results for (Value, Value, Value, Value) {
    const TENSORS: usize = 4;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> (Value, Value, Value, Value) {
        (owned(torch, stack[0]), owned(torch, stack[1]), owned(torch, stack[2]), owned(torch, stack[3]))
    }
}

impl Results for (Value, Value, Value, Value, Value) {
    const TENSORS: usize = 5;

    fn take(torch: &'static Symbols, stack: &[u64; SLOTS]) -> (Value, Value, Value, Value, Value) {
        let at = |slot: usize| owned(torch, stack[slot]);
        (at(0), at(1), at(2), at(3), at(4))
    }
}

fn owned(torch: &'static Symbols, slot: u64) -> Value {
    let handle: Handle = std::ptr::with_exposed_provenance_mut(slot as usize);
    Value::owning(torch, handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_torch_does_not_have_is_named_with_torchs_version() {
        let torch = match Symbols::open("torch:cpu") {
            Ok(torch) => torch,
            Err(error) => return println!("skipped: {error}"),
        };
        let answer = Aten(torch).call::<Value>(c"aten::no_such_operator", c"out", &[]);
        let words = answer.err().unwrap().to_string();
        let version = torch.version();
        // Before 2.13 torch does not hand out its words.
        let why = if torch.has_words() {
            format!("torch {version} has no such operator")
        } else {
            format!("refused; torch {version} says why on standard error")
        };
        let wanted = format!("aten::no_such_operator.out: {why}");
        assert!(words.starts_with(&wanted), "{words}");
    }
}
