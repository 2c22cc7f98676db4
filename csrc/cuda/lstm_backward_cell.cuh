// The cell of the backward kernel: what it reads of a time step, and the gradient of two units.
#pragma once

#include "lstm_sequence.cuh"

namespace ulmfit_fast {

// Where two units of a row are in a time step, in words of two: of [B, H], and of [B, 4H] for gate i.
struct At {
  uint32_t state, gates, half_H;

  DEVICE At(int row, int unit, uint32_t H)
      : state((row * H + unit) / 2), gates(row * 2 * H + unit / 2), half_H(H / 2) {}
};

// The cell's gradient of a unit: dc becomes that of the cell state before the step.
DEVICE Gates differentiate(const Gates& gate, float c, float c_before, float dh, float& dc) {
  const float i = gate.value[0], f = gate.value[1], g = gate.value[2], o = gate.value[3];
  const float tanh_c = tanh_of(c);
  const float dc_here = dc + dh * o * (1.0f - tanh_c * tanh_c);
  dc = dc_here * f;
  return {{dc_here * g * i * (1.0f - i), dc_here * c_before * f * (1.0f - f),
           dc_here * i * (1.0f - g * g), dh * tanh_c * o * (1.0f - o)}};
}

// A time step's part of what forward saved.
struct Slot {
  int64_t words;  // before it, in [T, B, H]
  const uint32_t *gates, *dy;
  const Two *c, *c_before;

  DEVICE Slot(const LstmSequenceBackward& p, int t, int64_t slot_words, bool begins)
      : words(t * slot_words),
        gates(static_cast<const uint32_t*>(p.gates) + 4 * words),
        dy(static_cast<const uint32_t*>(p.dy) + words),
        c(reinterpret_cast<const Two*>(p.cells) + words),
        c_before(begins ? reinterpret_cast<const Two*>(p.c0)
                        : c + (p.reverse ? slot_words : -slot_words)) {}

  DEVICE void prefetch_cell(const At& at) const {
#pragma unroll
    for (int g = 0; g < 4; ++g) prefetch(gates + at.gates + g * at.half_H);
    prefetch(dy + at.state);
    prefetch(c_before + at.state);  // c was that of the step before
  }
};

// What a thread needs of two units of a row in a time step.
struct Cell {
  uint32_t gate[4], dy;
  Two c, c_before, dc, dh;
  bool runs;

  DEVICE void load(const LstmSequenceBackward& p, const Slot& slot, const At& at, bool runs_here) {
    runs = runs_here;
    dh = reinterpret_cast<const Two*>(p.dh)[at.state];
    if (!runs) return;
#pragma unroll
    for (int g = 0; g < 4; ++g) gate[g] = slot.gates[at.gates + g * at.half_H];
    dy = slot.dy[at.state];
    c = slot.c[at.state];
    c_before = slot.c_before[at.state];
  }
  template <typename T>
  DEVICE void differentiate_pair(Gates (&da)[2]) {
    Gates a[2];
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      a[0].value[g] = first_of<T>(gate[g]);
      a[1].value[g] = second_of<T>(gate[g]);
    }
    da[0] = differentiate(a[0], c.first, c_before.first, dh.first + first_of<T>(dy), dc.first);
    da[1] = differentiate(a[1], c.second, c_before.second, dh.second + second_of<T>(dy), dc.second);
  }
};

}  // namespace ulmfit_fast
