//! A chip that exists only in software, registered with PyTorch as every maker outside its tree registers: PrivateUse1.
//!
//! It stands for the libraries of Ascend, Moore Threads and their like. Its memory is its own: the addresses that it gives
//! out lie in a range that no host instruction can read or write, so whoever takes one for a host pointer dies of a
//! segmentation fault. The cells themselves lie `beyond` that range, known to this file alone. Whatever operator is asked
//! for runs PyTorch's CPU kernel over the cells. Fresh memory is NaN.
//!
//! Environment, read once: `CHIP_PRODUCTS=reversed` sums products from the other end, `=tf32` rounds their operands to ten
//! bits of mantissa; `CHIP_FAULT=aten::silu` makes one element of that operator's result wrong by 1 %;
//! `CHIP_LACKS=aten::sort` refuses an operator; both take several, with commas between; `CHIP_MEMORY_BYTES` is how much memory it
//! has; `CHIP_OPEN=1` lets the host into its memory, for kernels that run there. Once a file of the name `CHIP_LOST_WHEN` exists the chip refuses every call, for good. While one of the name
//! `CHIP_FULL_WHEN` does, it has no memory left for the results of an operator, `aten::silu` or the one that `CHIP_FULL_AT`
//! names, once `CHIP_FULL_AFTER` more of its calls are done, nor for tensors of `CHIP_FULL_BYTES`. To the file `CHIP_LOG`
//! it adds each operator that reaches it, after the one that was called: `aten::narrow aten::slice.Tensor`.
//!
//! It has fused operators that PyTorch's CPU does not have, called as cuda's are: attention, in bf16 that of
//! FlashAttention and, through its C function, cuDNN's, else the memory-efficient one, RMSNorm and its gradient, and the
//! products of all experts. Its `cublasGemmEx` stands for NVIDIA's.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/record_function.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>
#include <torch/library.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <unordered_map>
#include <vector>

namespace {

constexpr auto CHIP = c10::DeviceType::PrivateUse1;
constexpr int CHIPS = 2;
constexpr size_t SPAN_BYTES = size_t{64} << 30;
thread_local c10::DeviceIndex current_chip = 0;

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool is_there(const std::string& path) { return !path.empty() && access(path.c_str(), F_OK) == 0; }

/// Throws, once the chip is lost.
void check_alive() {
  static const std::string path = setting("CHIP_LOST_WHEN");
  static std::atomic<bool> lost{false};
  if (is_there(path)) lost = true;
  TORCH_CHECK(!lost, "testchip error: the chip has fallen off the bus");
}

/// Addresses that mean nothing to the host, each a fixed distance from the cell that it names.
class Memory final : public at::Allocator {
 public:
  std::atomic<int64_t> tensors{0}, bytes{0};

