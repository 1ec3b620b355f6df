/* The table of scoring kernels: one row per instruction set, best first. */
#include "internal.h"

extern scan_function edgeface_scan_scalar, edgeface_scan_avx2, edgeface_scan_avxvnni,
    edgeface_scan_avx512, edgeface_scan_avx512vnni, edgeface_scan_neon, edgeface_scan_neondot;

static const edgeface_kernel kernels[] = {
#if defined(__x86_64__)
    {EDGEFACE_AVX512VNNI, edgeface_scan_avx512vnni, 16, 127, 0},
    {EDGEFACE_AVX512, edgeface_scan_avx512, 16, 63, 0},
#ifdef EDGEFACE_HAVE_AVXVNNI
    {EDGEFACE_AVXVNNI, edgeface_scan_avxvnni, 8, 127, 0},
#endif
    {EDGEFACE_AVX2, edgeface_scan_avx2, 8, 63, 0},
#elif defined(__aarch64__)
    {EDGEFACE_NEONDOT, edgeface_scan_neondot, 4, 127, 1},
    {EDGEFACE_NEON, edgeface_scan_neon, 4, 127, 1},
#endif
    {EDGEFACE_SCALAR, edgeface_scan_scalar, 4, 127, 1},
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

const edgeface_kernel *edgeface_find_kernel(const char *name) {
    const edgeface_instructions set = edgeface_find_instructions(name);
    for (size_t i = 0; i < KERNELS; i++)
        if (kernels[i].instructions == set) return &kernels[i];
    return NULL;
}

const char *edgeface_kernel_name(const edgeface_kernel *kernel) {
    return edgeface_instructions_name(kernel->instructions);
}

const char *edgeface_compiled_kernel(size_t index) {
    return index < KERNELS ? edgeface_instructions_name(kernels[index].instructions) : NULL;
}
