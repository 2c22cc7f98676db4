// Fibers, the schedule, barriers and meetings of warps.
#include "emulator.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "machine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace host {

Machine* machine = nullptr;
Thread* self = nullptr;

namespace {

Options chosen;
std::string error;

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 128 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;  // kernel arguments are up to 32 KB of it
#endif

// The scheduler's own stack.
void* scheduler_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_bottom = nullptr;
size_t scheduler_bytes = 0;
#endif
const std::function<void()>* body = nullptr;

// Saves the registers that a call preserves (System V ABI for x86-64, 3.2.1) and the stack pointer,
// and goes on where the other stack left off. swapcontext would call the kernel twice.
extern "C" void switch_stack(void** from, void* to);
asm(R"(
.text
.globl switch_stack
.type switch_stack, @function
switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

void to_scheduler([[maybe_unused]] bool for_ever) {
  Thread* const here = self;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake, scheduler_bottom, scheduler_bytes);
#endif
  switch_stack(&here->stack, scheduler_stack);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &scheduler_bottom, &scheduler_bytes);
#endif
}

extern "C" void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_bytes);
#endif
  (*body)();
  self->state = State::kDone;
  ++machine->n_done;
  to_scheduler(true);
  std::abort();
}

void prepare(Thread& thread, char* stack) {
  thread.stack_bottom = stack;
  auto** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // the stack is 8 off a multiple of 16 where a function begins
  *--top = reinterpret_cast<void*>(&fiber_main);
  top -= 6;
  std::memset(top, 0, 6 * sizeof(void*));
  thread.stack = top;
}

void resume(Thread& thread) {
  self = &thread;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, thread.stack_bottom, kStackBytes);
#endif
  switch_stack(&scheduler_stack, thread.stack);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Runs a warp's lanes in turn, until all of them wait or its time is over.
void run_warp(Warp& warp) {
  uint64_t turns = 1 + machine->draw(machine->patient ? 400 : 40);
  while (turns-- > 0) {
    bool ran = false;
    const int start = static_cast<int>(machine->draw(kLanes));
    for (int i = 0; i < kLanes; ++i) {
      Thread& lane = *warp.lanes[(start + i) % kLanes];
      if (lane.state != State::kReady) continue;
      ran = true;
      resume(lane);
      if (!error.empty()) return;
    }
    if (!ran) {
      warp.ready = false;
      return;
    }
  }
}

size_t pick() {
  Machine& m = *machine;
  size_t index = m.draw(m.ready.size());
  for (int tries = 0; tries < 16; ++tries) {
    const Warp& warp = *m.ready[index];
    const bool starved = m.policy == 1   ? warp.block->index == m.victim_block
                         : m.policy == 2 ? warp.block->index == m.victim_block && warp.index == 0
                         : m.policy == 3 ? warp.block->index != m.victim_block
                                         : false;
    if (!starved || m.draw(64) == 0) break;
    index = m.draw(m.ready.size());
  }
  return index;
}

}  // namespace

Options& options() { return chosen; }
const std::string& last_error() { return error; }

void fail(const std::string& why) {
  if (error.empty()) {
    error = why + " (block " + std::to_string(self->warp->block->index) + ", thread " +
            std::to_string(self->index) + ", seed " + std::to_string(chosen.seed) + ")";
  }
  to_scheduler(true);
  std::abort();
}

void wake(Thread& thread) {
  thread.state = State::kReady;
  Warp& warp = *thread.warp;
  if (warp.ready) return;
  warp.ready = true;
  machine->ready.push_back(&warp);
}

void wait_here(State state) {
  self->state = state;
  to_scheduler(false);
}

// Now and then somebody else's turn, in the middle of what this thread does.
void hesitate() {
  if (machine->draw(64) == 0) to_scheduler(false);
}

bool run(int n_blocks, int n_threads, size_t shared_bytes, const std::function<void()>& kernel) {
  error.clear();
  body = &kernel;
  Machine m(n_blocks, n_threads, shared_bytes, chosen.seed);
  machine = &m;
  settle();
  const size_t bytes = kStackBytes * m.threads.size();
  void* const stacks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) {
    error = "no memory for the stacks";
    return false;
  }
  for (size_t i = 0; i < m.threads.size(); ++i) {
    prepare(m.threads[i], static_cast<char*>(stacks) + i * kStackBytes);
    wake(m.threads[i]);
  }
  while (error.empty() && !m.ready.empty()) {
    const size_t index = pick();
    Warp* const warp = m.ready[index];
    run_warp(*warp);
    if (warp->ready) continue;
    m.ready[index] = m.ready.back();
    m.ready.pop_back();
  }
  if (error.empty() && m.n_done < m.threads.size()) error = "deadlock: " + m.standstill();
#if defined(__SANITIZE_ADDRESS__)
  // Fibers never return: the marks of their frames would be errors to the next launch's stacks.
  __asan_unpoison_memory_region(stacks, bytes);
#endif
  munmap(stacks, bytes);
  machine = nullptr;
  return error.empty();
}

int thread_index() { return self->index; }
int block_index() { return self->warp->block->index; }
int grid_size() { return static_cast<int>(machine->blocks.size()); }
char* shared_memory() { return self->warp->block->shared; }

void meet(Kind kind, void* operand, void (*finish)(void* const* operands)) {
  Warp& warp = *self->warp;
  if (warp.n_met == 0) warp.kind = kind;
  if (warp.kind != kind) fail("warp diverged: lanes are at different collectives");
  const int lane = self->index % kLanes;
  warp.operands[lane] = operand;
  if (++warp.n_met < kLanes) return wait_here(State::kMeeting);
  warp.n_met = 0;
  if (finish != nullptr) finish(warp.operands);
  for (Thread* other : warp.lanes) {
    if (other != self) wake(*other);
  }
}

void warp_sync() {
  if (chosen.mutation == "warp_sync") return;
  land_copies();
  meet(Kind::kSync, nullptr, [](void* const*) { join_clocks(*self->warp); });
}

bool warp_all(bool value) {
  bool all = value;
  meet(Kind::kAll, &all, [](void* const* operands) {
    bool result = true;
    for (int lane = 0; lane < kLanes; ++lane) result &= *static_cast<bool*>(operands[lane]);
    for (int lane = 0; lane < kLanes; ++lane) *static_cast<bool*>(operands[lane]) = result;
  });
  return all;
}

void sync(Barrier& barrier, size_t n_threads) {
  land_copies();
  barrier.waiting.push_back(self);
  if (barrier.waiting.size() < n_threads) return wait_here(State::kBarrier);
  std::vector<Thread*> together;
  together.swap(barrier.waiting);
  join_clocks(together);
  for (Thread* other : together) {
    if (other != self) wake(*other);
  }
  hesitate();
}

void block_sync() {
  if (chosen.mutation == "block_sync") return;
  Block& block = *self->warp->block;
  sync(block.barriers[0], block.n_threads);
}

void group_sync(int group, int n_threads) {
  if (chosen.mutation == "group_sync") return;
  if (group < 1 || group > 15 || n_threads % kLanes != 0) fail("group_sync: no such barrier");
  sync(self->warp->block->barriers[group], static_cast<size_t>(n_threads));
}

}  // namespace host