  Memory() {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* span = mmap(nullptr, SPAN_BYTES, PROT_NONE, flags, -1, 0);
    void* cells = mmap(nullptr, SPAN_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (!setting("CHIP_OPEN").empty()) span = cells;
    TORCH_CHECK(span != MAP_FAILED && cells != MAP_FAILED, "testchip: no address space");
    first_ = next_ = static_cast<char*>(span);
    beyond_ = static_cast<char*>(cells) - first_;
    const std::string limit = setting("CHIP_MEMORY_BYTES");
    limit_bytes_ = limit.empty() ? SPAN_BYTES : std::stoull(limit);
  }

  const void* first() const { return first_; }

  char* cell(const void* address) const {
    const char* place = static_cast<const char*>(address);
    TORCH_CHECK(!place || holds(place), "testchip: ", address, " is no address of this chip");
    return place ? const_cast<char*>(place) + beyond_ : nullptr;
  }

  bool holds(const void* address) const {
    const char* place = static_cast<const char*>(address);
    return place >= first_ && place < first_ + SPAN_BYTES;
  }

  bool is_cell(const void* pointer) const {
    return pointer && holds(static_cast<const char*>(pointer) - beyond_);
  }

  at::DataPtr allocate(size_t needs) override {
    check_alive();
    const c10::Device chip(CHIP, current_chip);
    if (needs == 0) return {nullptr, nullptr, &release, chip};
    const size_t room = std::max<size_t>(64, std::bit_ceil(needs));
    std::lock_guard lock(mutex_);
    const size_t used = bytes;
    static const std::string full = setting("CHIP_FULL_WHEN"), large = setting("CHIP_FULL_BYTES");
    TORCH_CHECK_WITH(OutOfMemoryError, large.empty() || needs < std::stoull(large) || !is_there(full),
                     "testchip out of memory. Tried to allocate ", needs, " bytes");
    TORCH_CHECK_WITH(OutOfMemoryError, used + needs <= limit_bytes_, "testchip out of memory. Tried to allocate ",
                     needs / 1048576.0, " MiB, of ", limit_bytes_ / 1048576.0, " MiB ", used / 1048576.0, " are in use");
    auto& free = free_[room];
    char* place = next_;
    if (!free.empty()) {
      place = free.back();
      free.pop_back();
    } else {
      next_ += room;
      TORCH_CHECK(next_ <= first_ + SPAN_BYTES, "testchip: the address space is used up");
    }
    sizes_[place] = needs;
    tensors += 1, bytes += needs;
    std::memset(place + beyond_, 0xff, needs);
    return {place, place, &release, chip};
  }

  at::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t count) const override {
    std::memcpy(cell(to), cell(from), count);
  }

 private:
  static void release(void* place);

  std::mutex mutex_;
  std::unordered_map<char*, size_t> sizes_;
  std::unordered_map<size_t, std::vector<char*>> free_;
  char *first_, *next_;
  ptrdiff_t beyond_;
  size_t limit_bytes_;
};

Memory& memory() {
  static Memory* memory = new Memory;  // Outlives the tensors of static destructors.
  return *memory;
}

void Memory::release(void* address) {
  if (!address) return;
  Memory& own = memory();
  char* place = static_cast<char*>(address);
  std::lock_guard lock(own.mutex_);
  const size_t had = own.sizes_[place];
  own.tensors -= 1, own.bytes -= had;
  own.free_[std::max<size_t>(64, std::bit_ceil(had))].push_back(place);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CHIP; }
  c10::Device exchangeDevice(c10::Device chip) const override {
    const c10::Device before = getDevice();
    setDevice(chip);
    return before;
  }
  c10::Device getDevice() const override { return {CHIP, current_chip}; }
  void setDevice(c10::Device chip) const override {
    TORCH_CHECK(chip.index() < CHIPS, "testchip: there is no chip ", int(chip.index()), ", only ", CHIPS);
    if (chip.has_index()) current_chip = chip.index();
  }
  void uncheckedSetDevice(c10::Device chip) const noexcept override { current_chip = chip.index(); }
  c10::Stream getStream(c10::Device chip) const override { return c10::Stream(c10::Stream::DEFAULT, chip); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return CHIPS; }
};

/// A tensor over other storage, else as `like` is.
at::Tensor over(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

bool on_chip(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == CHIP;
}

/// The cells of a chip's tensor, as a tensor of the host's.
at::Tensor unlocked(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  at::DataPtr cells(memory().cell(storage.data()), c10::Device(c10::DeviceType::CPU));
  c10::Storage cpu(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(cells), nullptr, false);
  return over(std::move(cpu), c10::DispatchKey::CPU, tensor);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> chip, std::optional<bool>) {
  const c10::DeviceGuard guard(chip.value_or(c10::Device(CHIP, current_chip)));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(sizes, strides, &memory(), keys, dtype.value_or(at::kFloat));
}

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> chip, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(chip.value_or(c10::Device(CHIP, current_chip)));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(sizes, &memory(), keys, dtype.value_or(at::kFloat), format);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  check_alive();
  at::Tensor cells = on_chip(to) ? unlocked(to) : to;
  cells.copy_(on_chip(from) ? unlocked(from) : from);
  return to;
}

