#include "scratch.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace ulmfit_fast {
namespace {

// Makes what lies behind the first bytes of kept memory an error to touch, where a sanitizer runs:
// otherwise an overrun would find the rest of an earlier, larger call.
void allow_only([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes,
                [[maybe_unused]] std::size_t kept) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(data, bytes);
  __asan_poison_memory_region(static_cast<char*>(data) + bytes, kept - bytes);
#endif
}

}  // namespace

struct Scratch::Parts {
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
  };
  Block blocks[kNumParts];
  std::mutex used;

  int64_t release() {
    int64_t released = 0;
    for (Block& block : blocks) {
      std::free(block.data);
      released += static_cast<int64_t>(block.bytes);
      block = {};
    }
    return released;
  }
  ~Parts() { release(); }

  // Never destroyed: a call may still run while the process ends.
  static Parts& of_process() {
    static Parts* parts = new Parts;
    return *parts;
  }
};

Scratch::Scratch() : parts_(&Parts::of_process()), shared_(parts_->used.try_lock()) {
  if (!shared_) parts_ = new Parts;
}

Scratch::~Scratch() {
  if (shared_) {
    parts_->used.unlock();
  } else {
    delete parts_;
  }
}

void* Scratch::part(Part part, std::size_t bytes) {
  constexpr std::size_t kPage = 4096;
  Parts::Block& block = parts_->blocks[part];
  if (bytes > block.bytes) {
    std::free(block.data);
    block = {};
    const std::size_t rounded = (bytes + kPage - 1) / kPage * kPage;
    block.data = std::aligned_alloc(kPage, rounded);
    if (block.data == nullptr) throw std::bad_alloc();
    block.bytes = rounded;
  }
  allow_only(block.data, bytes, block.bytes);
  return block.data;
}

int64_t fill_scratch(int64_t byte) {
  Scratch scratch;
  int64_t filled = 0;
  for (Scratch::Parts::Block& block : scratch.parts_->blocks) {
    if (block.bytes > 0) {
      allow_only(block.data, block.bytes, block.bytes);
      std::memset(block.data, static_cast<int>(byte), block.bytes);
    }
    filled += static_cast<int64_t>(block.bytes);
  }
  return filled;
}

int64_t release_scratch() {
  Scratch scratch;
  return scratch.parts_->release();
}

#if defined(__SANITIZE_ADDRESS__)
int64_t read_behind_scratch() {
  Scratch scratch;
  scratch.part(Scratch::kPanels, 4096);  // an earlier call that needed more
  return *(static_cast<volatile char*>(scratch.part(Scratch::kPanels, 64)) + 64);
}
#endif

}  // namespace ulmfit_fast
