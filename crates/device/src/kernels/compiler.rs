//! The run-time compilers of chips' makers: NVIDIA's NVRTC and AMD's hipRTC, whose C functions are alike.

use super::gpu::Maker;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

type Program = *mut c_void;
type Texts = *const *const c_char;

/// A compiler library of a maker's.
pub(super) struct Compiler {
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Texts) -> c_int,
    log_bytes: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    code_bytes: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    code: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    words: unsafe extern "C" fn(c_int) -> *const c_char,
    version: String,
    /// Open as long as its functions are called.
    _library: Library,
}

/// The options for NVRTC, whose `architecture` is `sm_90` or alike.
pub(super) fn cuda_options(architecture: &str) -> Vec<String> {
    vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into()]
}

impl Compiler {
    /// Opens the maker's compiler library: that of the Python environment in which torch's folder
    /// `beside_torch` lies, else one on the system's paths.
    ///
    /// # Errors
    /// If there is none, with the places that were looked at.
    pub(super) fn open(maker: Maker, beside_torch: &Path) -> Result<Compiler, String> {
        let places = places(maker, beside_torch);
        // SAFETY: initialisers of a compiler library of the maker's.
        let open = |place: &PathBuf| unsafe { Library::open(Some(place), RTLD_NOW | RTLD_LOCAL) }.ok();
        match places.iter().find_map(open) {
            Some(library) => Compiler::of(library, maker),
            None => Err(format!("no compiler library: looked for {}", shown(&places))),
        }
    }

    fn of(library: Library, maker: Maker) -> Result<Compiler, String> {
        let prefix = match maker {
            Maker::Nvidia => "nvrtc",
            Maker::Amd => "hiprtc",
        };
        let (code_bytes, code) = match maker {
            Maker::Nvidia => ("GetCUBINSize", "GetCUBIN"),
            Maker::Amd => ("GetCodeSize", "GetCode"),
        };
        // SAFETY: each function has the type that the maker's header gives it.
        unsafe {
            macro_rules! symbol {
                ($name:expr) => {{
                    let name = format!("{prefix}{}", $name);
                    *library
                        .get(name.as_bytes())
                        .map_err(|_| format!("the compiler library has no `{name}`"))?
                }};
            }
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = symbol!("Version");
            let (mut major, mut minor) = (0, 0);
            version(&raw mut major, &raw mut minor);
            Ok(Compiler {
                create: symbol!("CreateProgram"),
                compile: symbol!("CompileProgram"),
                log_bytes: symbol!("GetProgramLogSize"),
                log: symbol!("GetProgramLog"),
                code_bytes: symbol!(code_bytes),
                code: symbol!(code),
                destroy: symbol!("DestroyProgram"),
                words: symbol!("GetErrorString"),
                version: format!("{prefix} {major}.{minor}"),
                _library: library,
            })
        }
    }

    /// `nvrtc 13.2`, `hiprtc 7.0`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The machine code of a source.
    ///
    /// # Errors
    /// In the compiler's words if it refuses.
    pub(super) fn compile(&self, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a zero in the source".to_owned());
        let (source, name) = (text(source)?, c"lingot.cu");
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (mut program, none) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: texts end in zero and outlive the calls; what is written fits the lengths that were told.
        unsafe {
            self.check((self.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none))?;
            let outcome = self.check((self.compile)(program, options.len() as c_int, options.as_ptr()));
            let made = match outcome {
                Ok(()) => self.take(program, self.code_bytes, self.code),
                Err(words) => {
                    let log = self.take(program, self.log_bytes, self.log).unwrap_or_default();
                    let log = String::from_utf8_lossy(&log);
                    let line = log.lines().find(|line| line.contains("error")).unwrap_or_default();
                    Err(format!("does not compile: {words}: {line}"))
                }
            };
            (self.destroy)(&raw mut program);
            made
        }
    }

    /// Code or log of a program.
    ///
    /// # Safety
    /// The program is one of this library's.
    unsafe fn take(
        &self,
        program: Program,
        bytes: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        take: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut count = 0;
        // SAFETY: as the caller says; there is room for as many bytes as the library wants to write.
        unsafe {
            self.check(bytes(program, &raw mut count))?;
            let mut taken = vec![0_u8; count];
            self.check(take(program, taken.as_mut_ptr().cast()))?;
            Ok(taken)
        }
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library's texts are constants.
        let words = unsafe { CStr::from_ptr((self.words)(code)) };
        Err(format!("{}: {}", self.version, words.to_string_lossy()))
    }
}

/// Where the library may be, the most likely first. A name without a folder is looked for by the system.
fn places(maker: Maker, beside_torch: &Path) -> Vec<PathBuf> {
    let names: &[&str] = match maker {
        Maker::Nvidia => &["libnvrtc.so.13", "libnvrtc.so.12"],
        Maker::Amd => &["libhiprtc.so", "libhiprtc.so.7", "libhiprtc.so.6"],
    };
    // A Python environment has the maker's packages beside torch's: nvidia/cu13/lib, nvidia/cuda_nvrtc/lib.
    let packages = beside_torch.ancestors().nth(2).map(|folder| folder.join("nvidia"));
    let folders = packages.into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
    let mut folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path().join("lib")).collect();
    folders.sort();
    folders.insert(0, beside_torch.into());
    let in_folders = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let by_system = names.iter().map(PathBuf::from);
    let found = in_folders.filter(|place| place.exists());
    let usual = ["/usr/local/cuda/lib64/libnvrtc.so", "/opt/rocm/lib/libhiprtc.so"];
    found
        .chain(by_system)
        .chain(usual.map(PathBuf::from).into_iter().filter(|place| place.exists()))
        .collect()
}

fn shown(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::source;

    #[test]
    fn nvidias_compiler_takes_the_kernels_for_two_generations() {
        let compiler = match compiler() {
            Ok(compiler) => compiler,
            Err(why) => return println!("skipped: {why}"),
        };
        let units = source::units();
        std::thread::scope(|scope| {
            for (unit, architecture) in units.iter().flat_map(|unit| [(unit, "sm_80"), (unit, "sm_90")]) {
                let compiler = &compiler;
                scope.spawn(move || {
                    let code = compiler.compile(&unit.text, &cuda_options(architecture)).unwrap();
                    assert!(code.starts_with(b"\x7fELF"), "{architecture}: {} bytes", code.len());
                });
            }
        });
    }

    const WRONG: &str = "__device__ int f() { return y; }";

    #[test]
    fn a_source_that_is_wrong_is_refused_with_its_line() {
        let compiler = match compiler() {
            Ok(compiler) => compiler,
            Err(why) => return println!("skipped: {why}"),
        };
        let refused = compiler.compile(WRONG, &cuda_options("sm_90")).unwrap_err();
        assert!(refused.contains("does not compile") && refused.contains("\"y\" is undefined"), "{refused}");
        let refused = compiler.compile("", &cuda_options("sm_1")).unwrap_err();
        assert!(refused.contains("gpu-architecture"), "{refused}");
    }

    /// The compiler beside the torch that is installed.
    fn compiler() -> Result<Compiler, String> {
        let (torch, _) = crate::torch::Torch::found().map_err(|error| error.to_string())?;
        Compiler::open(Maker::Nvidia, torch.parent().unwrap())
    }
}
