// RMSNorm of rows that lie on multiples of 16 bytes, with a thread for each chunk of a row.

KERNEL(rms_norm_8_f32, RmsNormArguments) { rms_norm<float, 8, 1, CHUNK>(a); }
KERNEL(rms_norm_8_bf16, RmsNormArguments) { rms_norm<bf16, 8, 1, CHUNK>(a); }
KERNEL(rms_norm_16_f32, RmsNormArguments) { rms_norm<float, 16, 1, CHUNK>(a); }
KERNEL(rms_norm_16_bf16, RmsNormArguments) { rms_norm<bf16, 16, 1, CHUNK>(a); }
KERNEL(rms_norm_32_f32, RmsNormArguments) { rms_norm<float, 32, 1, CHUNK>(a); }
KERNEL(rms_norm_32_bf16, RmsNormArguments) { rms_norm<bf16, 32, 1, CHUNK>(a); }
KERNEL(rms_norm_128_f32, RmsNormArguments) { rms_norm<float, 128, 1, CHUNK>(a); }
KERNEL(rms_norm_128_bf16, RmsNormArguments) { rms_norm<bf16, 128, 1, CHUNK>(a); }
KERNEL(rms_norm_256_f32, RmsNormArguments) { rms_norm<float, THREADS, 1, CHUNK>(a); }
KERNEL(rms_norm_256_bf16, RmsNormArguments) { rms_norm<bf16, THREADS, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_8_f32, RmsNormGradArguments) { rms_norm_grad<float, 8, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_8_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 8, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_16_f32, RmsNormGradArguments) { rms_norm_grad<float, 16, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_16_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 16, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_32_f32, RmsNormGradArguments) { rms_norm_grad<float, 32, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_32_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 32, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_128_f32, RmsNormGradArguments) { rms_norm_grad<float, 128, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_128_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 128, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_256_f32, RmsNormGradArguments) { rms_norm_grad<float, THREADS, 1, CHUNK>(a); }
KERNEL(rms_norm_grad_256_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, THREADS, 1, CHUNK>(a); }