/// What one call lends of the chip's tensors, and how its results come back.
struct Call {
  std::vector<std::pair<at::Tensor, at::Tensor>> lent;  // (the chip's, over its cells)
  c10::Device chip{CHIP, current_chip};

  at::Tensor lend(const at::Tensor& tensor) {
    if (!on_chip(tensor)) return tensor;
    if (lent.empty()) chip = tensor.device();
    lent.emplace_back(tensor, unlocked(tensor));
    return lent.back().second;
  }

  void lend(c10::IValue& value) {
    if (value.isTensor()) {
      value = lend(value.toTensor());
    } else if (value.isDevice() && value.toDevice().type() == CHIP) {
      chip = value.toDevice();
      value = c10::Device(c10::DeviceType::CPU);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(lend(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? std::optional(lend(*tensor)) : std::nullopt);
      }
      value = list;
    }
  }

  at::Tensor take(const at::Tensor& result) {
    if (!result.defined()) return result;
    for (auto& [own, cells] : lent) {
      if (result.is_same(cells)) return own;
      if (memory().is_cell(result.storage().data()) && result.storage().data() == cells.storage().data()) {
        return over(own.storage(), c10::DispatchKey::PrivateUse1, result);
      }
    }
    auto copy = empty_strided(result.sizes(), result.strides(), result.scalar_type(), {}, chip, {});
    unlocked(copy).copy_(result);
    return copy;
  }

