// Memory that a call needs and nobody sees, kept for the next call.
//
// Allocators give large blocks back to the system at once, and the system makes their pages anew at
// the next call: at T 70, B 64, H 1152 in float32 the panels and da are 125 MB, 30,000 page faults
// and some 60 ms of the system's time (AMD EPYC, 2026-11-24). MKL and oneDNN keep theirs too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulmfit_fast {

// The right to the process's scratch memory, for the life of a call. A second call at the same time
// has memory of its own, which it gives back.
class Scratch {
 public:
  // No phase of a call reads more than two matrices as panels, and gates and their gradients, where
  // both are scratch, belong to different calls: so three parts are enough.
  enum Part { kPanels, kMorePanels, kGates, kNumParts };

  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least so many bytes, aligned to a page, holding anything; a second call for the same part
  // ends the life of the first's. Throws std::bad_alloc.
  void* part(Part part, std::size_t bytes);

 private:
  struct Parts;
  Parts* parts_;
  bool shared_;
  friend int64_t fill_scratch(int64_t byte);
  friend int64_t release_scratch();
};

// Tests: sets every byte of the kept memory; returns how many there are.
int64_t fill_scratch(int64_t byte);

// Gives the kept memory back; returns how many bytes that were.
int64_t release_scratch();

#if defined(__SANITIZE_ADDRESS__)
// Tests: reads the byte behind a part, which the sanitizer must notice.
int64_t read_behind_scratch();
#endif

}  // namespace ulmfit_fast
