// Work spread over torch's threads, with the fork and the join that ThreadSanitizer cannot see.
//
// Torch's threads wait for each other inside libgomp, which is not built for the sanitizer: without
// the marks below everything that one loop writes and the next reads would look like a race. With
// them a report is about two parts of the same loop. Elsewhere the marks are nothing.
#pragma once

#include "bindings.h"

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#else
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#endif

namespace ulmfit_fast {

// What the marks are tied to: of the process, as a thread must not read the loop before the mark.
inline char fork_mark = 0, join_mark = 0;

// Runs run(first, last) over pieces of 0 .. n - 1 that have at least grain numbers, on any thread.
template <typename Run>
void fork_join(int64_t n, int64_t grain, const Run& run) {
#if defined(__SANITIZE_THREAD__)
  grain = 1;  // small tests, too, are cut into as many pieces as there are threads
#endif
  const auto piece = [&run](int64_t first, int64_t last) {
    __tsan_acquire(&fork_mark);
    run(first, last);
    __tsan_release(&join_mark);
  };
  __tsan_release(&fork_mark);
  torch::stable::parallel_for(0, n, grain, piece);
  __tsan_acquire(&join_mark);
}

}  // namespace ulmfit_fast
