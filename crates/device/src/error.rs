//! What can go wrong on the device floor. Each variant carries its operands, so the text can show both
//! numbers.

use lingot_spec::problem::{Problem, ProblemKind};
use std::fmt;

/// The device floor's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong on the device floor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the variant's text")]
pub enum Error {
    /// A tensor has another shape than the op needs.
    Shape { op: &'static str, tensor: &'static str, found: Vec<usize>, wanted: Vec<usize> },
    /// A tensor has another element type than the op needs.
    Kind { op: &'static str, tensor: &'static str, found: &'static str, wanted: &'static str },
    /// Two tensors of one op are on different devices.
    Elsewhere { op: &'static str, tensor: &'static str, found: String, wanted: String },
    /// An output shares memory with another tensor of the op.
    Overlap { op: &'static str, tensor: &'static str },
    /// A number is outside of what the op is defined for.
    Value { op: &'static str, what: &'static str, found: String, wanted: String },
    /// A slot or an op uses memory of another backend than the one that is asked.
    Foreign { what: &'static str },
    /// A copy would reach beyond the end of its slot.
    Beyond { offset_bytes: usize, bytes: usize, slot_bytes: usize },
    /// The device's memory is full. Either number is 0 if it is unknown.
    OutOfMemory { device: String, needs_bytes: u64, has_bytes: u64 },
    /// The backend cannot do this.
    Unsupported { device: String, what: String, hint: String },
    /// The device does not answer any more.
    Lost { device: String, reason: String },
    /// An op stopped for a reason, after a part of what it updates in place was written.
    HalfDone { op: &'static str, error: Box<Error> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { op, tensor, found, wanted } => {
                write!(f, "{op}: `{tensor}` is {found:?}, but must be {wanted:?}")
            }
            Error::Kind { op, tensor, found, wanted } => {
                write!(f, "{op}: `{tensor}` holds {found}, but must hold {wanted}")
            }
            Error::Elsewhere { op, tensor, found, wanted } => {
                write!(f, "{op}: `{tensor}` is on {found}, the others are on {wanted}")
            }
            Error::Overlap { op, tensor } => {
                write!(f, "{op}: `{tensor}` is written and shares memory with another tensor of the op")
            }
            Error::Value { op, what, found, wanted } => {
                write!(f, "{op}: {what} is {found}, but must be {wanted}")
            }
            Error::Foreign { what } => write!(f, "{what} uses memory of another device"),
            Error::Beyond { offset_bytes, bytes, slot_bytes } => {
                write!(
                    f,
                    "a copy of {bytes} bytes at byte {offset_bytes} ends beyond a slot of {slot_bytes} bytes"
                )
            }
            Error::OutOfMemory { device, needs_bytes: 0, .. } => write!(f, "{device}: out of memory"),
            Error::OutOfMemory { device, needs_bytes, has_bytes: 0 } => {
                write!(f, "{device}: out of memory: {needs_bytes} bytes more do not fit")
            }
            Error::OutOfMemory { device, needs_bytes, has_bytes } => {
                write!(f, "{device}: a tensor of {needs_bytes} bytes does not fit into {has_bytes} bytes")
            }
            Error::Unsupported { device, what, .. } => write!(f, "{device}: {what}"),
            Error::Lost { device, reason } => write!(f, "{device}: {reason}"),
            Error::HalfDone { op, error } => write!(f, "{error}; a part of the tensors of {op} is written"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether the op had written a part of what it updates in place before it stopped.
    pub fn is_half_done(&self) -> bool {
        matches!(self, Error::HalfDone { .. })
    }

    /// One thing to do about the error.
    fn hint(&self) -> &str {
        match self {
            Error::OutOfMemory { .. } => "use a smaller batch.micro, or device.recompute = \"block\"",
            Error::Unsupported { hint, .. } => hint,
            Error::Lost { .. } => "the run goes on from its newest checkpoint, on other devices if need be",
            Error::HalfDone { error, .. } => error.hint(),
            _ => "this is a bug; report it",
        }
    }

    fn kind(&self) -> ProblemKind {
        match self {
            Error::OutOfMemory { needs_bytes, has_bytes, .. } => {
                ProblemKind::DeviceFull { needs_bytes: *needs_bytes, has_bytes: *has_bytes }
            }
            Error::Unsupported { .. } => ProblemKind::Device,
            Error::Lost { .. } => ProblemKind::DeviceLost,
            Error::HalfDone { error, .. } => error.kind(),
            _ => ProblemKind::Bug,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem { kind: error.kind(), problem: error.to_string(), hint: error.hint().into() }
    }
}