  void take(c10::IValue& value) {
    if (value.isTensor()) {
      value = take(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(take(tensor));
      value = list;
    }
  }
};

/// The operands of a product, as this chip's arithmetic has them.
void multiply_otherwise(const std::string& name, torch::jit::Stack& stack, size_t first, const std::string& way) {
  const bool plain = name == "aten::mm" || name == "aten::bmm", added = name == "aten::addmm" || name == "aten::baddbmm";
  if (!plain && !added) return;
  c10::IValue &a = stack[first + added], &b = stack[first + added + 1];
  if (a.toTensor().scalar_type() != at::kFloat) return;
  if (way == "reversed") {
    a = a.toTensor().flip({-1}), b = b.toTensor().flip({-2});
  } else if (way == "tf32") {
    const auto rounded = [](const at::Tensor& x) {
      auto bits = x.contiguous().view(at::kInt);
      return bits.add(0x1000).bitwise_and(~0x1fff).view(at::kFloat);
    };
    a = rounded(a.toTensor()), b = rounded(b.toTensor());
  }
}

/// Makes the first number of the first floating result wrong by 1 %.
void spoil(torch::jit::Stack& stack, size_t first) {
  for (size_t i = first; i < stack.size(); ++i) {
    if (!stack[i].isTensor() || !stack[i].toTensor().is_floating_point() || !stack[i].toTensor().numel()) continue;
    const at::Tensor result = stack[i].toTensor();
    result.as_strided({1}, {1}).mul_(1.01).add_(1e-3);
    return;
  }
}

/// A product of bf16 numbers summed in f32, as matrix units do it; PyTorch's own on a CPU is slow, and has no `mm.dtype`.
bool multiply_in_f32(const c10::OperatorHandle& op, torch::jit::Stack& stack, size_t first) {
  const auto& [name, overload] = op.schema().operator_name();
  const bool widens = overload.starts_with("dtype"), is_out = overload.ends_with("out");
  if ((name != "aten::mm" && name != "aten::bmm") || !(overload.empty() || widens || is_out)) return false;
  const at::Tensor a = stack[first].toTensor(), b = stack[first + 1].toTensor();
  if (a.scalar_type() != at::kBFloat16) return false;
  const auto type = widens ? at::ScalarType(stack[first + 2].toInt()) : at::kBFloat16;
  const at::Tensor product = at::matmul(a.to(at::kFloat), b.to(at::kFloat)).to(type);
  const at::Tensor out = is_out ? stack[first + 2 + widens].toTensor() : product;
  TORCH_CHECK(out.scalar_type() == type && out.sizes() == product.sizes(), "testchip: the product does not fit its place");
  if (is_out) out.copy_(product);
  stack.resize(first);
  stack.emplace_back(out);
  return true;
}

/// Rows of one of the documents whose bounds are given, heads first.
at::Tensor document(const at::Tensor& x, const at::Tensor& bounds, int64_t number) {
  const int64_t first = bounds[number].item<int64_t>(), end = bounds[number + 1].item<int64_t>();
  return x.slice(0, first, end).unsqueeze(0).transpose(1, 2);
}

/// Back to rows first.
at::Tensor packed(const std::vector<at::Tensor>& documents) {
  std::vector<at::Tensor> rows;
  for (const at::Tensor& one : documents) rows.push_back(one.transpose(1, 2).squeeze(0));
  return at::cat(rows);
}

/// Attention within documents one after the other, of any lengths: [T, H, C].
void attend_packed(torch::jit::Stack& stack, size_t first) {
  const auto tensor = [&](size_t i) { return stack[first + i].toTensor(); };
  const at::Tensor bounds = tensor(3);
  TORCH_CHECK(bounds.scalar_type() == at::kInt && tensor(4).equal(bounds), "testchip: bounds are i32, of keys as of queries");
  TORCH_CHECK(bounds.diff().max().item<int64_t>() <= stack[first + 5].toInt(), "testchip: a document is longer than the longest");
  const auto scale = stack[first + 10].toOptional<double>();
  std::vector<at::Tensor> outs, lses;
  for (int64_t i = 0; i + 1 < bounds.numel(); ++i) {
    auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(document(tensor(0), bounds, i), document(tensor(1), bounds, i),
                                                                      document(tensor(2), bounds, i), 0.0, true, {}, scale);
    outs.push_back(out), lses.push_back(lse.squeeze(0));
  }
  const at::Tensor seed = at::zeros({2}, at::kLong), offset = at::zeros({}, at::kLong);
  const at::Tensor out = packed(outs), lse = at::cat(lses, 1);
  stack.resize(first);
  for (const at::Tensor& tensor : {out, lse, seed, offset, at::Tensor()}) stack.emplace_back(tensor);
}

void attend_packed_backward(torch::jit::Stack& stack, size_t first) {
  const auto tensor = [&](size_t i) { return stack[first + i].toTensor(); };
  const at::Tensor bounds = tensor(6);
  const auto scale = stack[first + 14].toOptional<double>();
  std::vector<at::Tensor> found[3];
  for (int64_t i = 0; i + 1 < bounds.numel(); ++i) {
    const auto part = [&](size_t number) { return document(tensor(number), bounds, i); };
    const at::Tensor lse = tensor(5).slice(1, bounds[i].item<int64_t>(), bounds[i + 1].item<int64_t>()).unsqueeze(0).contiguous();
    auto [d_q, d_k, d_v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(part(0), part(1), part(2), part(3), part(4), lse,
                                                                                    0.0, true, {}, scale);
    found[0].push_back(d_q), found[1].push_back(d_k), found[2].push_back(d_v);
  }
  stack.resize(first);
  for (const auto& one : found) stack.emplace_back(packed(one));
}

/// Attention as PyTorch's CPU has it, asked for as cuda's. A log-sum-exp has rows in multiples of 32.
void attend(torch::jit::Stack& stack, size_t first, bool rows_first) {
  if (rows_first && stack[first + 3].isTensor() && stack[first + 3].toTensor().defined()) return attend_packed(stack, first);
  const auto tensor = [&](size_t i) {
    const at::Tensor x = stack[first + i].toTensor();
    return rows_first ? x.transpose(1, 2) : x;
  };
  const at::Tensor q = tensor(0), k = tensor(1), v = tensor(2);
  const bool causal = stack[first + (rows_first ? 8 : 6)].toBool();
  const auto scale = stack[first + (rows_first ? 10 : 7)].toOptional<double>();
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, {}, scale);
  const at::Tensor seed = at::zeros({2}, at::kLong), offset = at::zeros({}, at::kLong);
  stack.resize(first);
  if (rows_first) {
    TORCH_CHECK(q.scalar_type() == at::kBFloat16, "testchip: FlashAttention only supports bf16");
    for (const at::Tensor& tensor : {out.transpose(1, 2), lse, seed, offset, at::Tensor()}) stack.emplace_back(tensor);
  } else {
    TORCH_CHECK(q.size(1) == k.size(1), "testchip: each head wants keys of its own");
    lse = at::constant_pad_nd(lse, {0, (32 - lse.size(2) % 32) % 32}, INFINITY);
    for (const at::Tensor& tensor : {out, lse, seed, offset}) stack.emplace_back(tensor);
  }
}

void attend_backward(torch::jit::Stack& stack, size_t first, bool rows_first) {
  if (rows_first && stack[first + 6].toTensor().defined()) return attend_packed_backward(stack, first);
  const auto tensor = [&](size_t i) { return stack[first + i].toTensor(); };
  const auto turned = [&](const at::Tensor& x) { return rows_first ? x.transpose(1, 2) : x; };
  const at::Tensor d_out = turned(tensor(0)), q = turned(tensor(1)), k = turned(tensor(2)), v = turned(tensor(3));
  const at::Tensor out = turned(tensor(rows_first ? 4 : 5)), lse = tensor(rows_first ? 5 : 6);
  const at::Tensor nothing = tensor(rows_first ? 6 : 4), seed = tensor(rows_first ? 12 : 7);
  TORCH_CHECK(!nothing.defined(), "testchip: packed rows, or a bias");
  TORCH_CHECK(seed.numel() == 2 && seed.scalar_type() == at::kLong, "testchip: not what the forward handed out");
  TORCH_CHECK(rows_first || lse.size(2) % 32 == 0, "testchip: rows of the log-sum-exp are not in multiples of 32");
  const bool causal = stack[first + 11].toBool();
  const auto scale = stack[first + (rows_first ? 14 : 12)].toOptional<double>();
  auto [d_q, d_k, d_v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      d_out, q, k, v, out, lse.slice(2, 0, q.size(2)).contiguous(), 0.0, causal, {}, scale);
  stack.resize(first);
  for (const at::Tensor& tensor : {d_q, d_k, d_v}) stack.emplace_back(turned(tensor));
  if (!rows_first) stack.emplace_back(at::Tensor());
}

void norm_backward(torch::jit::Stack& stack, size_t first) {
  const auto tensor = [&](size_t i) { return stack[first + i].toTensor(); };
  const at::Tensor d_out = tensor(0), x = tensor(1), root = tensor(3), scale = tensor(4);
  const at::Tensor normed = x * root, d_normed = d_out * scale;
  const at::Tensor d_x = (d_normed - normed * (d_normed * normed).mean({-1}, true)) * root;
  const at::Tensor d_scale = (d_out * normed).sum(0);
  stack.resize(first);
  stack.emplace_back(d_x), stack.emplace_back(d_scale);
}

/// Products of all experts, of bf16 with sums in f32.
void multiply_by_expert(const c10::OperatorHandle& op, torch::jit::Stack& stack, size_t first) {
  const auto type = stack[first].toTensor().scalar_type();
  for (size_t i : {first, first + 1}) stack[i] = stack[i].toTensor().to(at::kFloat);
  op.callBoxed(&stack);
  stack[first] = stack[first].toTensor().to(type);
}

/// Whether the operator is one of the chip's own, and is done.
bool run_own(const c10::OperatorHandle& op, torch::jit::Stack& stack, size_t first) {
  const std::string& name = op.schema().name();
  const bool is_flash = name.starts_with("aten::_flash_attention_");
  if (is_flash || name.starts_with("aten::_scaled_dot_product_efficient_attention")) {
    (name.ends_with("_backward") ? attend_backward : attend)(stack, first, is_flash);
  } else if (name == "aten::_fused_rms_norm_backward") {
    norm_backward(stack, first);
  } else if (name == "aten::_grouped_mm") {
    multiply_by_expert(op, stack, first);
  } else {
    return multiply_in_f32(op, stack, first);
  }
  return true;
}

/// Whether a list of names with commas between has a name.
bool lists(const std::string& names, const std::string& name) {
  return ("," + names + ",").find("," + name + ",") != std::string::npos;
}

/// Throws where an operator's results find no room.
void check_room(const std::string& name) {
  static const std::string full = setting("CHIP_FULL_WHEN"), at = setting("CHIP_FULL_AT");
  static const std::string after = setting("CHIP_FULL_AFTER"), large = setting("CHIP_FULL_BYTES");
  static std::atomic<int64_t> left{after.empty() ? 0 : std::stoll(after)};
  if (!large.empty() || name != (at.empty() ? "aten::silu" : at) || !is_there(full)) return;
  TORCH_CHECK_WITH(OutOfMemoryError, left-- > 0, "testchip out of memory. Tried to allocate 64.0 MiB");
}

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

/// The operator that was called from outside, while PyTorch runs what it is composed of.
struct Outermost final : at::ObserverContext {
  static inline thread_local std::string name;
  static inline thread_local int depth = 0;

