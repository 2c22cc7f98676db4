#include "scratch.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

namespace ulmfit_fast {

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
  return block.data;
}

int64_t fill_scratch(int64_t byte) {
  Scratch scratch;
  int64_t filled = 0;
  for (Scratch::Parts::Block& block : scratch.parts_->blocks) {
    if (block.bytes > 0) std::memset(block.data, static_cast<int>(byte), block.bytes);
    filled += static_cast<int64_t>(block.bytes);
  }
  return filled;
}

int64_t release_scratch() {
  Scratch scratch;
  return scratch.parts_->release();
}

}  // namespace ulmfit_fast
