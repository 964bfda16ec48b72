// Random numbers of NumPy's default generator: the same seed gives the same stream in Python and here.
#pragma once

#include <array>
#include <cstdint>

namespace ctxrt::core {

// PCG-64 XSL-RR (O'Neill 2014, HMC-CS-2014-0905) seeded by NumPy's SeedSequence, as `numpy.random.default_rng(seed)`.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed);

  // From 0 to below 1, 53 bits.
  double uniform();

 private:
  __extension__ using Word = unsigned __int128;

  void step();

  Word state_ = 0, increment_ = 0;
};

}  // namespace ctxrt::core