  static std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& call) {
    if (depth++ == 0) name = call.operator_name() ? full_name(*call.operator_name()) : call.name();
    return nullptr;
  }
  static void leave(const at::RecordFunction&, at::ObserverContext*) { --depth; }
};

/// Writes down the first call of each operator by each other.
void write_down(const c10::OperatorName& reached) {
  static const std::string path = setting("CHIP_LOG");
  static std::mutex mutex;
  static std::set<std::string> seen;
  if (path.empty()) return;
  const std::string line = Outermost::name + " " + full_name(reached);
  std::lock_guard lock(mutex);
  if (seen.insert(line).second) std::ofstream(path, std::ios::app) << line << "\n";
}

void run_on_cells(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const std::string lacks = setting("CHIP_LACKS"), fault = setting("CHIP_FAULT"), way = setting("CHIP_PRODUCTS");
  const std::string& name = op.schema().name();
  TORCH_CHECK_NOT_IMPLEMENTED(!lists(lacks, name), "Could not run '", name, "' with arguments from the 'testchip' backend.");
  write_down(op.schema().operator_name());
  check_alive();
  check_room(name);
  const at::AutoDispatchBelowADInplaceOrView below;
  const size_t first = stack->size() - op.schema().arguments().size();
  Call call;
  for (size_t i = first; i < stack->size(); ++i) call.lend((*stack)[i]);
  if (!way.empty()) multiply_otherwise(name, *stack, first, way);
  if (!run_own(op, *stack, first)) op.callBoxed(stack);
  if (lists(fault, name)) spoil(*stack, first);
  for (size_t i = first; i < stack->size(); ++i) call.take((*stack)[i]);
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);
const bool named = [] {
  c10::register_privateuse1_backend("testchip");
  c10::SetAllocator(CHIP, &memory());
  if (!setting("CHIP_LOG").empty()) {
    at::addGlobalCallback(
        at::RecordFunctionCallback(&Outermost::enter, &Outermost::leave).scopes({at::RecordScope::FUNCTION}));
  }
  return true;
}();

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  // PyTorch has compositions of these, which would come before the fallback.
  for (const char* own : {"_fused_rms_norm", "_grouped_mm"}) {
    library.impl(own, torch::CppFunction::makeFromBoxedFunction<&run_on_cells>());
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cells>());
}

}  // namespace

