// What nvcc includes before every source: the CUDA language on the CPU.
// Function-space words vanish here; __global__, __shared__ and <<<...>>> are left for
// ../translate.py, which needs to see them in the preprocessed text.
#pragma once

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static
#define __managed__ static
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

#include "emulator/arithmetic.h"
#include "emulator/atomics.h"
#include "emulator/host_api.h"
#include "emulator/kernel.h"
#include "emulator/runtime.h"
#include "emulator/vector_types.h"
#include "emulator/warp.h"
