// CHOIR_KERNEL before a function: one binary, compiled for several processors,
// of which the loader picks the best.
#ifndef CHOIR_BASE_PROCESSOR_CLONES_H_
#define CHOIR_BASE_PROCESSOR_CLONES_H_

// The loader picks before ThreadSanitizer is ready, which would crash there.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(CHOIR_TSAN)
#define CHOIR_KERNEL \
  __attribute__((    \
      target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define CHOIR_KERNEL
#endif

#endif  // CHOIR_BASE_PROCESSOR_CLONES_H_