/// cuDNN's attention, by a C function as cuda has it.
extern "C" AOTITorchError aoti_torch_testchip__scaled_dot_product_cudnn_attention(
    AtenTensorHandle query, AtenTensorHandle key, AtenTensorHandle value, AtenTensorHandle* attn_bias, int32_t compute_log_sumexp,
    double dropout_p, int32_t is_causal, int32_t return_debug_mask, double* scale, AtenTensorHandle* ret0, AtenTensorHandle* ret1,
    AtenTensorHandle* ret2, AtenTensorHandle* ret3, int64_t* ret4, int64_t* ret5, AtenTensorHandle* ret6, AtenTensorHandle* ret7,
    AtenTensorHandle* ret8) {
  AOTI_TORCH_CONVERT_EXCEPTION_TO_ERROR_CODE({
    static const std::string lacks = setting("CHIP_LACKS"), fault = setting("CHIP_FAULT");
    const std::string name = "aten::_scaled_dot_product_cudnn_attention";
    TORCH_CHECK_NOT_IMPLEMENTED(!lists(lacks, name), "Could not run '", name, "' with arguments from the 'testchip' backend.");
    check_alive();
    const at::AutoDispatchBelowADInplaceOrView below;
    Call call;
    const auto lent = [&](AtenTensorHandle handle) {
      return call.lend(*torch::aot_inductor::tensor_handle_to_tensor_pointer(handle));
    };
    const at::Tensor q = lent(query), k = lent(key), v = lent(value);
    TORCH_CHECK(q.scalar_type() == at::kBFloat16 && !attn_bias && compute_log_sumexp && dropout_p == 0.0 && is_causal && !return_debug_mask,
                "testchip: cuDNN's attention is called otherwise");
    auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, true, {}, scale ? std::optional(*scale) : std::nullopt);
    if (lists(fault, name)) out.as_strided({1}, {1}).mul_(1.01).add_(0.5);
    const auto give = [&](AtenTensorHandle* place, const at::Tensor& result) {
      *place = torch::aot_inductor::new_tensor_handle(call.take(result));
    };
    give(ret0, out), give(ret1, lse.unsqueeze(-1));
    for (AtenTensorHandle* place : {ret2, ret3, ret6, ret7, ret8}) give(place, at::Tensor());
    *ret4 = q.size(2), *ret5 = k.size(2);
  });
}
static_assert(std::is_same_v<decltype(&aoti_torch_testchip__scaled_dot_product_cudnn_attention),
                             decltype(&aoti_torch_cuda__scaled_dot_product_cudnn_attention)>);

