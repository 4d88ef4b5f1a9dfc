//! A GPU through its maker's driver library: what it is, and how kernels are loaded and started there.
//!
//! NVIDIA's `libcuda` and AMD's `libamdhip64` offer the same functions under other names. The context is the
//! device's primary one, which torch uses too, so memory and streams of torch's are valid here.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;

/// Who makes a GPU, and so whose driver and compiler are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// NVIDIA: CUDA's driver and NVRTC.
    Nvidia,
    /// AMD: HIP and hipRTC.
    Amd,
}

type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// How a thread turns to the device before it calls the driver.
#[derive(Clone, Copy)]
enum Turn {
    /// CUDA: the device's primary context, by its address, becomes the thread's.
    Context(unsafe extern "C" fn(*mut c_void) -> c_int, u64),
    /// HIP: the device becomes the thread's.
    Device(unsafe extern "C" fn(c_int) -> c_int, c_int),
}

/// What a GPU's driver says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    /// The card's name: `NVIDIA H100 80GB HBM3`.
    pub(crate) name: String,
    /// The memory of the whole card, in bytes.
    pub(crate) memory_bytes: u64,
    /// The driver's version, as its maker writes it.
    pub(crate) driver: String,
    /// What code is compiled for: `sm_90`; empty where the compiler finds out.
    pub(crate) architecture: String,
}

/// One GPU, its driver opened.
pub(crate) struct Gpu {
    maker: Maker,
    card: Card,
    turn: Turn,
    load: unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int,
    function: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int,
    launch: Launch,
    words: Words,
    /// Open as long as its functions are called.
    _library: Library,
}

/// How the driver's errors become words.
#[derive(Clone, Copy)]
enum Words {
    Nvidia(unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int),
    Amd(unsafe extern "C" fn(c_int) -> *const c_char),
}

/// CUDA's numbers of attributes of a device.
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// Finds functions in a driver's library. Each has the type that the maker's header gives it.
macro_rules! symbol {
    ($library:expr, $name:literal) => {
        *$library.get($name).map_err(|_| format!("the driver has no `{}`", String::from_utf8_lossy($name)))?
    };
}

