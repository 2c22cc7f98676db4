// What the programs that run a case share: its buffers, and one result under all schedules.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "emulator.h"

namespace host {

[[noreturn]] inline void stop(const std::string& why) {
  std::printf("%s\n", why.c_str());
  std::exit(1);
}

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    stop(std::string(what) + ": error " + std::to_string(error) + ": " + last_error());
  }
}

// Exactly so many bytes, so that AddressSanitizer sees what is beyond; NaNs to begin with. They
// begin offset bytes after a multiple of 16.
class Buffer {
 public:
  explicit Buffer(size_t bytes, size_t offset = 0) : bytes_(bytes), offset_(offset) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, offset + bytes) != 0) std::abort();
    std::memset(memory, 0xff, offset + bytes);
    memory_.reset(static_cast<char*>(memory));
  }
  Buffer(size_t bytes, std::ifstream& file, size_t offset = 0) : Buffer(bytes, offset) {
    if (!file.read(as<char>(), static_cast<std::streamsize>(bytes))) std::abort();
  }
  Buffer copy() const {
    Buffer other(bytes_, offset_);
    std::memcpy(other.as<char>(), as<char>(), bytes_);
    return other;
  }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get() + offset_);
  }
  size_t bytes() const { return bytes_; }
  // Whether nobody wrote what is before the first byte.
  bool is_intact() const {
    for (size_t i = 0; i < offset_; ++i) {
      if (memory_.get()[i] != '\xff') return false;
    }
    return true;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  size_t bytes_, offset_;
  std::unique_ptr<char, Free> memory_;
};

template <typename T>
T read(std::ifstream& file) {
  T value{};
  if (!file.read(reinterpret_cast<char*>(&value), sizeof value)) stop("no case");
  return value;
}

// Runs the case of a file under several schedules, all of which have to give the same bits, and
// writes them: arguments are PROGRAM CASE RESULT FIRST_SEED N_SEEDS.
inline void run_schedules(char** arguments,
                          const std::function<std::string(std::ifstream& file)>& run) {
  const uint64_t first = std::stoull(arguments[3]), n = std::stoull(arguments[4]);
  std::string expected;
  for (uint64_t seed = first; seed < first + n; ++seed) {
    options().seed = seed;
    std::ifstream file(arguments[1], std::ios::binary);
    const std::string results = run(file);
    if (seed == first) expected = results;
    if (results != expected) stop("seed " + std::to_string(seed) + ": other bits");
  }
  std::ofstream(arguments[2], std::ios::binary) << expected;
}

}  // namespace host
