// What a thread sees of memory: asynchronous copies, and memory that blocks share.
#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "machine.h"

namespace host {
namespace {

constexpr size_t kLineBytes = 16;

// Of a word that blocks share: what was there before the last store, and who made that.
struct Word {
  uint32_t before = 0;
  uint32_t event = 0;
  int block = -1;
};

struct Flag {
  Clock clock;
  uint32_t version = 0;
  std::vector<Warp*> watchers;
};

struct Region {
  char* first;
  size_t bytes;
  std::vector<Word> words;
  // The last event in which each block read a line, [lines][blocks].
  std::vector<uint32_t> reads;
};

std::map<const char*, Region> regions;  // by their first byte
std::unordered_map<const uint32_t*, Flag> flags;

Region* region_of(const void* address) {
  const auto* at = static_cast<const char*>(address);
  auto next = regions.upper_bound(at);
  if (next == regions.begin()) return nullptr;
  Region& region = std::prev(next)->second;
  return at < region.first + region.bytes ? &region : nullptr;
}

uint32_t* last_reads(Region& region, size_t offset) {
  return region.reads.data() + offset / kLineBytes * machine->blocks.size();
}

// Reads n words of one line as this thread may see them.
void read(Region& region, const char* from, size_t n, void* to) {
  const size_t offset = from - region.first;
  Block& block = *self->warp->block;
  last_reads(region, offset)[block.index] = ++block.n_events;
  auto* out = static_cast<char*>(to);
  for (size_t i = 0; i < n; ++i) {
    const Word& word = region.words[offset / 4 + i];
    const bool seen = word.block < 0 || self->clock[word.block] >= word.event;
    std::memcpy(out + 4 * i, seen ? from + 4 * i : reinterpret_cast<const char*>(&word.before), 4);
  }
}

void read_line(const char* from, void* to) {
  if (Region* region = region_of(from)) {
    read(*region, from, 4, to);
  } else {
    std::memcpy(to, from, kLineBytes);
  }
}

void wake_from_flag(Warp& warp) {
  for (Thread* lane : warp.lanes) {
    if (lane->state == State::kFlag) wake(*lane);
  }
}

void join(Clock& clock, const Clock& other) {
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

}  // namespace

void track(void* memory, size_t bytes) {
  auto* first = static_cast<char*>(memory);
  regions[first] = {first, bytes, {}, {}};
}

void untrack_all() { regions.clear(); }

void settle() {
  flags.clear();
  for (auto& [first, region] : regions) {
    region.words.assign((region.bytes + 3) / 4, {});
    region.reads.assign((region.bytes + kLineBytes - 1) / kLineBytes * machine->blocks.size(), 0);
  }
}

void join_clocks(const std::vector<Thread*>& threads) {
  Clock all = threads[0]->clock;
  for (const Thread* thread : threads) join(all, thread->clock);
  const Block& block = *threads[0]->warp->block;
  if (threads.size() == block.n_threads) all[block.index] = block.n_events;
  for (Thread* thread : threads) thread->clock = all;
}

void join_clocks(Warp& warp) {
  Clock all = warp.lanes[0]->clock;
  for (const Thread* thread : warp.lanes) join(all, thread->clock);
  for (Thread* thread : warp.lanes) thread->clock = all;
}

void copy_async(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16) {
    fail("cp.async: unaligned");
  }
  Copy copy{static_cast<char*>(shared), static_cast<const char*>(global), self->n_groups, {}};
  if (machine->reads_at_issue) read_line(copy.from, copy.read.data());
  std::memset(shared, 0xff, kLineBytes);
  self->copies.push_back(copy);
  hesitate();
}

void copy_commit() {
  ++self->n_groups;
  hesitate();
}

void copy_wait(int n_pending) {
  const int pending = n_pending + (options().mutation == "copy_wait" ? 1 : 0);
  const int64_t done = int64_t{self->n_groups} - pending;  // groups before this one have to be here
  auto& copies = self->copies;
  auto late = copies.begin();
  for (; late != copies.end() && int64_t{late->group} < done; ++late) {
    if (!machine->reads_at_issue) read_line(late->from, late->read.data());
    self->arrived.push_back(*late);
  }
  copies.erase(copies.begin(), late);
  hesitate();
}

void land_copies() {
  for (const Copy& copy : self->arrived) std::memcpy(copy.to, copy.read.data(), kLineBytes);
  self->arrived.clear();
}

void store(uint32_t* global, uint32_t value) {
  Region* region = region_of(global);
  if (region == nullptr) fail("store for others outside the memory that blocks share");
  const size_t offset = reinterpret_cast<char*>(global) - region->first;
  Block& block = *self->warp->block;
  const uint32_t* reads = last_reads(*region, offset);
  for (size_t other = 0; other < machine->blocks.size(); ++other) {
    if (reads[other] > self->clock[other]) {
      fail("race: overwrites what block " + std::to_string(other) + " may still read");
    }
  }
  Word& word = region->words[offset / 4];
  if (word.block >= 0 && word.block != block.index && self->clock[word.block] < word.event) {
    fail("race: overwrites what block " + std::to_string(word.block) + " stores");
  }
  word = {*global, ++block.n_events, block.index};
  *global = value;
}

uint32_t load(const uint32_t* global) {
  Region* region = region_of(global);
  if (region == nullptr) return *global;
  uint32_t value;
  read(*region, reinterpret_cast<const char*>(global), 1, &value);
  return value;
}

void store_release(uint32_t* flag, uint32_t value) {
  Flag& state = flags[flag];
  state.clock = self->clock;
  ++state.version;
  *flag = value;
  for (Warp* watcher : state.watchers) wake_from_flag(*watcher);
  state.watchers.clear();
  hesitate();
}

uint32_t load_acquire(const uint32_t* flag) {
  hesitate();
  Flag& state = flags[flag];
  if (!state.clock.empty()) join(self->clock, state.clock);
  self->flag = flag;
  self->version = state.version;
  return *flag;
}

uint32_t add_acquire_release(uint32_t* counter, uint32_t value) {
  const uint32_t before = load_acquire(counter);
  store_release(counter, before + value);
  return before;
}

void wait_for_flag() {
  Warp& warp = *self->warp;
  if (++warp.n_at_flag < kLanes) return wait_here(State::kFlag);
  warp.n_at_flag = 0;
  for (const Thread* lane : warp.lanes) {
    if (lane->flag == nullptr) fail("a wait for no flag");
    if (flags[lane->flag].version != lane->version) {
      wake_from_flag(warp);
      return hesitate();
    }
  }
  for (const Thread* lane : warp.lanes) {
    std::vector<Warp*>& watchers = flags[lane->flag].watchers;
    if (watchers.empty() || watchers.back() != &warp) watchers.push_back(&warp);
  }
  wait_here(State::kFlag);
}

}  // namespace host