impl Gpu {
    /// Opens the driver of a GPU by its index among those that the process sees.
    ///
    /// # Errors
    /// If there is no driver, or it does not know the device.
    pub(crate) fn open(maker: Maker, index: i32) -> Result<Gpu, String> {
        let names: &[&str] = match maker {
            Maker::Nvidia => &["libcuda.so.1"],
            Maker::Amd => &["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"],
        };
        // SAFETY: initialisers of a driver that torch has opened before.
        let open = |name: &&str| unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_LOCAL) }.ok();
        let Some(library) = names.iter().find_map(open) else {
            return Err(format!("no driver library: looked for {}", names.join(", ")));
        };
        match maker {
            Maker::Nvidia => Gpu::of_nvidia(library, index),
            Maker::Amd => Gpu::of_amd(library, index),
        }
    }

    fn of_nvidia(library: Library, index: i32) -> Result<Gpu, String> {
        // SAFETY: functions by their types in CUDA's header; each writes what its pointers have room for.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = symbol!(library, b"cuInit");
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = symbol!(library, b"cuDeviceGet");
            let name = symbol!(library, b"cuDeviceGetName");
            let memory = symbol!(library, b"cuDeviceTotalMem_v2");
            let version = symbol!(library, b"cuDriverGetVersion");
            let attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int =
                symbol!(library, b"cuDeviceGetAttribute");
            let retain: unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int =
                symbol!(library, b"cuDevicePrimaryCtxRetain");
            let words = Words::Nvidia(symbol!(library, b"cuGetErrorString"));
            let mut device = 0;
            words.check(init(0))?;
            words.check(get(&raw mut device, index))?;
            let (mut major, mut minor) = (0, 0);
            words.check(attribute(&raw mut major, CAPABILITY_MAJOR, device))?;
            words.check(attribute(&raw mut minor, CAPABILITY_MINOR, device))?;
            let mut context = std::ptr::null_mut();
            words.check(retain(&raw mut context, device))?;
            let found = Card::read(device, name, memory, version, words)?;
            let cuda = found.driver.parse().unwrap_or(0);
            let driver = nvidia_driver(cuda);
            Ok(Gpu {
                maker: Maker::Nvidia,
                card: Card { architecture: format!("sm_{major}{minor}"), driver, ..found },
                turn: Turn::Context(symbol!(library, b"cuCtxSetCurrent"), context.expose_provenance() as u64),
                load: symbol!(library, b"cuModuleLoadData"),
                function: symbol!(library, b"cuModuleGetFunction"),
                launch: symbol!(library, b"cuLaunchKernel"),
                words,
                _library: library,
            })
        }
    }

    fn of_amd(library: Library, index: i32) -> Result<Gpu, String> {
        // SAFETY: functions by their types in HIP's header; each writes what its pointers have room for.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = symbol!(library, b"hipInit");
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = symbol!(library, b"hipDeviceGet");
            let name = symbol!(library, b"hipDeviceGetName");
            let memory = symbol!(library, b"hipDeviceTotalMem");
            let version = symbol!(library, b"hipDriverGetVersion");
            let words = Words::Amd(symbol!(library, b"hipGetErrorString"));
            let mut device = 0;
            words.check(init(0))?;
            words.check(get(&raw mut device, index))?;
            let found = Card::read(device, name, memory, version, words)?;
            Ok(Gpu {
                maker: Maker::Amd,
                card: Card { driver: format!("HIP {}", found.driver), ..found },
                turn: Turn::Device(symbol!(library, b"hipSetDevice"), index),
                load: symbol!(library, b"hipModuleLoadData"),
                function: symbol!(library, b"hipModuleGetFunction"),
                launch: symbol!(library, b"hipModuleLaunchKernel"),
                words,
                _library: library,
            })
        }
    }

    /// Who made it.
    pub(crate) fn maker(&self) -> Maker {
        self.maker
    }

    /// What the driver says of it.
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// What code is compiled for.
    pub(super) fn architecture(&self) -> &str {
        &self.card.architecture
    }

    /// Loads machine code; returns the module's handle.
    pub(super) fn load(&self, code: &[u8]) -> Result<u64, String> {
        let mut module = std::ptr::null_mut();
        self.turn()?;
        // SAFETY: the driver checks the code's header, and copies it.
        self.words.check(unsafe { (self.load)(&raw mut module, code.as_ptr().cast()) })?;
        Ok(module.expose_provenance() as u64)
    }

    /// The handle of a module's kernel.
    pub(super) fn function(&self, module: u64, name: &str) -> Result<u64, String> {
        let (mut function, text) = (std::ptr::null_mut(), CString::new(name).unwrap_or_default());
        let module = std::ptr::with_exposed_provenance_mut(module as usize);
        self.turn()?;
        // SAFETY: a module of `load`, and a text that ends in zero.
        let code = unsafe { (self.function)(&raw mut function, module, text.as_ptr()) };
        self.words.check(code).map_err(|words| format!("kernel `{name}`: {words}"))?;
        Ok(function.expose_provenance() as u64)
    }

    /// Enqueues a kernel whose one argument is a structure that begins with `arguments`.
    ///
    /// # Safety
    /// As [`Kernels::launch`](super::Kernels::launch).
    pub(super) unsafe fn launch(
        &self,
        function: u64,
        blocks: usize,
        threads: usize,
        stream: *mut c_void,
        arguments: &mut [u64],
    ) -> Result<(), String> {
        let blocks = c_uint::try_from(blocks).map_err(|_| format!("{blocks} blocks are too many"))?;
        let function = std::ptr::with_exposed_provenance_mut(function as usize);
        let mut places = [arguments.as_mut_ptr().cast::<c_void>()];
        self.turn()?;
        // SAFETY: as the caller says; the driver copies the arguments before it returns.
        let code = unsafe {
            let (places, none) = (places.as_mut_ptr(), std::ptr::null_mut());
            (self.launch)(function, blocks, 1, 1, threads as c_uint, 1, 1, 0, stream, places, none)
        };
        self.words.check(code)
    }

    /// Makes the device this thread's.
    pub(super) fn turn(&self) -> Result<(), String> {
        // SAFETY: a context that is never given back, or an index that the driver knows.
        self.words.check(unsafe {
            match self.turn {
                Turn::Context(set, context) => set(std::ptr::with_exposed_provenance_mut(context as usize)),
                Turn::Device(set, index) => set(index),
            }
        })
    }
}

/// `NVIDIA H100 80GB HBM3, 79.2 GiB, driver 580.65.06 (CUDA 13.0), sm_90`.
impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Card { name, memory_bytes, driver, architecture } = self;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        write!(f, "{name}, {gib:.1} GiB, driver {driver}")?;
        if architecture.is_empty() { Ok(()) } else { write!(f, ", {architecture}") }
    }
}

impl Card {
    /// What both drivers tell in the same way; the version as they number it.
    ///
    /// # Safety
    /// The functions are the driver's, and the device is one of its.
    unsafe fn read(
        device: c_int,
        name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
        memory: unsafe extern "C" fn(*mut usize, c_int) -> c_int,
        version: unsafe extern "C" fn(*mut c_int) -> c_int,
        words: Words,
    ) -> Result<Card, String> {
        let (mut text, mut memory_bytes, mut number) = ([0 as c_char; 256], 0, 0);
        // SAFETY: as the caller says; the name is cut to its room and ends in zero.
        let name = unsafe {
            words.check(name(text.as_mut_ptr(), text.len() as c_int - 1, device))?;
            words.check(memory(&raw mut memory_bytes, device))?;
            words.check(version(&raw mut number))?;
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        };
        let (memory_bytes, driver) = (memory_bytes as u64, number.to_string());
        Ok(Card { name, memory_bytes, driver, architecture: String::new() })
    }
}

impl Words {
    fn check(self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: texts of the driver's are constants.
        let words = unsafe {
            match self {
                Words::Nvidia(words) => _ = words(code, &raw mut text),
                Words::Amd(words) => text = words(code),
            }
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("the driver's error {code}: {words}"))
    }
}

/// The version of NVIDIA's kernel module where the system shows it, and the CUDA that the driver speaks.
fn nvidia_driver(cuda: i32) -> String {
    let cuda = format!("CUDA {}.{}", cuda / 1000, cuda % 1000 / 10);
    match std::fs::read_to_string("/sys/module/nvidia/version") {
        Ok(version) => format!("{} ({cuda})", version.trim()),
        Err(_) => cuda,
    }
}
