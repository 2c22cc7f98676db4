// A multiprocessor made of fibers: every CUDA thread is one, all blocks of a launch run together, and
// who runs next is drawn from a seed. What a program may not rely on is withheld from it:
//
//   schedule   a lane runs until it has to wait, a warp for a random while; some seeds starve a warp
//              or a block, or let one block run far ahead.
//   warps      all 32 lanes have to meet at the same kind of collective.
//   cp.async   lands at the first barrier after the copy_wait that forces it; until then its 16 bytes
//              are 0xFF, a NaN. (The thread that copied would see it before the barrier; kernels that
//              use that are not known here.) Its source is read at once or on arrival, as the seed
//              says.
//   stores     to memory that blocks share (track()) are seen by another block only after it has
//              acquired a flag that was released after a block barrier after the store; before, it
//              reads what was there. Happens-before is kept in vector clocks: a count of events of
//              every block for every thread. A thread's own stores count as its block's, ordered by
//              barriers only. Flags are read as they are.
//   races      a store over what another block may still read, or has written, unordered.
//   deadlock   nobody can run.
//
// Source    PTX ISA 9.0, 8 (memory consistency model) and 9.7.9.25.3 (cp.async).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace host {

struct Options {
  uint64_t seed = 0;
  int n_multiprocessors = 132;
  size_t shared_limit = 232'448;
  // Breaks a primitive, for tests of the tests: "", "block_sync", "group_sync", "warp_sync" (do
  // nothing), "copy_wait" (one group too few), "warp_exchange" (another lane).
  std::string mutation;
};
Options& options();

// Why the last launch failed.
const std::string& last_error();

// Memory that blocks share while a kernel runs. It has to outlive the launches.
void track(void* memory, size_t bytes);
void untrack_all();
// What was stored there before a launch is seen by all its blocks; called for every launch.
void settle();

// Runs n_blocks blocks together; false if that failed.
bool run(int n_blocks, int n_threads, size_t shared_bytes, const std::function<void()>& body);

// ---- Called by fibers

enum class Kind { kNone, kSync, kAll, kExchange, kMultiply, kLoad };
// Meets the other lanes of the warp; the last to come calls finish with the 32 operands.
void meet(Kind kind, void* operand, void (*finish)(void* const* operands));

int thread_index();
int block_index();
int grid_size();
char* shared_memory();
void block_sync();
void group_sync(int group, int n_threads);
void warp_sync();
bool warp_all(bool value);
void copy_async(void* shared, const void* global);
void copy_commit();
void copy_wait(int n_pending);
void store(uint32_t* global, uint32_t value);
uint32_t load(const uint32_t* global);
void store_release(uint32_t* flag, uint32_t value);
uint32_t load_acquire(const uint32_t* flag);
uint32_t add_acquire_release(uint32_t* counter, uint32_t value);
// All lanes of a warp: until a flag that one of them has read last is released again.
void wait_for_flag();
[[noreturn]] void fail(const std::string& why);

}  // namespace host
