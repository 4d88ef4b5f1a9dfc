//! Tells what a maker's torch library registers, without its chip: operators MAKER.so < NAMES
//!
//! Each line of the input names an operator, `aten::mm.out`. Each line of the output answers one of them, its parts
//! between tabs: the name, `kernel`, `composed` or `none` (whether the maker brings one for PrivateUse1, or torch
//! composes it of others), and the schema; a name without schema has `unknown` alone. `*` asks for all names of the
//! namespace that follows, `*npu`.

#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <unistd.h>

#include <iostream>
#include <string>

namespace {

const char* source_of_kernel(const c10::OperatorHandle& op) {
  if (op.hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) return "kernel";
  for (auto key : {c10::DispatchKey::CompositeExplicitAutograd, c10::DispatchKey::CompositeExplicitAutogradNonFunctional,
                   c10::DispatchKey::CompositeImplicitAutograd}) {
    if (op.hasKernelForDispatchKey(key)) return "composed";
  }
  return "none";
}

void answer(const c10::OperatorName& name) {
  const auto op = c10::Dispatcher::singleton().findSchema(name);
  std::cout << name << "\t";
  if (op) {
    std::cout << source_of_kernel(*op) << "\t" << op->schema() << "\n";
  } else {
    std::cout << "unknown\n";
  }
}

}  // namespace

int main(int, char** words) {
  if (!dlopen(words[1], RTLD_NOW | RTLD_GLOBAL)) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    if (line.starts_with("*")) {
      for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
        if (name.name.starts_with(line.substr(1) + "::")) answer(name);
      }
      continue;
    }
    const size_t dot = line.find('.');
    answer({line.substr(0, dot), dot == std::string::npos ? "" : line.substr(dot + 1)});
  }
  std::cout.flush();
  _exit(0);  // The maker's own clean-up expects its driver.
}
