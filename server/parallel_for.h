// A loop whose iterations spread over an executor's threads.
#ifndef STRATA_SERVER_PARALLEL_FOR_H_
#define STRATA_SERVER_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>

#include "common/runtime/executor.h"

namespace strata::server {

// Calls body(i) for every i < count, each once, and returns when all have returned. The calling thread works too and
// waits only for iterations that have begun, so it may itself be a thread of the executor, even its only one. At most
// `num_threads` at a time.
void ParallelFor(runtime::Executor& executor, int num_threads, int64_t count, const std::function<void(int64_t)>& body);

}  // namespace strata::server

#endif  // STRATA_SERVER_PARALLEL_FOR_H_
