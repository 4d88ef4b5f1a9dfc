"""Proves the test chip without Lingot: prove.py CHIP.so, where torch can be imported."""
import ctypes, signal, subprocess, sys, types
import torch

library = sys.argv[1]
torch.ops.load_library(library)
# Python wants a module of a maker; the C functions do not.
torch._register_device_module("testchip", types.SimpleNamespace(_lazy_init=lambda: None, is_initialized=lambda: True))
chip = ctypes.CDLL(library)
torch.set_grad_enabled(False)

a, b = torch.randn(5, 7), torch.randn(7, 3)
there = a.to("testchip:1")
assert str(there.device) == "testchip:1", there.device
assert torch.equal((there @ b.to("testchip:1")).cpu(), a @ b)
view = there.t()[2:5]
view.mul_(2)
a.t()[2:5].mul_(2)
assert torch.equal(there.cpu(), a), "a view that is written to is the tensor"
values, order = torch.sort(there.flatten(), stable=True)
assert torch.equal(order.cpu(), torch.sort(a.flatten(), stable=True)[1])
assert torch.empty(9, device="testchip").cpu().isnan().all(), "fresh memory is NaN"
del there, view, values, order
assert chip.chip_tensors() == 0, chip.chip_tensors()

if len(sys.argv) == 2:
    died = subprocess.run([sys.executable, sys.argv[0], library, "touch"], capture_output=True).returncode
    assert died == -signal.SIGSEGV, died
    print("the test chip computes, and its memory cannot be touched from the host")
else:
    ctypes.string_at(torch.ones(4, device="testchip").data_ptr(), 4)
