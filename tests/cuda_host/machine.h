// What emulator.cpp (who runs) and memory.cpp (who sees what) share.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "emulator.h"

namespace host {

constexpr int kLanes = 32;

enum class State { kReady, kMeeting, kBarrier, kFlag, kDone };
// For every block, how many of its events happened before.
using Clock = std::vector<uint32_t>;

struct Copy {
  char* to;
  const char* from;
  uint32_t group;
  std::array<char, 16> read;  // at issue, if the seed says so
};

struct Block;
struct Warp;

struct Thread {
  void* stack = nullptr;
  const char* stack_bottom = nullptr;
  State state = State::kReady;
  int index = 0;
  Warp* warp = nullptr;
  Clock clock;
  std::vector<Copy> copies;
  std::vector<Copy> arrived;  // waited for, but not yet with a barrier
  uint32_t n_groups = 0;
  const uint32_t* flag = nullptr;  // the last one read, and its version then
  uint32_t version = 0;
};

struct Warp {
  Block* block = nullptr;
  int index = 0;
  bool ready = false;
  int n_met = 0;
  int n_at_flag = 0;
  Kind kind = Kind::kNone;
  void* operands[kLanes] = {};
  Thread* lanes[kLanes] = {};
};

struct Barrier {
  std::vector<Thread*> waiting;
};

struct Block {
  int index = 0;
  size_t n_threads = 0;
  uint32_t n_events = 0;
  char* shared = nullptr;
  Barrier barriers[16];
};

struct Machine {
  std::vector<Block> blocks;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  std::vector<Warp*> ready;
  size_t n_done = 0;
  uint64_t random;
  int policy, victim_block;
  bool patient, reads_at_issue;

  Machine(int n_blocks, int n_threads, size_t shared_bytes, uint64_t seed)
      : blocks(n_blocks), warps(size_t(n_blocks) * n_threads / kLanes), random(seed) {
    threads.resize(size_t(n_blocks) * n_threads);
    policy = static_cast<int>(draw(4));
    victim_block = static_cast<int>(draw(n_blocks));
    patient = draw(2) == 0;
    reads_at_issue = draw(2) == 0;
    const size_t warps_of_block = n_threads / kLanes;
    for (size_t b = 0; b < blocks.size(); ++b) {
      blocks[b].index = static_cast<int>(b);
      blocks[b].n_threads = n_threads;
      // Of exactly that size, so that AddressSanitizer sees what is beyond.
      if (posix_memalign(reinterpret_cast<void**>(&blocks[b].shared), 128, shared_bytes) != 0) {
        std::abort();
      }
      for (size_t i = 0; i < shared_bytes; ++i) blocks[b].shared[i] = '\xff';
    }
    for (size_t i = 0; i < threads.size(); ++i) {
      Warp& warp = warps[i / kLanes];
      warp.block = &blocks[i / n_threads];
      warp.index = static_cast<int>(i / kLanes % warps_of_block);
      warp.lanes[i % kLanes] = &threads[i];
      threads[i].warp = &warp;
      threads[i].index = static_cast<int>(i % n_threads);
      threads[i].clock.assign(n_blocks, 0);
    }
  }
  ~Machine() {
    for (Block& block : blocks) std::free(block.shared);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // A number below n. Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
  // generators" (SplitMix64).
  uint64_t draw(uint64_t n) {
    uint64_t z = (random += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return ((z ^ (z >> 31)) >> 16) % n;
  }

  std::string standstill() const {
    std::array<int, 5> counts{};
    for (const Thread& thread : threads) ++counts[static_cast<size_t>(thread.state)];
    return std::to_string(counts[1]) + " threads wait for their warp, " +
           std::to_string(counts[2]) + " at a barrier, " + std::to_string(counts[3]) +
           " for a flag, " + std::to_string(counts[4]) + " have ended";
  }
};

extern Machine* machine;
extern Thread* self;

void wake(Thread& thread);
void wait_here(State state);
void hesitate();
// Puts what has arrived where others see it.
void land_copies();
// Everybody who met knows what one of them knew, and what their block has done where all of it met.
void join_clocks(const std::vector<Thread*>& threads);
void join_clocks(Warp& warp);

}  // namespace host
