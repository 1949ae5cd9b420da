// stage on the GPU: one block writes what came with its parameters.
#include "stage.h"

extern "C" __global__ void __launch_bounds__(mixpipe::kStageThreads)
    stage(const mixpipe::StageParams params) {
#pragma unroll 1
  for (mixpipe::i32 i = (mixpipe::i32)threadIdx.x; i < params.count; i += mixpipe::kStageThreads)
    params.to[i] = params.words[i];
}
