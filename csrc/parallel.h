// A parallel loop for the CPU kernels.
#pragma once
#include <functional>

#include "common.h"

namespace mixpipe {

// Calls body(begin, end) over pieces that tile [0, count), on at most `threads` threads of which
// the caller is one. Returns when all are done. Pieces hold at least `grain` items. The body must
// not throw.
void parallel_for(i64 count, i64 grain, int threads, const std::function<void(i64, i64)>& body);

}  // namespace mixpipe
