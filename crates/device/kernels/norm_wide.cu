// RMSNorm of the widest rows, and of those that lie anywhere: a block takes a row.

KERNEL(rms_norm_wide_f32, RmsNormArguments) { rms_norm<float, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_wide_bf16, RmsNormArguments) { rms_norm<bf16, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_ones_f32, RmsNormArguments) { rms_norm<float, THREADS, 4, 1>(a); }
KERNEL(rms_norm_ones_bf16, RmsNormArguments) { rms_norm<bf16, THREADS, 4, 1>(a); }
KERNEL(rms_norm_grad_wide_f32, RmsNormGradArguments) { rms_norm_grad<float, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_wide_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_ones_f32, RmsNormGradArguments) { rms_norm_grad<float, THREADS, 4, 1>(a); }
KERNEL(rms_norm_grad_ones_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, THREADS, 4, 1>(a); }