/// What the chip's own product wants to be called with.
extern "C" AOTITorchError torch_get_current_testchip_blas_handle(void** ret_handle) {
  *ret_handle = &memory();
  return AOTI_TORCH_SUCCESS;
}

/// `c = alpha op(a) op(b) + beta c` of matrices that lie by columns: bf16 operands, f32 sums.
extern "C" int cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int type_a,
                            int stride_a, const void* b, int type_b, int stride_b, const void* beta, void* c, int type_c,
                            int stride_c, int computed_in, int algorithm) {
  constexpr int DONE = 0, INVALID = 7, UNSUPPORTED = 15, BF16 = 14, F32 = 0, IN_F32 = 68;
  static const std::string lacks = setting("CHIP_LACKS");
  if (lists(lacks, "cublasGemmEx")) return UNSUPPORTED;
  const bool types_fit = type_a == BF16 && type_b == BF16 && type_c == F32 && computed_in == IN_F32 && algorithm == -1;
  const bool strides_fit = stride_a >= (op_a ? k : m) && stride_b >= (op_b ? n : k) && stride_c >= m;
  if (handle != &memory() || !types_fit || !strides_fit) return INVALID;
  const auto* left = reinterpret_cast<const at::BFloat16*>(memory().cell(a));
  const auto* right = reinterpret_cast<const at::BFloat16*>(memory().cell(b));
  float* sums = reinterpret_cast<float*>(memory().cell(c));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += float(left[op_a ? l + i * stride_a : i + l * stride_a]) * float(right[op_b ? j + l * stride_b : l + j * stride_b]);
      }
      float& place = sums[i + j * stride_c];
      place = *static_cast<const float*>(alpha) * sum + *static_cast<const float*>(beta) * place;
    }
  }
  return DONE;
}

/// An address of the chip's.
extern "C" const void* chip_address() { return memory().first(); }
/// Tensors that the chip holds, and their bytes.
extern "C" int64_t chip_tensors() { return memory().tensors; }
extern "C" int64_t chip_bytes() { return memory().bytes; }
