// How this process computes: its threads, its arithmetic, its memory.
#ifndef CHOIR_MODEL_COMPUTE_H_
#define CHOIR_MODEL_COMPUTE_H_

namespace choir::model {

// Limits LibTorch and its BLAS to `threads` for this process, and makes tiny
// (denormal) numbers zero on the calling thread. Call once in main(), before
// any other thread starts; every further training thread calls
// PrepareTrainingThread() itself.
void ConfigureCompute(int threads);
void PrepareTrainingThread();

}  // namespace choir::model

#endif  // CHOIR_MODEL_COMPUTE_H_
