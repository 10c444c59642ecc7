#include "model/compute.h"

#include <ATen/Parallel.h>
#include <malloc.h>

#include "model/kernels/blas.h"
#include "model/torch/buffer_pool.h"
#include "model/torch/compat.h"
#include "model/torch/sgemm.h"

namespace choir::model {

void ConfigureCompute(int threads) {
  // Work space of a few MiB comes and goes with every step: keep it in the
  // heap, instead of having the kernel map and clear it each time.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  PoolLargeTensors();
  SetFallbackSgemm(&TorchSgemm);
  SetBlasThreads(threads);
  at::set_num_threads(threads);
  // LibTorch lets this be set only once.
  static const bool once = [] {
    at::set_num_interop_threads(1);
    return true;
  }();
  (void)once;
  PrepareTrainingThread();
}

void PrepareTrainingThread() { at::globalContext().setFlushDenormal(true); }

}  // namespace choir::model
